r"""The spoken sentences whose questions the text encoder has not learnt: what its doubt is fitted to.

    python recipes/mini_en/held_out.py WORK --out WORK/held_out.jsonl

WORK is that of cpu.sh, whose `text_side.py` leaves these sentences out.
"""

import argparse
from pathlib import Path

from labels import sentence_number

from modeling_clsr.data.manifest import Row, read_manifest, write_manifest

FIRST = 200  # sentences of articles
LAST = 850  # lines with questions in other words


def read_spoken(work: Path) -> dict[str, list[Row]]:
    """Return the rows of both texts that `cpu.sh` speaks, sentences of articles first."""
    return {name: read_manifest(work / name / "manifest.jsonl") for name in ("squad", "asked")}


def held_out(articles: list[Row], asked: list[Row]) -> list[Row]:
    """Return the rows of the first sentences and of the last lines; `asked` must hold the very last one."""
    lines = max(map(sentence_number, asked)) + 1
    rows = [row for row in articles if sentence_number(row) < FIRST]
    return rows + [row for row in asked if row.question and sentence_number(row) >= lines - LAST]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    rows = held_out(*read_spoken(args.work).values())
    write_manifest(args.out, rows)
    print(f"{len(rows)} questions on {len({row.audio for row in rows})} clips")


if __name__ == "__main__":
    main()
