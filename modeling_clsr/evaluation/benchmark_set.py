"""A benchmark set on disk: `passages.jsonl`, `questions.jsonl`, the audio.

Enters: passages and questions of a builder. Leaves: a folder that systems are measured on.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..data.json_lines import read_json_lines, write_json_lines
from ..data.manifest import Row, distinct_clips, write_manifest

# Words that a question has whatever it is about.
FUNCTION_WORDS = frozenset(
    "a about after all an and any are as at be been before but by can could did do does done for from get got had "
    "has have he her here him his how i in into is it its many me more most much my no not now of off on one or our "
    "out over she should so somebody someone something than that the their them then there these they thing this "
    "those to too up was we were what when where which who whom whose why will with would you your".split()
)


@dataclass(frozen=True)
class Question:
    """One question of a set.

    Attributes:
        id: unique in the set.
        question: its text.
        context_id: of the passages that answer it.
        answer: in words, as the passage says it where known.
        spans: [start, end] in seconds of the passage, where the answer is; empty if unknown.
        split: "seen" or "heldout" in sets that divide their speakers; see `real_mix.split_of`.
    """

    id: str
    question: str
    context_id: str
    answer: str | None = None
    spans: tuple[tuple[float, float], ...] = ()
    split: str | None = None


@dataclass(frozen=True)
class BenchmarkSet:
    """What a builder makes.

    Attributes:
        passages: the whole pool, those that nothing is asked about included.
        questions: over it.
        splits: of the passages, by their ids; empty where the set is not divided.
    """

    passages: list[Row]
    questions: list[Question]
    splits: Mapping[str, str] = field(default_factory=dict)


def write_set(folder: Path, content: BenchmarkSet) -> None:
    """Write passages and questions; the passages have their split as one more column."""
    path = write_manifest(folder / "passages.jsonl", content.passages)
    if content.splits:
        records = list(read_json_lines(path))
        write_json_lines(path, [record | {"split": content.splits[record["id"]]} for record in records])
    write_json_lines(folder / "questions.jsonl", [asdict(question) for question in content.questions])


def write_questions(folder: Path, clips: Sequence[Row], asked: Sequence[Row]) -> None:
    """Write a set: the clips of some rows, each once, and the questions of others."""
    questions = [Question(row.id, row.question or "", row.context_id or "") for row in asked]
    folder.mkdir(parents=True, exist_ok=True)
    write_set(folder, BenchmarkSet(distinct_clips(clips), questions))


def read_questions(folder: str | Path) -> list[Question]:
    """Read the questions of a built set."""
    records = read_json_lines(Path(folder) / "questions.jsonl")
    return [Question(**(row | {"spans": tuple(tuple(span) for span in row["spans"])})) for row in records]


def shared_words(question: str, passage: str) -> float:
    """Return which share of a question's content words the passage says, too, 0 to 1.

    >>> shared_words("Who built the old bridge?", "Smith built it in 1891.")
    0.3333333333333333
    """
    said = set(_words(passage))
    content = [word for word in _words(question) if word not in FUNCTION_WORDS]
    return sum(word in said for word in content) / len(content) if content else 0.0


def draw(name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())
