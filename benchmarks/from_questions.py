"""What the bridge teaches from questions alone: recordings in noise that nobody transcribed, and the missing control.

    python benchmarks/from_questions.py --noise_dir DATA/noise --json benchmarks/results/from_questions.json

The recogniser of `learning.py` has learnt to hear in quiet. Here are further sentences in noise, each with a question;
in place of a transcript stands what that recogniser writes. Two arms go on from it, with these rows and those in quiet
(true transcripts), in the same order for the same steps: `joint` with the retrieval loss, `control` without it, which
is plain recognition training. Searched are other sentences in noise, and those of `learning.py` in quiet; `bridge.py`
has the measures. Settings were chosen with one seed on other sentences (`--skip 0`). Needs flite and the extra parts.
"""

import argparse
import itertools
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from bridge import BEFORE, arms_of, compare
from learning import embed_and_rank, load, run_recipe, sentences, speak, speak_pools, train

from modeling_clsr.data.audio import load_audio
from modeling_clsr.data.augmentation import add_noise
from modeling_clsr.data.clips import write_changed
from modeling_clsr.data.json_lines import write_json_lines
from modeling_clsr.data.manifest import Row, read_manifest, write_manifest
from modeling_clsr.data.synthesis import Utterance
from modeling_clsr.evaluation.benchmark_set import write_questions
from modeling_clsr.evaluation.scoring import KnownTexts, sentence_encoder
from modeling_clsr.hub.parts import minilm_folder
from modeling_clsr.hub.stamp import make_stamp, write_stamped

RECIPE = "recipes/sanm_tiny_questions.yaml"
WEIGHTS: dict[str, tuple[str, ...]] = {"joint": (), "control": ("--contrastive_weight", "0")}
NOISES = ("noise1", "noise2", "noise3")  # the others are kept for tests
QUIET_ROWS, QUIET_HELD_OUT = 240, 200  # as learning.py
DRAWN = 2000  # sentences of the grammar, 2,304 in all


def further_sentences(known: Sequence[Utterance], skip: int, count: int) -> list[Utterance]:
    """Draw sentences that are none of the known ones."""
    asked = {utterance.questions for utterance in known}
    new = [utterance for utterance in sentences(DRAWN, seed=1) if utterance.questions not in asked]
    if skip + count > len(new):
        raise ValueError(
            f"--skip {skip} and {count} sentences are more than the {len(new)} there are; take fewer"
        )
    return [replace(utterance, id=f"further-{utterance.id}") for utterance in new[skip : skip + count]]


def in_noise(rows: Sequence[Row], noises: Sequence[np.ndarray], snr_db: float, folder: Path) -> list[Row]:
    """Write every clip with noise; which and from where is drawn from its name."""

    def change(name: str, waveform: np.ndarray) -> np.ndarray:
        draw = random.Random(name)
        noise = draw.choice(noises)
        return add_noise(waveform, noise, snr_db, draw.randrange(len(noise)))

    return write_changed(rows, change, folder, "noise")


def hear(checkpoint: Path, rows: Sequence[Row]) -> list[str]:
    """Return what a checkpoint writes of every clip."""
    return embed_and_rank(*load(checkpoint, RECIPE), rows)[1]


def train_arms(seed: int, learnt: Sequence[Row], folder: Path) -> dict[str, Path]:
    """Train both arms of a seed, unless they are finished; return their checkpoints and the one before."""
    start = train("recognition", seed, folder)
    heard = zip(learnt, hear(start, learnt), strict=True)
    rows = [replace(row, transcript=text) for row, text in heard if text.strip()]
    manifest = folder / f"untranscribed-{seed}.jsonl"
    write_manifest(manifest, [*read_manifest(folder / "train.jsonl"), *rows])
    arms = {BEFORE: start}
    for arm, extra in WEIGHTS.items():
        out = folder / f"from_questions-{arm}-{seed}"
        arms[arm] = run_recipe(RECIPE, manifest, out, seed, "--model", str(start), *extra)
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise_dir", required=True, type=Path, help="with noise1.flac to noise3.flac")
    parser.add_argument("--snr_db", type=float, default=10.0, help="of the noise")
    parser.add_argument("--rows", type=int, default=240, help="clips in noise to learn from")
    parser.add_argument("--held_out", type=int, default=400, help="clips in noise to search")
    parser.add_argument("--skip", type=int, default=440, help="sentences; settings were chosen on the first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--work", help="folder for clips and finished runs, to go on later; temporary if left out"
    )
    parser.add_argument("--json", help="write the stamped result")
    args = parser.parse_args()
    stamp = make_stamp()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.work or temporary)
        known = speak_pools(folder, QUIET_ROWS, QUIET_HELD_OUT)
        further = speak(further_sentences(known, args.skip, args.rows + args.held_out), folder, "further")
        noises = [load_audio(args.noise_dir / f"{name}.flac") for name in NOISES]
        noisy = in_noise(read_manifest(further), noises, args.snr_db, folder / "in_noise")
        learnt, searched = noisy[: args.rows], {"noise": noisy[args.rows :]}
        searched["quiet"] = read_manifest(folder / "held_out.jsonl")
        for seed in range(1, args.seeds + 1):
            arms = train_arms(seed, learnt, folder)
            for (arm, checkpoint), (name, rows) in itertools.product(arms.items(), searched.items()):
                to = folder / "heard" / f"{arm}-{seed}"
                to.mkdir(parents=True, exist_ok=True)
                texts = zip(rows, hear(checkpoint, rows), strict=True)
                write_json_lines(to / f"{name}.jsonl", [{"id": row.id, "text": text} for row, text in texts])
        encode = KnownTexts(sentence_encoder(minilm_folder()))
        found = arms_of(folder / "heard")
        table = []
        for name, rows in searched.items():
            write_questions(folder / name, rows, rows)
            table += compare(found, name, str(folder / name), encode)
    print(json.dumps(table, indent=1))
    if args.json:
        data = f"{args.rows} clips to learn from, noise at {args.snr_db:g} dB"
        write_stamped(args.json, {"rows": table}, stamp, data=data)


if __name__ == "__main__":
    main()
