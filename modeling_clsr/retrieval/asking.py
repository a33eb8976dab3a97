"""Answers with citations: hits and a large audio language model in, an answer and where it was heard out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.audio import SAMPLING_RATE, audio_blocks
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


def read_range(path: str | Path, start_s: float, end_s: float) -> np.ndarray:
    """Read a part of a recording, block by block, so that its length does not matter.

    Args:
        path: of the recording.
        start_s: in seconds from its start.
        end_s: likewise.

    Returns:
        (S,) float32 at 16 kHz; shorter if the recording ends before.

    Raises:
        As `audio_blocks`.
    """
    first, last = round(start_s * SAMPLING_RATE), round(end_s * SAMPLING_RATE)
    pieces, position = [], 0
    for block in audio_blocks(path):
        if position >= last:
            break
        pieces.append(block[max(first - position, 0) : last - position])
        position += len(block)
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
