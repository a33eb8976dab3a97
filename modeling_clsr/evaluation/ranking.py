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


def expected_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return for each query the expected rank of its first relevant document, from 1. Arguments as `hit_chances`.

    Among equals in random order the first of g good ones of t stands, on average, at place (t + 1) / (g + 1).
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)  # (Q, 1)
    level = scores == best
    good, tied = (level & relevant).sum(axis=1), level.sum(axis=1)
    return (scores > best).sum(axis=1) + (tied + 1) / (good + 1)


def recalls(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Return for each query the expected share of its relevant documents among the first k, ties in random order."""
    return _mean_over_relevant(scores, relevant, np.arange(scores.shape[1]) < k)


def normalised_gains(scores: np.ndarray, relevant: np.ndarray, k: int = 10) -> np.ndarray:
    """Return for each query the expected nDCG of the first k, ties in random order; a relevant document gains 1.

    Source: Järvelin and Kekäläinen 2002, with the discount 1 / log2(rank + 1).
    """
    places = np.arange(scores.shape[1])
    discounts = np.where(places < k, 1 / np.log2(places + 2), 0.0)
    count = relevant.sum(axis=1)
    ideal = np.cumsum(discounts)[count - 1]
    return _mean_over_relevant(scores, relevant, discounts) * count / ideal


def _mean_over_relevant(scores: np.ndarray, relevant: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Return for each query the mean worth of the places of its relevant documents; equals share their places.

    Args:
        scores: (Q, N).
        relevant: (Q, N) booleans, at least one in every row.
        worth: (N,) of each place.
    """
    total = np.concatenate([[0.0], np.cumsum(worth)])  # total[p]: of the first p places
    means = np.zeros(len(scores))
    for row, (line, good) in enumerate(zip(scores, relevant, strict=True)):
        order = np.sort(line)
        own = line[good]
        above = len(line) - np.searchsorted(order, own, side="right")
        until = len(line) - np.searchsorted(order, own, side="left")
        means[row] = ((total[until] - total[above]) / (until - above)).mean()
    return means


def query_measures(
    scores: np.ndarray, relevant: np.ndarray, cuts: Sequence[int] = CUTS
) -> dict[str, np.ndarray]:
    """Return every measure for each query, (Q,) 0 to 1, ties in random order.

    recall_at_k is the share of the relevant documents among the first k, hit_at_5 whether one of them is there; the
    two are the same where only one document is relevant. mrr_at_10 and ndcg_at_10 see the first ten.
    """
    return {f"recall_at_{k}": recalls(scores, relevant, k) for k in cuts} | {
        "hit_at_5": hit_chances(scores, relevant, 5),
        "mrr_at_10": reciprocal_ranks(scores, relevant, 10),
        "ndcg_at_10": normalised_gains(scores, relevant, 10),
    }


def square_measures(scores: np.ndarray, cuts: Sequence[int] = CUTS) -> dict[str, dict[str, np.ndarray]]:
    """Return the paper's measures of a square matrix, both ways, for each question and each clip.

    The document that belongs to a query has its own number; equals count by their expected rank, so that a constant
    matrix scores 0 at small k. Under "recall_at_k_random_ties" equals stand in random order: k / n there.

    Args:
        scores: (n, n) of questions against clips.
        cuts: values of k.

    Returns:
        "q2c" (a question ranks the clips) and "c2q", each with (n,) arrays.

    Raises:
        ValueError: the matrix is not square.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"the scores have the shape {scores.shape} but one clip for each question is needed; "
            "use query_measures for other pools"
        )
    own = np.eye(len(scores), dtype=bool)
    measures = {}
    for direction, matrix in (("q2c", scores), ("c2q", scores.T)):
        ranks = expected_ranks(matrix, own)
        measures[direction] = {f"recall_at_{k}": (ranks <= k).astype(float) for k in cuts} | {
            f"recall_at_{k}_random_ties": recalls(matrix, own, k) for k in cuts
        }
    return measures


def ranking_measures(
    scores: np.ndarray, relevant: np.ndarray, cuts: Sequence[int] = CUTS
) -> dict[str, float]:
    """Return recall_at_k (a relevant document among the first k) for each cut and mrr at 10, means over queries."""
    measures = {f"recall_at_{k}": float(hit_chances(scores, relevant, k).mean()) for k in cuts}
    return measures | {"mrr": float(reciprocal_ranks(scores, relevant).mean())}
