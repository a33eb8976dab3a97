r"""A collection that nobody transcribed: rows to learn from, and a set of held-out clips to measure on.

    python recipes/mini_en/collection.py speech/squad/manifest.jsonl --heard WORK/heard --out WORK

Enters: spoken sentences with questions, and what the recogniser heard of them (`hear.py`, under the name
"collection"). Leaves: `pseudo.jsonl`, rows whose transcript is what was heard, and `held_out/`, every third clip with
its questions as a set. Both parts are about the same things, so that names return.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from labels import MAX_DURATION_S, read_heard, sentence_number

from modeling_clsr.data.manifest import read_manifest, write_manifest
from modeling_clsr.evaluation.benchmark_set import BenchmarkSet, Question, write_set

NAME = "collection"  # under which `hear.py` heard the clips
HELD_OUT_EVERY = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--heard", required=True, type=Path, help=f"folder of hear.py, with {NAME}")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    rows = [row for row in read_manifest(args.manifest) if (row.duration or 0.0) <= MAX_DURATION_S]
    heard = read_heard(args.heard, NAME)
    by_clip = {row.audio: heard[row.id] for row in rows if row.id in heard}
    learnt = [row for row in rows if sentence_number(row) % HELD_OUT_EVERY and by_clip.get(row.audio)]
    held_out = [row for row in rows if sentence_number(row) % HELD_OUT_EVERY == 0]
    passages = {
        row.audio: row for row in reversed(held_out)
    }  # the first row of a clip, as `hear.py` names it
    questions = [Question(row.id, row.question or "", row.context_id or "") for row in held_out]
    (args.out / "held_out").mkdir(parents=True, exist_ok=True)
    write_set(args.out / "held_out", BenchmarkSet(list(passages.values())[::-1], questions))
    write_manifest(args.out / "pseudo.jsonl", [replace(row, transcript=by_clip[row.audio]) for row in learnt])
    print(f"{len(learnt)} rows to learn from, {len(held_out)} questions about {len(passages)} held-out clips")


if __name__ == "__main__":
    main()
