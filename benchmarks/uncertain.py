r"""Does it help to hand on the recogniser's doubt: more than its best tokens where it hesitates?

    python benchmarks/uncertain.py --set sets/real-mix --set sets/spoken-squad-mini --checkpoint clsr-mini-en \
        --json benchmarks/results/clsr-mini-en/uncertain.json

Each passage is heard once and embedded in several ways. `best`: its transcript, as the model does. `mixed P`: where the
best token is less probable than P, the text encoder gets the mean of the four likeliest tokens' embeddings, weighted
(the backward pass of `retokenize`, here forward). `left out P`: words less probable than P are left out; `half P`: the
mean of that vector and `best`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from modeling_clsr.data.audio import SAMPLING_RATE, load_audio
from modeling_clsr.data.sampler import length_batches
from modeling_clsr.decoding_clsr import Decoded
from modeling_clsr.evaluation.evaluator import load_set
from modeling_clsr.evaluation.ranking import hit_chances, relevance_of
from modeling_clsr.evaluation.significance import mean_interval, paired_test
from modeling_clsr.evaluation.systems import unit
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.recognizer_clsr import encode_speech
from modeling_clsr.retrieval.encoder import Encoder
from modeling_clsr.teacher_forcing_clsr import score_tokens
from modeling_clsr.transcript_clsr import Transcript, recognise

PROBABILITIES = (0.3, 0.5, 0.8)
TOKENS = 4
BATCH = 8


def mixed(
    encoder: Encoder, transcripts: list[Transcript], decoded: list[Decoded], logits: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return (B, D) vectors with mixtures in place of uncertain tokens, by the bound of certainty."""
    model = encoder.model
    adaptor, embedding = model.adaptor, model.text_model.get_input_embeddings()
    input_ids, mask, offsets = model.strings.tokenize([transcript.text for transcript in transcripts])
    spans = [model.strings.text(result.token_ids)[1] for result in decoded]
    best = adaptor(input_ids, offsets, logits, spans, embedding)  # (B, L, E)
    chances, tokens = logits.float().softmax(dim=-1).topk(TOKENS, dim=-1)  # (B, N, 4)
    shares = (chances / chances.sum(dim=-1, keepdim=True)).unsqueeze(-2)
    mixtures = (shares @ adaptor.table[tokens]).squeeze(-2)  # (B, N, E)
    cover = adaptor._cover(offsets, spans, input_ids.shape[1], logits.shape[1])  # (B, L, N)
    found = {}
    for bound in PROBABILITIES:
        doubtful = (cover @ (chances[..., :1] < bound).float()) > 0.5  # (B, L, 1)
        embeds = torch.where(doubtful, cover @ mixtures, best)
        found[f"mixed {bound}"] = model._embed_text(mask, inputs_embeds=embeds).pooler_output
    return found


def texts_of(transcript: Transcript) -> dict[str, str]:
    """Return what is embedded as text: the transcript, and it without its uncertain words."""
    found = {"best": transcript.text}
    for bound in PROBABILITIES:
        kept = [word.text for word in transcript.words if word.probability >= bound]
        found[f"left out {bound}"] = " ".join(kept) or transcript.text
    return found


@torch.no_grad()
def hear(encoder: Encoder, waveforms: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return (B, D) vectors of a batch, by the way they are made."""
    model = encoder.model
    batch = encoder.processor(audio=waveforms, sampling_rate=SAMPLING_RATE)
    features, mask = batch["input_features"], batch.get("feature_attention_mask")
    speech = encode_speech(model.speech_model, features, mask)
    decoded, transcripts = recognise(model.speech_model, speech, features, mask, model.strings, model.config)
    logits = score_tokens(model.speech_model, speech, decoded, model.config)
    found = {name: vectors.numpy() for name, vectors in mixed(encoder, transcripts, decoded, logits).items()}
    texts = [texts_of(transcript) for transcript in transcripts]
    for name in texts[0]:
        found[name] = encoder.encode_texts([text[name] for text in texts], truncation=True)
    for bound in PROBABILITIES:
        found[f"half {bound}"] = unit(found["best"] + found[f"left out {bound}"])
    return found


def measure(encoder: Encoder, folder: str) -> dict:
    """Return R@1 of every way, and its paired test against `best`."""
    passages, questions = load_set(folder)
    vectors: dict[str, np.ndarray] = {}
    for rows in tqdm(list(length_batches([row.duration or 0.0 for row in passages], BATCH)), desc=folder):
        for name, found in hear(encoder, [load_audio(passages[row].audio) for row in rows]).items():
            vectors.setdefault(name, np.zeros((len(passages), found.shape[1]), np.float32))[rows] = found
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
    parser.add_argument("--json", help="write the stamped result")
    args = parser.parse_args()
    stamp, encoder = make_stamp(), Encoder.from_pretrained(args.checkpoint)
    figures = {Path(folder).name: measure(encoder, folder) for folder in args.set}
    print(json.dumps(figures, indent=1))
    if args.json:
        write_stamped(args.json, figures, stamp, checkpoint=encoder.fingerprint, tokens=TOKENS)


if __name__ == "__main__":
    main()
