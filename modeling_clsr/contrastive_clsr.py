"""The retrieval loss: vectors of questions and clips in, InfoNCE out.

Axes: A anchors, N candidates, D vector width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOGIT_SCALE = math.log(100.0)  # as in CLIP


def temperature_scale(logit_scale: Tensor) -> Tensor:
    """Return the factor of the cosines, (1,) float32, from its clamped logarithm."""
    return logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp()


def info_nce(
    anchors: Tensor,
    candidates: Tensor,
    targets: Tensor,
    scale: Tensor | float,
    anchor_groups: Tensor | None = None,
    candidate_groups: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of each anchor's own candidate among all.

    Args:
        anchors: (A, D) unit vectors.
        candidates: (N, D) unit vectors.
        targets: (A,) the candidate that belongs to each anchor.
        scale: inverse temperature.
        anchor_groups: (A,) ids of the passages that answer the anchors.
        candidate_groups: (N,) ids of the candidates' passages. A candidate of the anchor's own group that is not its
            target is no negative: several questions of a batch may share a passage. Negative ids share nothing.

    Returns:
        Scalar, float32, mean over anchors.

    Source: van den Oord et al. 2018, arXiv 1807.03748, equation 4; the contrastive loss of the paper, arXiv 2511.09282.
    """
    scores = scale * anchors.float() @ candidates.float().T  # (A, N)
    if anchor_groups is not None and candidate_groups is not None:
        same = (anchor_groups[:, None] == candidate_groups[None]) & (anchor_groups[:, None] >= 0)
        same[torch.arange(len(targets), device=targets.device), targets] = False
        scores = scores.masked_fill(same, -torch.inf)
    return F.cross_entropy(scores, targets)


def contrastive_loss(
    queries: Tensor, documents: Tensor, scale: Tensor | float, groups: Tensor | None = None
) -> Tensor:
    """Return the symmetric InfoNCE of pairs.

    Args:
        queries: (A, D) unit vectors.
        documents: (N, D) unit vectors, N >= A; document i belongs to query i, the rest are hard negatives.
        scale: inverse temperature.
        groups: (A,) ids of the documents' passages, see `info_nce`; hard negatives belong to none.

    Returns:
        Scalar, float32: mean of both directions; hard negatives are candidates of queries only.
    """
    targets = torch.arange(len(queries), device=queries.device)
    all_groups = None if groups is None else F.pad(groups, (0, len(documents) - len(queries)), value=-1)
    forward = info_nce(queries, documents, targets, scale, groups, all_groups)
    backward = info_nce(documents[: len(queries)], queries, targets, scale, groups, groups)
    return (forward + backward) / 2
