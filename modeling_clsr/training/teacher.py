"""Self-distillation: Whisper in its full window teaches itself at true length (as futo-org/whisper-acft).

Enters: waveforms. Leaves: for each the teacher's encoder states, tokens and token distributions; no transcripts needed.
"""

from typing import Any

import torch
from torch import Tensor

from ..decoding_clsr import greedy_decode
from ..modeling_clsr import CLSRModel
from ..recognizer_clsr import SpeechStates, encode_speech
from ..teacher_forcing_clsr import teach_recognizer
from ..transcript_clsr import suspicion
from .features import TEACHER_BEST, Entry, MakeEntries
from .losses import distribution_distillation, states_distillation


def padded_targets(model: CLSRModel, processor: Any) -> MakeEntries:
    """Return the function that makes a clip's targets.

    Each has `states` (F, H) float16 over the clip's own frames, `token_ids` (U,), and of the U + 1 distributions the
    best tokens `best_ids` (U + 1, K) and their `log_probs`. A transcript that looks wrong (a loop, an early stop) is
    not taught: its tokens are left out and its states stay.

    Raises:
        ValueError: the recogniser has no full window to pad to.
    """
    kind = getattr(model.speech_model.config, "model_type", None)
    if model.config.decoder_type != "recognizer" or kind != "whisper":
        raise ValueError(
            f"selfdistil teaches what Whisper hears in its full window but the recogniser is {kind!r} with "
            f"decoder_type {model.config.decoder_type!r}; train it with the stage asr"
        )
    rate = processor.feature_extractor.sampling_rate
    recognizer: Any = model.speech_model

    @torch.no_grad()
    def make(waveforms: list[Any]) -> list[Entry]:
        lengths = processor(audio=waveforms, sampling_rate=rate)["feature_attention_mask"].sum(dim=1)
        frames = ((lengths + 1) // 2).tolist()
        batch = processor(audio=waveforms, sampling_rate=rate, padding="max_length")
        speech = encode_speech(recognizer, batch["input_features"].to(model.device), None)
        entries = []
        decoded = greedy_decode(recognizer, speech, model.config)
        for row, result in enumerate(decoded):
            text = model.strings.text(result.token_ids)[0]
            seconds = len(waveforms[row]) / rate
            tokens = [] if suspicion(result, text, seconds, model.config) else result.token_ids
            own = speech.rows(torch.tensor([row], device=speech.states.device))
            best, log_probs = _best(model, own, tokens)
            entries.append(
                {
                    "states": own.states[0, : frames[row]].half().cpu(),
                    "token_ids": torch.tensor(tokens, dtype=torch.int32),
                    "best_ids": best.int().cpu(),
                    "log_probs": log_probs.half().cpu(),
                }
            )
        return entries

    return make


def self_distillation(output: Any, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the error of the states and the divergence of the distributions, one of each per clip.

    Args:
        output: `CLSROutput` of the student, with `speech_states` and `token_logits`.
        targets: `teacher_…` of the batch, see `data.collator`.
    """
    states = states_distillation(
        output.speech_states, targets["teacher_states"], targets["teacher_states_mask"]
    )
    distributions = distribution_distillation(
        output.token_logits[:, : targets["teacher_best_ids"].shape[1]],
        targets["teacher_best_ids"],
        targets["teacher_log_probs"],
        targets["teacher_mask"],
    )
    return states, distributions


def _best(model: CLSRModel, speech: SpeechStates, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Return the best tokens of each position and their log probabilities, (U + 1, K) each; none without tokens."""
    num_best = min(TEACHER_BEST, model.speech_model.config.vocab_size)
    if not tokens:
        return torch.zeros(0, num_best, dtype=torch.long), torch.zeros(0, num_best)
    ids = torch.tensor([tokens], device=speech.states.device)
    _, logits, _ = teach_recognizer(model.speech_model, speech, ids, None, model.config)
    log_probs, best = logits[0].float().log_softmax(dim=-1).topk(num_best, dim=-1)
    return best, log_probs
