"""Answers with citations: hits and a large audio language model in, an answer and where it was heard out."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.audio import read_range
from .answering import AnswerModel
from .search import Hit


@dataclass(frozen=True)
class Answer:
    """What was answered.

    Attributes:
        text: of the model; None if there was none, then the moments of the hits are the answer.
        hits: that the model heard, best first.
        model: its name; None without one.
    """

    text: str | None
    hits: list[Hit]
    model: str | None


def ask(question: str, hits: Sequence[Hit], model: AnswerModel | None = None) -> Answer:
    """Answer a question from the passages that were found for it.

    Args:
        question: in words.
        hits: of `SpeechIndex.search`.
        model: hears the passages; None answers with the moments alone.

    Raises:
        FileNotFoundError: a recording has vanished since it was indexed.
        ValueError: there are no hits.
    """
    if not hits:
        raise ValueError(f"{question!r} has 0 hits but at least 1 is needed to answer; ask in other words")
    if model is None:
        return Answer(None, list(hits), None)
    clips = [read_range(hit.source, hit.start_s, hit.end_s) for hit in hits]
    return Answer(model.answer(question, clips), list(hits), model.name)
