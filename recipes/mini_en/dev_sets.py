r"""Sets to choose settings on, of speech and questions that no test set has and the text encoder has not learnt.

    python recipes/mini_en/dev_sets.py DATA --made squad=WORK/squad/manifest.jsonl --noise_dir WORK/noise --out WORK/dev

For each manifest of made speech NAME, of the sentences that cpu.sh holds out, and NAME-noisy, with the noises and rooms
of training; `read`: clips read by learners of English, each asked for by its own true words.
"""

import argparse
import zlib
from dataclasses import replace
from pathlib import Path

from collection import read_learners
from hear import NOISE_SEED, noise_and_rooms
from held_out import FIRST
from labels import sentence_number

from modeling_clsr.data.audio import SAMPLING_RATE
from modeling_clsr.data.clips import write_changed
from modeling_clsr.data.manifest import Row, read_manifest
from modeling_clsr.evaluation.benchmark_set import write_questions

EVERY = 4  # of the read clips


def add_noises(rows: list[Row], noise_dir: str, out: Path) -> list[Row]:
    """Write every clip with noise."""
    augment = noise_and_rooms(noise_dir, "0,15")
    return write_changed(
        rows,
        lambda name, waveform: augment(waveform, SAMPLING_RATE, (NOISE_SEED, 0, zlib.crc32(name.encode()))),
        out.absolute(),
        out.name,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--made", action="append", required=True, metavar="NAME=MANIFEST")
    parser.add_argument("--noise_dir", required=True, help="of the noises and rooms of training")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    for entry in args.made:
        name, manifest = entry.split("=", 1)
        rows = [row for row in read_manifest(manifest) if sentence_number(row) < FIRST]
        write_questions(args.out / name, rows, rows)
        rows = add_noises(rows, args.noise_dir, args.out / f"{name}-noisy")
        write_questions(args.out / f"{name}-noisy", rows, rows)
        print(f"{name}: {len(rows)} questions")
    read = read_learners(args.data, EVERY)
    texts = [(row.transcript or "").lower() for row in read]
    read = [replace(row, question=text, context_id=text) for row, text in zip(read, texts, strict=True)]
    write_questions(args.out / "read", read, read)
    print(f"read: {len(read)} clips")


if __name__ == "__main__":
    main()
