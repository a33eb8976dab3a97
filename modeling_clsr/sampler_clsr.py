"""Training of the parallel recogniser: glancing sampler, recognition loss, risk over sampled hypotheses.

Enters: token vectors (B, U, H), scores (B, U, V), labels (B, U). Leaves: token vectors for the second pass,
losses. Sources: Gao et al. 2022, arXiv 2206.08317, sampler and losses; algorithm 1 of the paper, arXiv
2511.09282. Axes: B batch, U tokens, V vocabulary, H speech width, K hypotheses.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GlancingSampler(nn.Module):
    """Swap some token vectors for rows of the output layer that belong to the true tokens; training only.

    Run the decoder once without gradient, pass its best tokens here, and decode again from the result: the
    more errors the first pass made, the more the second one is shown.

    Args:
        ratio: the paper's lambda, share of the errors that is shown, above 0 and below 1.
    """

    def __init__(self, ratio: float = 0.75):
        super().__init__()
        if not 0 < ratio < 1:
            raise ValueError(f"sampler ratio is {ratio} but must lie between 0 and 1; 0.75 is FunASR's")
        self.ratio = ratio

    def forward(
        self,
        token_states: Tensor,
        draft_ids: Tensor,
        labels: Tensor,
        output_weight: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return token vectors for the second pass, (B, U, H); unchanged in evaluation mode."""
        if not self.training:
            return token_states
        return glance(token_states, draft_ids, labels, output_weight, self.ratio, generator)


def glance(
    token_states: Tensor,
    draft_ids: Tensor,
    labels: Tensor,
    output_weight: Tensor,
    ratio: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Swap `floor(errors * ratio)` random token vectors of each item for rows of the true tokens.

    Positions are drawn among all real ones, right or wrong: algorithm 1 of the paper, which its prose
    contradicts.

    Args:
        token_states: predictor's vectors, (B, U, H).
        draft_ids: best tokens of the first pass, (B, U).
        labels: true tokens, (B, U), negative on padding.
        output_weight: weight of the output layer, (V, H).
        ratio: share of the errors that is shown.
        generator: of random numbers, on the device of `token_states`.

    Returns:
        (B, U, H), zero on padding.

    Raises:
        ValueError: the three sequences disagree on U.
    """
    if not token_states.shape[:2] == draft_ids.shape == labels.shape:
        raise ValueError(
            f"token_states are {tuple(token_states.shape[:2])}, draft_ids {tuple(draft_ids.shape)} and "
            f"labels {tuple(labels.shape)}; scale the predictor to the number of labels"
        )
    is_real = labels >= 0  # (B, U)
    num_shown = (((draft_ids != labels) & is_real).sum(dim=-1).float() * ratio).floor()  # (B,)
    draws = torch.rand(labels.shape, device=labels.device, generator=generator).masked_fill(~is_real, 2.0)
    is_shown = draws.argsort(dim=-1).argsort(dim=-1) < num_shown.unsqueeze(-1)
    true_rows = F.embedding(labels.clamp(min=0), output_weight).to(token_states.dtype)  # (B, U, H)
    mixed = torch.where(is_shown.unsqueeze(-1), true_rows, token_states)
    return mixed.masked_fill(~is_real.unsqueeze(-1), 0.0)


def recognition_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Return the cross-entropy per token; smoothing spreads mass over the other V - 1 tokens.

    Args:
        logits: (B, U, V).
        labels: (B, U), negative on padding.
        label_smoothing: mass taken off the true token.

    Returns:
        Scalar, float32; 0 if there is no label. Gradients equal those of FunASR's KL form.
    """
    is_real = labels >= 0
    # torch spreads its smoothing over all tokens, the true one among them.
    spread = label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1)
    loss = F.cross_entropy(logits[is_real].float(), labels[is_real], label_smoothing=spread, reduction="sum")
    return loss / is_real.sum().clamp(min=1)


def minimum_error_loss(
    logits: Tensor,
    labels: Tensor,
    num_hypotheses: int = 4,
    block_probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the expected number of wrong tokens over sampled hypotheses, less its mean (MWER).

    Without a beam, hypotheses are made by blocking the best token at random positions, where the second best
    steps in. Source: Gao et al. 2022; the sampling is that of a public re-implementation,
    because they do not specify theirs.

    Args:
        logits: (B, U, V).
        labels: (B, U), negative on padding.
        num_hypotheses: K.
        block_probability: chance of each position to lose its best token.
        generator: of random numbers, on the device of `logits`.

    Returns:
        Scalar, float32: mean over the batch of sum over hypotheses of probability * (errors - mean errors).
    """
    if num_hypotheses < 2:
        raise ValueError(f"num_hypotheses is {num_hypotheses} but at least 2 must compete; 4 is usual")
    is_real = labels >= 0
    scores = logits.float()
    best, ids = scores.topk(2, dim=-1)  # (B, U, 2)
    log_probs = best - scores.logsumexp(dim=-1, keepdim=True)
    shape = (num_hypotheses, *labels.shape)
    is_blocked = torch.rand(shape, device=logits.device, generator=generator) < block_probability  # (K, B, U)
    hypotheses = torch.where(is_blocked, ids[..., 1], ids[..., 0])
    chosen = torch.where(is_blocked, log_probs[..., 1], log_probs[..., 0])
    shares = chosen.masked_fill(~is_real, 0.0).sum(dim=-1).softmax(dim=0)  # (K, B)
    errors = ((hypotheses != labels) & is_real).sum(dim=-1).float()
    return (shares * (errors - errors.mean(dim=0))).sum(dim=0).mean()
