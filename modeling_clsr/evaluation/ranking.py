"""Ranking measures: scores of queries against documents in, recall, MRR and nDCG out.

Axes: Q queries, N documents. Ties count by their expected place, so that equal scores gain nothing by their order.
"""

from collections.abc import Sequence
from math import comb

import numpy as np

CUTS = (1, 5, 10)


def relevance_of(query_groups: np.ndarray, document_groups: np.ndarray) -> np.ndarray:
    """Return (Q, N) booleans: which documents answer which query, by the passage both belong to."""
    return np.asarray(query_groups)[:, None] == np.asarray(document_groups)[None]


def hit_chances(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Return for each query the chance that a relevant document is among the first k, ties in random order.

    Args:
        scores: (Q, N), larger is better.
        relevant: (Q, N) booleans, at least one in every row.
        k: length of the list.

    Returns:
        (Q,) 0 to 1; whole numbers where nothing is tied at the edge.
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)  # (Q, 1)
    above = (scores > best).sum(axis=1)
    level = scores == best
    good, tied = (level & relevant).sum(axis=1), level.sum(axis=1)
    chances = np.zeros(len(scores))
    for row, (before, hits, all_tied) in enumerate(zip(above, good, tied, strict=True)):
        places = k - int(before)
        if places >= all_tied:
            chances[row] = 1.0
        elif places > 0:
            chances[row] = 1.0 - comb(int(all_tied - hits), places) / comb(int(all_tied), places)
    return chances


def reciprocal_ranks(scores: np.ndarray, relevant: np.ndarray, k: int = 10) -> np.ndarray:
    """Return for each query the expected reciprocal of its first relevant rank, 0 beyond k; see `hit_chances`."""
    chances = [hit_chances(scores, relevant, cut) for cut in range(k + 1)]
    return sum(
        ((chances[rank] - chances[rank - 1]) / rank for rank in range(1, k + 1)), start=np.zeros(len(scores))
    )


def ranking_measures(
    scores: np.ndarray, relevant: np.ndarray, cuts: Sequence[int] = CUTS
) -> dict[str, float]:
    """Return recall_at_k (a relevant document among the first k) for each cut and mrr at 10, means over queries."""
    measures = {f"recall_at_{k}": float(hit_chances(scores, relevant, k).mean()) for k in cuts}
    return measures | {"mrr": float(reciprocal_ranks(scores, relevant).mean())}
