"""The ranking measures as an `evaluate.Metric`: `evaluate.load("<this folder>")`, without a network."""

import datasets
import evaluate
import numpy as np

from modeling_clsr.evaluation.ranking import query_measures

DESCRIPTION = """Recall, hit rate, MRR and nDCG of retrieval. Equal scores count by the places they share."""
INPUTS = """
Args:
    predictions: for each query, its score of every document; larger is better.
    references: for each query, the numbers of the documents that answer it.

Returns:
    recall_at_1, recall_at_5, recall_at_10, hit_at_5, mrr_at_10 and ndcg_at_10, means over queries, 0 to 1.

Examples:
    >>> metric = evaluate.load("modeling_clsr/evaluation/clsr_retrieval")
    >>> metric.compute(predictions=[[0.1, 0.9], [0.8, 0.2]], references=[[1], [1]])["recall_at_1"]
    0.5
"""
CITATION = """@inproceedings{clsr, title={Contrastive Language-Speech Retriever}, note={arXiv 2511.09282}}"""


class ClsrRetrieval(evaluate.Metric):
    """See INPUTS."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[list[int]]) -> dict[str, float]:
        lengths = {len(row) for row in predictions}
        if len(lengths) != 1:
            raise ValueError(
                f"queries score {min(lengths)} to {max(lengths)} documents; score the same documents for each query"
            )
        scores = np.array(predictions)
        relevant = np.zeros(scores.shape, dtype=bool)
        for row, answers in enumerate(references):
            relevant[row, answers] = True
        return {name: float(values.mean()) for name, values in query_measures(scores, relevant).items()}
