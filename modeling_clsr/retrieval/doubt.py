"""Doubt: how likely a hit answers.

Enters: what speaks for each hit of one search. Leaves: calibrated probabilities, by a logistic regression that
`evaluation/doubt.py` fits on questions with and without an answer in the index.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..hub.build import DOUBT_FILE

FEATURES = ("passage", "moment", "words", "lead_of_cosines", "lead_of_words")
NEARBY_S = 30.0  # passages of one recording that are nearer than this speak of the same thing


@dataclass(frozen=True)
class Evidence:
    """What speaks for a hit.

    Attributes:
        passage: cosine of its vector and the question's.
        moment: cosine of its moment; None without one.
        bm25: of its words, 0 if it has none of the question's.
        letters: share of the best that the search found, see `letters.letter_shares`.
    """

    passage: float
    moment: float | None
    bm25: float
    letters: float = 0.0


class Found(Protocol):
    """What is judged, such as a `Hit`: where it is, and what speaks for it."""

    @property
    def source(self) -> str:
        """Of the recording."""

    @property
    def start_s(self) -> float:
        """Of the passage."""

    @property
    def end_s(self) -> float:
        """Of the passage."""

    @property
    def evidence(self) -> Evidence:
        """What speaks for it."""


@dataclass(frozen=True)
class Doubt:
    """A calibration of one checkpoint.

    Attributes:
        weights: of `FEATURES`.
        bias: added to their weighted sum before the logistic function.
        threshold: if no hit is at least as probable, the question counts as not answered here.
        fitted_on: the questions, for people.
    """

    weights: tuple[float, ...]
    bias: float
    threshold: float
    fitted_on: str = ""

    def __post_init__(self) -> None:
        if len(self.weights) != len(FEATURES):
            raise ValueError(
                f"the calibration has {len(self.weights)} weights but {len(FEATURES)} are needed; fit it again"
            )

    def probabilities(self, hits: Sequence[Found], num_passages: int) -> list[float]:
        """Return for each hit of one search, in an index of so many passages, the probability that it answers."""
        return self.chances(features(hits, num_passages)).tolist()

    def chances(self, rows: np.ndarray) -> np.ndarray:
        """Return (N,) probabilities of feature rows (N, F)."""
        return 1 / (1 + np.exp(-(rows @ np.array(self.weights) + self.bias)))

    def is_answered(self, probabilities: Sequence[float | None]) -> bool:
        """Tell whether a search whose hits have these probabilities found an answer."""
        return any(chance is not None and chance >= self.threshold for chance in probabilities)

    def save(self, folder: str | Path) -> None:
        """Write into a checkpoint folder."""
        text = json.dumps(asdict(self) | {"features": FEATURES}, indent=2)
        (Path(folder) / DOUBT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Doubt | None":
        """Read from a checkpoint folder; None if it has no calibration.

        Raises:
            ValueError: it was fitted to other features.
        """
        file = Path(folder) / DOUBT_FILE
        if not file.is_file():
            return None
        fields = json.loads(file.read_text(encoding="utf-8"))
        found = tuple(fields.pop("features"))
        if found != FEATURES:
            raise ValueError(
                f"{file} is of {', '.join(found)} but {', '.join(FEATURES)} are needed; fit it again"
            )
        return cls(**fields | {"weights": tuple(fields["weights"])})


def features(hits: Sequence[Found], num_passages: int) -> np.ndarray:
    """Return (N, F) of the N hits of one search.

    A hit that stands out is more likely right than one among equals: hence the leads over the best of the hits
    elsewhere, in the mean of both cosines and in BM25. Neighbours in a recording share a subject and do not count as
    rivals. BM25 grows with the logarithm of the number of passages, and is divided by it. A hit without a moment counts
    as its own.
    """
    passage = np.array([hit.evidence.passage for hit in hits], dtype=np.float64)
    moment = np.array(
        [hit.evidence.passage if hit.evidence.moment is None else hit.evidence.moment for hit in hits]
    )
    words = np.array([hit.evidence.bm25 for hit in hits], dtype=np.float64) / np.log1p(num_passages)
    rivals = np.array([[_elsewhere(hit, other) for other in hits] for hit in hits], dtype=bool)
    rivals = rivals.reshape(len(hits), len(hits))
    leads = [_lead(values, rivals) for values in ((passage + moment) / 2, words)]
    return np.stack([passage, moment, words, *leads], axis=1)


def _elsewhere(hit: Found, other: Found) -> bool:
    apart = max(other.start_s - hit.end_s, hit.start_s - other.end_s)
    return other.source != hit.source or apart > NEARBY_S


def _lead(values: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """Return what each value has more than the best of its rivals; than 0 if there are none."""
    best = np.where(rivals, values, -np.inf).max(axis=1, initial=-np.inf)
    return values - np.where(rivals.any(axis=1), best, 0.0)
