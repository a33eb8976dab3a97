"""Word times: which encoder frames each token was read from.

Enters: cross-attention queries and keys of a decoder. Leaves: the first frame of each token.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

MEDIAN_WIDTH = 7  # frames, as in Whisper's own timing code
# Comparisons that leave the median of seven values in the fourth place, several times faster than sorting them.
# Source: N. Devillard, "Fast median search: an ANSI C implementation" (1998), opt_med7.
MEDIAN_NETWORK = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)


class QueryRecorder:
    """Keep the cross-attention queries that a decoder computes while it decodes, at no second pass.

    Use as a context manager around each step.
    """

    def __init__(self, attentions: dict[int, nn.Module]):
        self.attentions = attentions
        self.queries: dict[int, list[Tensor]] = {layer: [] for layer in attentions}

    def __enter__(self) -> "QueryRecorder":
        self._hooks = [
            cast(nn.Module, attention.q_proj).register_forward_hook(
                lambda module, args, output, layer=layer: self.queries[layer].append(output[:, -1].detach())
            )
            for layer, attention in self.attentions.items()
        ]
        return self

    def __exit__(self, *exc_info):
        for hook in self._hooks:
            hook.remove()

    def clip(self, layer: int, row_of_step: list[int]) -> Tensor:
        """Return the queries of one clip, (N, H); `row_of_step` gives its row in the batch of every step."""
        steps = zip(self.queries[layer], row_of_step, strict=False)
        return torch.stack([query[row] for query, row in steps])


def attention_matrix(queries: list[Tensor], keys: list[Tensor], heads: list[list[int]]) -> Tensor:
    """Turn the alignment heads' attention into one matrix of evidence.

    Args:
        queries: for each layer with alignment heads, (N, heads * D) unscaled queries of one clip.
        keys: for each of these layers, (heads, F, D).
        heads: for each of these layers, the heads to use.

    Returns:
        (N, F) float32, large where the token that step n predicts was read from frame f.

    Source: Whisper's word timing (openai/whisper, timing.py): attention standardised over the tokens, smoothed by a
    median over frames, averaged over heads.
    """
    maps = []
    for query, key, chosen in zip(queries, keys, heads, strict=True):
        query = query.float().view(len(query), key.shape[0], -1).transpose(0, 1)  # (heads, N, D)
        scores = query[chosen] @ key[chosen].float().transpose(1, 2) * query.shape[-1] ** -0.5
        maps.append(scores.softmax(dim=-1))
    weights = torch.cat(maps)  # (chosen heads, N, F)
    if weights.shape[1] > 1:
        deviation = weights.std(dim=1, keepdim=True, unbiased=False).clamp(min=1e-8)
        weights = (weights - weights.mean(dim=1, keepdim=True)) / deviation
    side = MEDIAN_WIDTH // 2
    if weights.shape[2] > side:
        padded = nn.functional.pad(weights, (side, side), mode="reflect")
        weights = running_median(padded)
    return weights.mean(dim=0)


def running_median(values: Tensor) -> Tensor:
    """Return the median of every seven neighbours, (…, F) to (…, F - 6)."""
    count = values.shape[-1] - MEDIAN_WIDTH + 1
    places = [values[..., start : start + count] for start in range(MEDIAN_WIDTH)]
    for low, high in MEDIAN_NETWORK:
        places[low], places[high] = (
            torch.minimum(places[low], places[high]),
            torch.maximum(places[low], places[high]),
        )
    return places[MEDIAN_WIDTH // 2]


def monotonic_path(evidence: Tensor) -> list[int]:
    """Find the first frame of each token on the best monotonic path.

    Dynamic time warping whose steps are "same token" and "next token": each token takes one frame or more, all frames
    are taken, none twice. Departs from Whisper's, which also lets several tokens share a frame.

    Args:
        evidence: (N, F), the larger the better.

    Returns:
        N frame numbers, ascending; with fewer frames than tokens, evenly spread ones.
    """
    num_tokens, num_frames = evidence.shape
    if num_frames < num_tokens:
        return [token * num_frames // num_tokens for token in range(num_tokens)]
    # In numpy, whose small operations cost a fraction of torch's.
    columns = evidence.double().cpu().numpy().T.copy()  # (F, N)
    best = np.full(num_tokens, -np.inf)
    best[0] = columns[0, 0]
    advanced = np.zeros((num_frames, num_tokens), dtype=bool)
    shifted = np.full(num_tokens, -np.inf)
    for frame in range(1, num_frames):
        shifted[1:] = best[:-1]
        np.greater(shifted, best, out=advanced[frame])
        np.maximum(best, shifted, out=best)
        best += columns[frame]
    starts = [0] * num_tokens
    token = num_tokens - 1
    moves = advanced.tolist()
    for frame in range(num_frames - 1, 0, -1):
        if token and moves[frame][token]:
            starts[token] = frame
            token -= 1
    return starts
