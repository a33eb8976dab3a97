"""Ranking measures against closed forms, a plain loop, and two other libraries."""

import itertools

import numpy as np
import pytest

from modeling_clsr.evaluation.ranking import (
    expected_ranks,
    hit_chances,
    normalised_gains,
    query_measures,
    ranking_measures,
    recalls,
    reciprocal_ranks,
    relevance_of,
    square_measures,
)

RANDOM = np.random.default_rng(0)


def random_pool(queries: int = 30, documents: int = 40, most: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores without equals, and one to `most` relevant documents for each query."""
    scores = RANDOM.permuted(np.arange(queries * documents).reshape(queries, documents), axis=1).astype(float)
    relevant = np.zeros(scores.shape, dtype=bool)
    for row in relevant:
        row[RANDOM.choice(documents, RANDOM.integers(1, most + 1), replace=False)] = True
    return scores, relevant


def by_all_orders(measure, scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean of `measure(relevance in rank order)` over every order of one query's documents that the scores allow."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return float(np.mean([measure(relevant[list(order)]) for order in orders]))


def test_identity_matrix_finds_everything_both_ways():
    for measures in square_measures(np.eye(20)).values():
        assert all(values.mean() == 1.0 for values in measures.values())


def test_constant_matrix_gives_k_of_n_in_random_order_and_nothing_by_expected_rank():
    for measures in square_measures(np.ones((40, 40))).values():
        for k in (1, 5, 10):
            assert measures[f"recall_at_{k}"].mean() == 0.0
            assert measures[f"recall_at_{k}_random_ties"].mean() == pytest.approx(k / 40)


def test_expected_rank_of_a_constant_row_is_its_middle():
    assert expected_ranks(np.ones((1, 9)), np.eye(9, dtype=bool)[:1]).tolist() == [5.0]


def test_transposing_swaps_the_directions():
    scores = RANDOM.standard_normal((12, 12))
    forward, turned = square_measures(scores), square_measures(scores.T)
    for name, values in forward["q2c"].items():
        assert (values == turned["c2q"][name]).all()


def test_square_matrix_needs_as_many_clips_as_questions():
    with pytest.raises(ValueError, match=r"the shape \(2, 3\) but one clip for each question"):
        square_measures(np.ones((2, 3)))


def test_recall_never_falls_as_k_grows():
    scores, relevant = random_pool()
    values = [recalls(scores, relevant, k).mean() for k in range(1, 41)]
    assert values == sorted(values) and values[-1] == 1.0


def test_equals_count_as_the_mean_over_all_their_orders():
    scores = np.array([2.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    relevant = np.array([False, True, False, True, True, False])
    row, good = scores[None], relevant[None]

    def gain(k):
        discounts = 1 / np.log2(np.arange(6) + 2) * (np.arange(6) < k)
        return lambda order: (order * discounts).sum() / discounts[: relevant.sum()].sum()

    for k in range(1, 7):
        expected = by_all_orders(lambda order, k=k: order[:k].sum() / relevant.sum(), scores, relevant)
        assert recalls(row, good, k)[0] == pytest.approx(expected)
        assert hit_chances(row, good, k)[0] == pytest.approx(
            by_all_orders(lambda order, k=k: float(order[:k].any()), scores, relevant)
        )
        assert normalised_gains(row, good, k)[0] == pytest.approx(by_all_orders(gain(k), scores, relevant))
    assert reciprocal_ranks(row, good)[0] == pytest.approx(
        by_all_orders(lambda order: 1 / (1 + order.argmax()), scores, relevant)
    )
    assert expected_ranks(row, good)[0] == pytest.approx(
        by_all_orders(lambda order: 1 + order.argmax(), scores, relevant)
    )


def test_groups_share_their_relevant_documents():
    relevant = relevance_of(np.array(["a", "b"]), np.array(["b", "a", "b"]))
    assert relevant.tolist() == [[False, True, False], [True, False, True]]
    scores = np.array([[0.9, 0.8, 0.1], [0.1, 0.9, 0.8]])
    measures = query_measures(scores, relevant)
    assert measures["recall_at_1"].tolist() == [0.0, 0.0] and measures["recall_at_5"].tolist() == [1.0, 1.0]
    assert measures["mrr_at_10"].tolist() == [0.5, 0.5]
    assert ranking_measures(scores, relevant)["mrr"] == 0.5


def test_measures_agree_with_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    scores, relevant = random_pool()
    asked = {"recall.1,5,10", "success.5", "ndcg_cut.10", "recip_rank"}
    judged = {f"q{q}": {f"d{d}": int(good) for d, good in enumerate(row)} for q, row in enumerate(relevant)}
    run = {f"q{q}": {f"d{d}": value for d, value in enumerate(row)} for q, row in enumerate(scores)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, asked).evaluate(run)
    ours = query_measures(scores, relevant)
    names = {f"recall_at_{k}": f"recall_{k}" for k in (1, 5, 10)}
    names |= {"hit_at_5": "success_5", "ndcg_at_10": "ndcg_cut_10"}
    for name, key in names.items():
        assert ours[name] == pytest.approx([theirs[f"q{q}"][key] for q in range(len(scores))]), name
    ranks = [theirs[f"q{q}"]["recip_rank"] for q in range(len(scores))]
    assert ours["mrr_at_10"] == pytest.approx([rank if rank >= 0.1 else 0.0 for rank in ranks])


def test_measures_agree_with_sentence_transformers():
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    scores, relevant = random_pool()
    queries = {f"q{q}": "" for q in range(len(scores))}
    documents = {f"d{d}": "" for d in range(scores.shape[1])}
    wanted = {f"q{q}": {f"d{d}" for d in np.flatnonzero(row)} for q, row in enumerate(relevant)}
    theirs = evaluation.InformationRetrievalEvaluator(
        queries, documents, wanted, accuracy_at_k=[5], precision_recall_at_k=[1, 5, 10], write_csv=False
    ).compute_metrics(
        [[{"corpus_id": f"d{d}", "score": value} for d, value in enumerate(row)] for row in scores]
    )
    ours = {name: float(values.mean()) for name, values in query_measures(scores, relevant).items()}
    for k in (1, 5, 10):
        assert ours[f"recall_at_{k}"] == pytest.approx(theirs["recall@k"][k])
    assert ours["hit_at_5"] == pytest.approx(theirs["accuracy@k"][5])
    assert ours["mrr_at_10"] == pytest.approx(theirs["mrr@k"][10])
    assert ours["ndcg_at_10"] == pytest.approx(theirs["ndcg@k"][10])


@pytest.mark.slow
def test_metric_folder_loads_offline_and_gives_the_same_figures(tmp_path):
    """`slow`: the library copies the folder and imports pandas and pyarrow."""
    from pathlib import Path

    evaluate = pytest.importorskip("evaluate")
    folder = Path(__file__).parents[2] / "modeling_clsr" / "evaluation" / "clsr_retrieval"
    metric = evaluate.load(str(folder), cache_dir=str(tmp_path))
    scores, relevant = random_pool(8, 12)
    found = metric.compute(
        predictions=scores.tolist(), references=[np.flatnonzero(row).tolist() for row in relevant]
    )
    expected = {name: float(values.mean()) for name, values in query_measures(scores, relevant).items()}
    assert found == pytest.approx(expected)
