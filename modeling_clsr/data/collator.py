"""Rows to padded batches: the inputs of `CLSRModel.forward` and what its losses need beside them.

Enters: items of `training.rows.SpeechRows`. Leaves: dictionaries of tensors.
"""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .manifest import Row


@dataclass
class Item:
    """One row as the dataset hands it out.

    Attributes:
        row: of the manifest.
        index: of the row in its data set.
        epoch: that it was drawn in.
        waveform: (S,) float32, None where states or a recognised transcript stand for the audio.
        question_waveform: (S,) of a spoken question.
        states: (F, H) cached states of the speech encoder.
        recognised: cached transcript of the frozen recogniser.
        teacher: targets of self-distillation, see `training.teacher`.
        teacher_vectors: (2, D) a text retriever's vectors of question and transcript.
    """

    row: Row
    index: int = 0
    epoch: int = 0
    waveform: Any = None
    question_waveform: Any = None
    states: Tensor | None = None
    recognised: str | None = None
    teacher: dict[str, Tensor] | None = None
    teacher_vectors: Tensor | None = None


@dataclass
class Collator:
    """Make batches.

    Args:
        processor: CLSRProcessor of the model.
        transcript_tokenizer: for the recognition loss: the recogniser's own, or the text encoder's for a parallel
            recogniser; None leaves transcripts out.
        leading_space: whether the recogniser writes a space before the first word (byte-level BPE).
        questions: whether rows have questions.
        passages: which text stands for a clip: "transcript" (true), "recognised", or None.
        mask_features: masks a log-mel (M, T) by a key (`augmentation.mask_features`), or None.
        seed: of the keys.
    """

    processor: Any
    transcript_tokenizer: Any = None
    leading_space: bool = False
    questions: bool = True
    passages: str | None = None
    mask_features: Any = None
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Collate B items."""
        batch: dict[str, Tensor] = {}
        if self.questions:
            batch |= self._questions(items)
        if items[0].waveform is not None:
            batch |= self.processor(
                audio=[item.waveform for item in items], sampling_rate=self._sampling_rate()
            )
            if self.mask_features is not None:
                self._mask(batch, items)
        elif items[0].states is not None:
            states = [item.states for item in items]
            batch["speech_states"] = pad_sequence(states, batch_first=True)  # type: ignore[arg-type]
            batch["speech_mask"] = _mask([len(entry) for entry in states])  # type: ignore[arg-type]
        if self.transcript_tokenizer is not None:
            batch |= self._transcripts([item.row.transcript or "" for item in items])
        if self.passages is not None:
            texts = [
                (item.recognised if self.passages == "recognised" else item.row.transcript) or "."
                for item in items
            ]
            tokens = self._tokens(texts)
            batch |= {"passage_ids": tokens["input_ids"], "passage_mask": tokens["attention_mask"]}
        batch["row_index"] = torch.tensor([item.index for item in items])
        batch["context_groups"] = torch.tensor([group_of(item.row) for item in items])
        if items[0].teacher is not None:
            batch |= _teacher_targets([item.teacher for item in items])  # type: ignore[misc]
        if items[0].teacher_vectors is not None:
            vectors = torch.stack([item.teacher_vectors for item in items])  # type: ignore[misc]
            batch |= {"teacher_text_embeds": vectors[:, 0], "teacher_passage_embeds": vectors[:, 1]}
        return batch

    def _mask(self, batch: dict[str, Tensor], items: Sequence[Item]) -> None:
        """Mask each clip's own frames; features (B, M, T) of Whisper, else (B, T, M)."""
        time_first = batch["input_features"].shape[1] == batch["feature_attention_mask"].shape[1]
        for row, item in enumerate(items):
            length = int(batch["feature_attention_mask"][row].sum())
            whole = batch["input_features"][row]
            clip = whole[:length].T if time_first else whole[:, :length]
            masked = self.mask_features(clip, (self.seed, item.epoch, item.index))
            clip.copy_(masked)

    def _questions(self, items: Sequence[Item]) -> dict[str, Tensor]:
        if items[0].question_waveform is not None:
            spoken = self.processor(
                audio=[item.question_waveform for item in items], sampling_rate=self._sampling_rate()
            )
            return {
                "question_features": spoken["input_features"],
                "question_attention_mask": spoken["feature_attention_mask"],
            }
        return dict(self._tokens([item.row.question for item in items]))  # type: ignore[misc]

    def _tokens(self, texts: list[str]):
        return self.processor(text=texts, truncation=True)

    def _transcripts(self, texts: list[str]) -> dict[str, Tensor]:
        lead = " " if self.leading_space else ""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Token indices sequence length"
            )  # clips bound it already
            rows = [
                torch.tensor(
                    self.transcript_tokenizer(lead + text, add_special_tokens=False)["input_ids"]
                ).long()
                for text in texts
            ]
        return {
            "transcript_ids": pad_sequence(rows, batch_first=True),
            "transcript_mask": _mask([len(row) for row in rows]).long(),
        }

    def _sampling_rate(self) -> int:
        return self.processor.feature_extractor.sampling_rate


def group_of(row: Row) -> int:
    """Return a number for the row's passage, the same in every process; -1 for none."""
    return -1 if row.context_id is None else zlib.crc32(row.context_id.encode())


def _mask(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def _teacher_targets(targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad the targets of self-distillation, see `training.teacher`."""
    padded = {name: pad_sequence([entry[name] for entry in targets], batch_first=True) for name in targets[0]}
    tokens = [len(entry["token_ids"]) for entry in targets]
    return {
        "teacher_states": padded["states"].float(),
        "teacher_states_mask": _mask([len(entry["states"]) for entry in targets]),
        "teacher_best_ids": padded["best_ids"].long(),
        "teacher_log_probs": padded["log_probs"].float(),
        "teacher_mask": _mask([len(entry["best_ids"]) for entry in targets]),
        "transcript_ids": padded["token_ids"].long(),
        "transcript_mask": _mask(tokens).long(),
    }
