r"""A collection that nobody transcribed: rows to learn from, and a set of held-out clips to measure on.

    python recipes/mini_en/collection.py speech/squad/manifest.jsonl --heard WORK/heard --out WORK

Enters: spoken sentences with questions, and what the recogniser heard of them (`hear.py`, under the name
"collection"). Leaves: `pseudo.jsonl`, rows whose transcript is what was heard, and two sets: `other_clips/`, every
third clip with its questions, and `new_questions/`, the learnt clips with questions that were held back, one of each
clip that has several. All are about the same things, so that names return. `other_articles/`, of a second manifest, is
by the same speaker about other things.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

from labels import MAX_DURATION_S, read_heard, sentence_number

from modeling_clsr.data.manifest import Row, read_manifest, write_manifest
from modeling_clsr.evaluation.benchmark_set import write_questions

NAME = "collection"  # under which `hear.py` heard the clips
HELD_OUT_EVERY = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--heard", required=True, type=Path, help=f"folder of hear.py, with {NAME}")
    parser.add_argument("--elsewhere", help="manifest of the same speaker about other things")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    rows = read_short(args.manifest)
    heard = read_heard(args.heard, NAME)
    by_clip = {row.audio: heard[row.id] for row in rows if heard.get(row.id)}
    others = [row for row in rows if sentence_number(row) % HELD_OUT_EVERY == 0]
    learnt = [row for row in rows if sentence_number(row) % HELD_OUT_EVERY and row.audio in by_clip]
    last = {row.audio: row.id for row in learnt}
    asked = Counter(row.audio for row in learnt)
    held_back = [row for row in learnt if asked[row.audio] > 1 and row.id == last[row.audio]]
    kept = [row for row in learnt if row not in held_back]
    write_manifest(args.out / "pseudo.jsonl", [replace(row, transcript=by_clip[row.audio]) for row in kept])
    write_questions(args.out / "other_clips", others, others)
    write_questions(args.out / "new_questions", learnt, held_back)
    if args.elsewhere:
        elsewhere = read_short(args.elsewhere)
        write_questions(args.out / "other_articles", elsewhere, elsewhere)
    print(
        f"{len(kept)} rows to learn from, {len(held_back)} new questions about their clips, "
        f"{len(others)} questions about other clips"
    )


def read_short(manifest: str) -> list[Row]:
    """Read the rows whose clips are short enough to learn from."""
    return [row for row in read_manifest(manifest) if (row.duration or 0.0) <= MAX_DURATION_S]


def read_learners(data: Path, every: int = 1) -> list[Row]:
    """Read the clips of speechocean762, prompts read by learners of English, or one of so many."""
    return read_manifest(data / "speech" / "speechocean.jsonl", {"duration": "dur"}, data)[::every]


if __name__ == "__main__":
    main()
