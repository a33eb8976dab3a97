r"""The rows that the recogniser is trained on: true words in the spelling that it writes itself.

    python recipes/mini_en/labels.py --squad speech/squad/manifest.jsonl --ocean …/speechocean.jsonl \
        --heard heard/base --out joint.jsonl

The texts are lower case or capitals, and a recogniser taught by them would forget to write names as names. So each word
that it heard rightly keeps its own spelling and punctuation; the others are taught as the text has them.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.data.manifest import Row, read_manifest, write_manifest

HELD_OUT_FROM = 3800  # sentences of the last articles that are spoken; on them settings are chosen
MAX_DURATION_S = 15.0  # bounds what a batch needs of a GPU's memory; few sentences are longer
MAX_DISAGREEMENT = 0.35  # of read clips, whose text says what was to be read and not what was said


def bare(word: str) -> str:
    """Return a word without case and punctuation.

    >>> bare("Paris,")
    'paris'
    """
    return re.sub(r"[^a-z0-9]", "", word.lower())


def dress(true: str, heard: str) -> tuple[str, float]:
    """Spell a true text as the recogniser spelt what it heard.

    Args:
        true: words in any case.
        heard: a transcript of it.

    Returns:
        The text, and which share of its words was not heard.

    >>> dress("he met FLAUBERT in paris", "He met Flober in Paris.")
    ('He met flaubert in Paris.', 0.2)
    """
    words, others = true.split(), heard.split()
    matcher = SequenceMatcher(None, [bare(word) for word in words], [bare(word) for word in others], False)
    spelt = [word.lower() if word.isupper() else word for word in words]
    missed = len(words)
    for block in matcher.get_matching_blocks():
        spelt[block.a : block.a + block.size] = others[block.b : block.b + block.size]
        missed -= block.size
    text = " ".join(spelt)
    return text[:1].upper() + text[1:], missed / max(len(words), 1)


def read_heard(folder: Path, name: str) -> dict[str, str]:
    """Read what `hear.py` wrote, its shards joined: id -> text."""
    return {
        entry["id"]: entry["text"]
        for file in sorted([*folder.glob(f"{name}.jsonl"), *folder.glob(f"{name}.[0-9]*.jsonl")])
        for entry in read_json_lines(file)
    }


def read_versions(folder: Path) -> dict[str, tuple[str, ...]]:
    """Read all that `hear.py` wrote: text spoken -> what was heard of it in quiet, then in noise (`…-noisy`)."""
    files = sorted(folder.glob("*.jsonl"), key=lambda file: ("-noisy" in file.name, file.name))
    versions: dict[str, tuple[str, ...]] = {}
    for entry in (entry for file in files for entry in read_json_lines(file)):
        if entry["text"]:
            spoken = re.sub(r"-q\d+$", "", entry["id"])  # a clip is named by its first question
            versions[spoken] = (*versions.get(spoken, ()), entry["text"])
    return versions


def sentence_number(row: Row) -> int:
    """Return the place of a spoken sentence in its file of texts."""
    return int((row.context_id or "").rsplit("-", 1)[1])


def training_rows(squad: list[Row], ocean: list[Row], heard: Path) -> Iterator[Row]:
    """Yield rows with a question, a label and a passage; read clips are asked for by their own words."""
    texts = read_heard(heard, "squad")
    by_clip = {row.context_id: texts[row.id] for row in squad if row.id in texts}
    for row in squad:
        if sentence_number(row) < HELD_OUT_FROM and row.context_id in by_clip:
            yield replace(row, transcript=dress(row.transcript or "", by_clip[row.context_id])[0])
    read = read_heard(heard, "ocean")
    for row in ocean:
        if row.id not in read:
            continue
        label, missed = dress(row.transcript or "", read[row.id])
        if missed <= MAX_DISAGREEMENT:
            yield replace(row, transcript=label, question=label, context_id=row.transcript)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--squad", required=True, help="manifest of spoken questions' sentences")
    parser.add_argument("--ocean", required=True, help="manifest of read clips")
    parser.add_argument("--heard", required=True, help="folder of hear.py, with squad and ocean")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    squad = read_manifest(args.squad)
    ocean = read_manifest(args.ocean)
    rows = [
        row
        for row in training_rows(squad, ocean, Path(args.heard))
        if (row.duration or 0.0) <= MAX_DURATION_S
    ]
    write_manifest(args.out, rows)
    print(f"{len(rows)} rows, {sum(row.duration or 0 for row in rows) / 3600:.1f} h")


if __name__ == "__main__":
    main()
