"""Significance: values of queries or clips in, intervals and paired tests out.

Resampling unit: the query, or the group (passage, speaker) that several queries share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
NUM_FLIPS = 10_000


@dataclass(frozen=True)
class PairedResult:
    """Two systems on the same queries.

    Attributes:
        difference: mean of the first minus mean of the second.
        low: of its bootstrap 95 % interval.
        high: of it.
        p_value: share of random exchanges of the two systems, query by query, that differ at least as much.
    """

    difference: float
    low: float
    high: float
    p_value: float


def shown_p(p_value: float) -> str:
    """Write a p-value for people.

    >>> shown_p(0.0001), shown_p(0.03)
    ('p < 0.001', 'p = 0.030')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def shown_difference(test: Mapping[str, float]) -> str:
    """Write the fields of a `PairedResult` of shares for people.

    >>> shown_difference({"difference": 0.05, "low": -0.01, "high": 0.11, "p_value": 0.2})
    '+5.0 points (-1.0 to +11.0), p = 0.200'
    """
    difference, low, high = (100 * test[name] for name in ("difference", "low", "high"))
    return f"{difference:+.1f} points ({low:+.1f} to {high:+.1f}), {shown_p(test['p_value'])}"


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of sum(numerators) / sum(denominators), items drawn together.

    Args:
        numerators: (N,) errors of each clip, or values of each query.
        denominators: (N,) words of each clip, or ones.
        seed: of the drawing.

    Source: Efron 1979; percentiles of 2,000 resamples.
    """
    draws = np.random.default_rng(seed).integers(0, len(numerators), (NUM_RESAMPLES, len(numerators)))
    totals = denominators[draws].sum(axis=1)
    ratios = numerators[draws].sum(axis=1) / np.where(totals > 0, totals, np.nan)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(
    values: np.ndarray, groups: Sequence[str] | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of a mean.

    Args:
        values: (Q,).
        groups: (Q,) what each query is about; groups are drawn whole, since queries about one passage succeed and
            fail together.
        seed: of the drawing.
    """
    return ratio_interval(*_sums(np.asarray(values, dtype=float), groups), seed)


def paired_test(
    first: np.ndarray, second: np.ndarray, groups: Sequence[str] | None = None, seed: int = 0
) -> PairedResult:
    """Compare two systems on the same queries: a bootstrap interval and a permutation test of the difference.

    Args:
        first: (Q,) values of one system.
        second: (Q,) of the other.
        groups: as in `mean_interval`; they are exchanged whole.
        seed: of both drawings.

    Raises:
        ValueError: the two differ in number.

    Source: Fisher's randomisation test, two-sided, 10,000 random exchanges (Smucker et al. 2007).
    """
    if len(first) != len(second):
        raise ValueError(
            f"the first system has {len(first)} queries, the second {len(second)}; compare the same queries"
        )
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    sums, counts = _sums(differences, groups)
    low, high = ratio_interval(sums, counts, seed)
    random = np.random.default_rng(seed)
    observed, extreme = abs(sums.sum()), 0
    moving = sums[sums != 0]  # the others change nothing
    for _ in range(NUM_FLIPS // 1000):
        signs = random.integers(0, 2, (1000, len(moving))) * 2 - 1
        extreme += int((np.abs(signs @ moving) >= observed - 1e-9).sum())
    return PairedResult(float(differences.mean()), low, high, (extreme + 1) / (NUM_FLIPS + 1))


def _sums(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of values of each group."""
    if groups is None:
        return values, np.ones(len(values))
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(members, weights=values), np.bincount(members).astype(float)
