"""Doubt: how likely a hit answers.

Enters: what speaks for each hit of one search. Leaves: calibrated probabilities, by a logistic regression that
`evaluation/doubt.py` fits on questions with and without an answer in the index.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FILE = "doubt.json"  # of a checkpoint folder
FEATURES = ("passage", "moment", "bm25", "lead_of_cosines", "lead_of_bm25")


@dataclass(frozen=True)
class Evidence:
    """What speaks for a hit.

    Attributes:
        passage: cosine of its vector and the question's.
        moment: cosine of its moment; None without one.
        bm25: of its words, 0 if it has none of the question's.
    """

    passage: float
    moment: float | None
    bm25: float


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

    def probabilities(self, evidence: Sequence[Evidence]) -> list[float]:
        """Return for each hit of one search the probability that it answers."""
        return self.chances(features(evidence)).tolist()

    def chances(self, rows: np.ndarray) -> np.ndarray:
        """Return (N,) probabilities of feature rows (N, F)."""
        return 1 / (1 + np.exp(-(rows @ np.array(self.weights) + self.bias)))

    def is_answered(self, probabilities: Sequence[float | None]) -> bool:
        """Tell whether a search whose hits have these probabilities found an answer."""
        return any(chance is not None and chance >= self.threshold for chance in probabilities)

    def save(self, folder: str | Path) -> None:
        """Write into a checkpoint folder."""
        text = json.dumps(asdict(self) | {"features": FEATURES}, indent=2)
        (Path(folder) / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Doubt | None":
        """Read from a checkpoint folder; None if it has no calibration.

        Raises:
            ValueError: it was fitted to other features.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            return None
        fields = json.loads(file.read_text(encoding="utf-8"))
        found = tuple(fields.pop("features"))
        if found != FEATURES:
            raise ValueError(
                f"{file} is of {', '.join(found)} but {', '.join(FEATURES)} are needed; fit it again"
            )
        return cls(**fields | {"weights": tuple(fields["weights"])})


def features(evidence: Sequence[Evidence]) -> np.ndarray:
    """Return (N, F) of the N hits of one search.

    A hit that stands out from the others is more likely right than one among equals: hence the leads over the best of
    the others, in the mean of both cosines and in BM25. A hit without a moment counts as its own.
    """
    passage = np.array([hit.passage for hit in evidence], dtype=np.float64)
    moment = np.array([hit.passage if hit.moment is None else hit.moment for hit in evidence])
    bm25 = np.array([hit.bm25 for hit in evidence], dtype=np.float64)
    cosines = (passage + moment) / 2
    return np.stack([passage, moment, bm25, _lead(cosines), _lead(bm25)], axis=1)


def _lead(values: np.ndarray) -> np.ndarray:
    """Return what each value has more than the best of the others; than 0 if there are none."""
    if len(values) == 1:
        return values.copy()
    second, first = np.sort(values)[-2:]
    return values - np.where(np.arange(len(values)) == values.argmax(), second, first)
