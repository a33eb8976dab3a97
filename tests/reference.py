"""Plain twins of the vectorised functions: loops and full matrices, slow and easy to check by eye."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F


def walk_and_fire(
    frames: Tensor, weights: Tensor, num_tokens: int | None = None, threshold: float = 1.0, tail: float = 0.0
) -> Tensor:
    """Walk over the frames of one item, (F, H) and (F,), and return its tokens, (U, H)."""
    if num_tokens is not None:
        weights = weights * (num_tokens * threshold / weights.sum())
    token, mass = torch.zeros_like(frames[0]), weights.new_zeros(())
    tokens = []
    for frame, weight in zip(frames, weights, strict=True):
        while mass + weight >= threshold:
            room = threshold - mass
            tokens.append(token + room * frame)
            token, mass, weight = torch.zeros_like(frame), torch.zeros_like(mass), weight - room
        token, mass = token + weight * frame, mass + weight
    if num_tokens is None:
        is_missing = bool(mass + tail >= threshold)
    else:
        is_missing = len(tokens) < num_tokens  # the last sum may end a rounding error below the threshold
    tokens += [token] if is_missing else []
    return torch.stack(tokens) if tokens else frames.new_zeros(0, frames.shape[1])


def quantize_with_one_hot(logits: Tensor, table: Tensor, temperature: float) -> Tensor:
    """Return straight-through embeddings from the full one-hot matrix."""
    soft = (logits / temperature).softmax(dim=-1)
    hard = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(soft.dtype)
    return (hard + soft - soft.detach()) @ table


def best_ctc_path(log_probs: Tensor, units: list[int], blank_id: int) -> tuple[float, list[int]]:
    """Try all paths of one item, (F, C); return score and classes of the best that spells the units."""
    num_frames, num_classes = log_probs.shape
    best = (float("-inf"), [])
    for path in itertools.product(range(num_classes), repeat=num_frames):
        merged = [unit for unit, _ in itertools.groupby(path) if unit != blank_id]
        if merged == units:
            score = sum(log_probs[frame, unit].item() for frame, unit in enumerate(path))
            best = max(best, (score, list(path)))
    return best


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy per real label with `smoothing` spread evenly over the other tokens."""
    losses = []
    for scores, label in zip(logits.flatten(0, 1), labels.flatten().tolist(), strict=True):
        if label >= 0:
            target = torch.full_like(scores, smoothing / (len(scores) - 1))
            target[label] = 1 - smoothing
            losses.append(-(target * scores.log_softmax(dim=-1)).sum())
    return torch.stack(losses).mean()
