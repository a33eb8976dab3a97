r"""Does it help to hand on the recogniser's doubt: more, or less, than its best tokens where it hesitates?

    python benchmarks/uncertain.py --set sets/real-mix --set sets/spoken-squad-mini --checkpoint clsr-mini-en \
        --heard out/uncertain --json benchmarks/results/clsr-mini-en/uncertain.json

Each passage is heard once, which `--heard` keeps, and embedded in several ways. `best`: its transcript, as the model
does. `mixed P`: where the best token is less probable than P, the text encoder gets the mean of the four likeliest
tokens' embeddings, weighted (the backward pass of `retokenize`, here forward). `left out P`: words less probable than P
are left out; `half P`: the mean of that vector and `best`. `weighted A`: in the mean over the text encoder's states
each word counts by its probability to the power of A.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from modeling_clsr.data.audio import SAMPLING_RATE, load_audio
from modeling_clsr.data.json_lines import keep_line, read_kept_lines
from modeling_clsr.data.manifest import Row
from modeling_clsr.data.sampler import length_batches
from modeling_clsr.decoding_clsr import Decoded
from modeling_clsr.evaluation.evaluator import load_set
from modeling_clsr.evaluation.ranking import hit_chances, relevance_of
from modeling_clsr.evaluation.significance import mean_interval, paired_test, shown_difference
from modeling_clsr.evaluation.systems import pieces_of, unit
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.recognizer_clsr import encode_speech
from modeling_clsr.retrieval.encoder import Encoder
from modeling_clsr.retrieval.moments import character_spans
from modeling_clsr.teacher_forcing_clsr import score_tokens
from modeling_clsr.transcript_clsr import read_words, recognise

PROBABILITIES = (0.3, 0.4, 0.5, 0.6, 0.8)
POWERS = (0.5, 1.0, 2.0)
TOKENS = 4
BATCH = 8
TINY = 1e-30  # a probability that has a logarithm


@torch.inference_mode()
def hear(encoder: Encoder, waveforms: list[np.ndarray]) -> list[dict]:
    """Return of each clip its tokens with their probabilities, and the likeliest in place of each."""
    model = encoder.model
    batch = encoder.processor(audio=waveforms, sampling_rate=SAMPLING_RATE)
    features, mask = batch["input_features"], batch.get("feature_attention_mask")
    speech = encode_speech(model.speech_model, features, mask)
    decoded, _ = recognise(model.speech_model, speech, features, mask, model.strings, model.config)
    logits = score_tokens(model.speech_model, speech, decoded, model.config)
    chances, tokens = logits.float().softmax(dim=-1).topk(TOKENS, dim=-1)  # (B, N, 4)
    return [
        {
            "tokens": result.token_ids,
            "likeliest": tokens[row, : len(result.token_ids)].tolist(),
            "chances": chances[row, : len(result.token_ids)].tolist(),
            "probabilities": [math.exp(value) for value in result.log_probs],
        }
        for row, result in enumerate(decoded)
    ]


def hear_passages(encoder: Encoder, passages: list[Row], file: Path) -> list[dict]:
    """Return what was heard of each passage; what the file holds is not heard again."""
    known = {entry["id"]: entry for entry in read_kept_lines(file)}
    todo = [row for row in passages if row.id not in known]
    batches = list(length_batches([row.duration or 0.0 for row in todo], BATCH))
    for batch in tqdm(batches, desc=file.stem, disable=not todo):
        pieces = [pieces_of(load_audio(todo[row].audio), encoder) for row in batch]
        heard = iter(hear(encoder, [piece for own in pieces for piece in own]))
        for row, own in zip(batch, pieces, strict=True):
            parts = [next(heard) for _ in own]
            entry = {name: [value for part in parts for value in part[name]] for name in parts[0]}
            known[todo[row].id] = {"id": todo[row].id} | entry
            keep_line(file, known[todo[row].id])
    return [known[row.id] for row in passages]


@torch.inference_mode()
def embed(encoder: Encoder, heard: list[dict]) -> dict[str, np.ndarray]:
    """Return (N, D) vectors by the way they are made."""
    read = [sure_words(encoder, entry) for entry in heard]
    table = encoder.model.adaptor.embed_strings(encoder.model.text_model.get_input_embeddings())
    found: dict[str, np.ndarray] = {}
    for rows in tqdm(list(length_batches([len(entry["tokens"]) for entry in heard], BATCH)), desc="embed"):
        part = [heard[row] for row in rows]
        for name, vectors in (weighted(encoder, part) | mixed(encoder, part, table)).items():
            found.setdefault(name, np.zeros((len(heard), vectors.shape[1]), np.float32))[rows] = (
                vectors.numpy()
            )
    for bound in PROBABILITIES:
        kept = [
            " ".join(text[start:end] for start, end, probability in words if probability >= bound) or text
            for text, words in read
        ]
        found[f"left out {bound}"] = encoder.encode_texts(kept, truncation=True)
        found[f"half {bound}"] = unit(found["best"] + found[f"left out {bound}"])
    return found


def sure_words(encoder: Encoder, heard: dict) -> tuple[str, list[tuple[int, int, float]]]:
    """Return what a clip says, and of each word its characters and its mean token probability."""
    model = encoder.model
    logs = [math.log(max(probability, TINY)) for probability in heard["probabilities"]]
    decoded = Decoded(heard["tokens"], logs, [(0, 0)] * len(logs))  # times do not matter here
    transcript = read_words(decoded, 0.0, model.strings, model.config)
    places = character_spans(transcript.text, transcript.words)
    sure = [word.probability for word in transcript.words]
    return transcript.text, [
        (start, end, probability) for (start, end), probability in zip(places, sure, strict=True)
    ]


def mixed(encoder: Encoder, heard: list[dict], table: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return (B, D) vectors with mixtures in place of uncertain tokens, by the bound of certainty.

    Args:
        encoder: of the checkpoint.
        heard: B clips.
        table: (V, E) embeddings of the recogniser's tokens.
    """
    model = encoder.model
    embedding = model.text_model.get_input_embeddings()
    longest = max(len(entry["tokens"]) for entry in heard)
    chances, tokens = (
        torch.zeros(len(heard), longest, TOKENS),
        torch.zeros(len(heard), longest, TOKENS).long(),
    )
    for row, entry in enumerate(heard):
        if entry["tokens"]:
            chances[row, : len(entry["tokens"])] = torch.tensor(entry["chances"])
            tokens[row, : len(entry["tokens"])] = torch.tensor(entry["likeliest"])
    read = [model.strings.text(entry["tokens"]) for entry in heard]
    input_ids, mask, offsets = model.strings.tokenize([text for text, _ in read])
    shares = (chances / chances.sum(dim=-1, keepdim=True).clamp(min=1e-9)).unsqueeze(-2)
    mixtures = (shares @ table[tokens]).squeeze(-2)  # (B, N, E)
    cover = model.adaptor.cover(
        offsets, [spans for _, spans in read], input_ids.shape[1], longest
    )  # (B, L, N)
    found = {}
    for bound in PROBABILITIES:
        doubtful = (cover @ (chances[..., :1] < bound).float()) > 0.5  # (B, L, 1)
        embeds = torch.where(doubtful, cover @ mixtures, embedding(input_ids))
        found[f"mixed {bound}"] = model._embed_text(mask, inputs_embeds=embeds).pooler_output
    return found


def weighted(encoder: Encoder, heard: list[dict]) -> dict[str, torch.Tensor]:
    """Return (B, D) vectors: the plain mean over the states, and means in which sure words count for more."""
    model = encoder.model
    read = [sure_words(encoder, entry) for entry in heard]
    input_ids, mask, offsets = model.strings.tokenize([text for text, _ in read])
    states = model._embed_text(mask, input_ids=input_ids).last_hidden_state.float()
    sure = torch.ones(input_ids.shape)  # special tokens count in full
    for row, (text, words) in enumerate(read):
        letters = torch.ones(len(text) + 1)
        for start, end, probability in words:
            letters[start:end] = probability
        for place, (start, end) in enumerate(offsets[row]):
            if end > start:
                sure[row, place] = letters[start]
    found = {}
    for power in (0.0, *POWERS):
        weights = (mask * sure**power).unsqueeze(-1)
        name = f"weighted {power}" if power else "best"
        found[name] = F.normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)
    return found


def measure(encoder: Encoder, folder: str, kept: Path) -> dict:
    """Return R@1 of every way, and its paired test against `best`."""
    passages, questions = load_set(folder)
    vectors = embed(encoder, hear_passages(encoder, passages, kept / f"{Path(folder).name}.jsonl"))
    groups = [question.context_id for question in questions]
    relevant = relevance_of(np.array(groups), np.array([row.context_id for row in passages]))
    asked = encoder.encode_texts([question.question for question in questions])
    hits = {name: hit_chances(asked @ own.T, relevant, 1) for name, own in vectors.items()}
    return {
        "questions": len(questions),
        "ways": {
            name: {
                "recall_at_1": float(values.mean()),
                "recall_at_1_interval": list(mean_interval(values, groups)),
                "against_best": vars(paired_test(values, hits["best"], groups)),
            }
            for name, values in sorted(hits.items())
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", action="append", required=True, help="folder of a built set; may be repeated"
    )
    parser.add_argument("--checkpoint", default="clsr-mini-en")
    parser.add_argument(
        "--heard", required=True, type=Path, help="folder that keeps what this recogniser heard"
    )
    parser.add_argument("--json", help="write the stamped result")
    args = parser.parse_args()
    stamp, encoder = make_stamp(), Encoder.from_pretrained(args.checkpoint)
    figures = {Path(folder).name: measure(encoder, folder, args.heard) for folder in args.set}
    for name, found in figures.items():
        for way, row in found["ways"].items():
            print(
                f"{name:24} {way:16} {100 * row['recall_at_1']:5.1f}  {shown_difference(row['against_best'])}"
            )
    if args.json:
        write_stamped(args.json, figures, stamp, checkpoint=encoder.fingerprint, tokens=TOKENS)


if __name__ == "__main__":
    main()
