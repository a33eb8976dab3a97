"""GradCache: a batch of any size in small pieces, with the loss and the gradients of the whole (arXiv 2101.06983).

Every piece is encoded twice: without gradient for its vectors, then, once the loss has told what each vector should
do, with gradient. The state of chance is kept, so that dropout is the same both times.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .objective import COUNTED_BY, Part, count, process_share, total

PER_ROW = "context_groups"  # a tensor that every batch has, one entry per row


class Chance:
    """The state of the random numbers on the CPU and on the devices of a batch."""

    def __init__(self, devices: list[torch.device]):
        self.devices = devices
        self.cpu = torch.get_rng_state()
        self.states = [torch.cuda.get_rng_state(device) for device in devices]

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Run with this state, then go on with the one from before."""
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.states, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def cached_step(
    batch: dict[str, Any],
    size: int,
    forward: Callable[[dict[str, Any]], Any],
    vector_losses: Callable[[Tensor, Tensor, Tensor, dict[str, Any]], dict[str, Part]],
    clip_losses: Callable[[Any, dict[str, Any]], dict[str, Part]],
    backward: Callable[[Tensor, bool], None],
) -> dict[str, Part]:
    """Run one step.

    Args:
        batch: tensors with one row per pair.
        size: rows of a piece.
        forward: inputs of a piece -> `CLSROutput`.
        vector_losses: queries, documents, scale, batch -> losses of the whole batch's vectors.
        clip_losses: output and piece -> losses of its clips.
        backward: gets a scalar of each piece, and whether it is the last one, where gradients are exchanged.

    Returns:
        The losses of the whole batch, without gradient.
    """
    pieces = list(split_rows(batch, size))
    devices = sorted(
        {value.device for value in batch.values() if torch.is_tensor(value) and value.device.type == "cuda"},
        key=str,
    )
    chances, queries, documents = [], [], []
    with torch.no_grad():
        for piece in pieces:
            chances.append(Chance(devices))
            output = forward(piece)
            queries.append(output.text_embeds)
            documents.append(documents_of(output))
            scale = output.logit_scale
    leaves = [torch.cat(rows).detach().requires_grad_() for rows in (queries, documents)]
    leaves.append(scale.detach().requires_grad_())
    parts = vector_losses(leaves[0], leaves[1], leaves[2], batch)
    gradients = torch.autograd.grad(total(parts), leaves, allow_unused=True)
    parts = {name: Part(part.weight, part.value.detach(), part.counted_by) for name, part in parts.items()}
    shares = {counted_by: process_share(batch, counted_by) for counted_by in COUNTED_BY}
    start = 0
    for number, (piece, chance) in enumerate(zip(pieces, chances, strict=True)):
        with chance.again():
            output = forward(piece)
        end = start + len(piece[PER_ROW])
        surrogate = _follow(output, gradients, start, end, is_first=number == 0)
        for name, part in clip_losses(output, piece).items():
            share = (
                count(piece, part.counted_by)
                / max(count(batch, part.counted_by), 1)
                * shares[part.counted_by]
            )
            surrogate = surrogate + share * part.weight * part.value
            value = share * part.value.detach()
            known = parts.get(name)
            parts[name] = Part(part.weight, value if known is None else known.value + value, part.counted_by)
        backward(surrogate, number == len(pieces) - 1)
        start = end
    return parts


def split_rows(batch: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Yield pieces of `size` rows; they keep the padding of the batch."""
    for start in range(0, len(batch[PER_ROW]), size):
        yield {
            name: value[start : start + size] if torch.is_tensor(value) else value
            for name, value in batch.items()
        }


def documents_of(output: Any) -> Tensor:
    """Return what questions are compared with: the clips' vectors, or the passages' where nothing is heard."""
    return output.passage_embeds if output.audio_embeds is None else output.audio_embeds


def _follow(output: Any, gradients: Any, start: int, end: int, is_first: bool) -> Tensor:
    """Return a scalar whose gradient is that of the whole loss through the rows of one piece."""
    surrogate = (output.text_embeds * gradients[0][start:end]).sum()
    surrogate = surrogate + (documents_of(output) * gradients[1][start:end]).sum()
    # The temperature belongs to no row: once for all pieces, and no effect in the others.
    share = gradients[2] if is_first else torch.zeros_like(gradients[2])
    return surrogate + (output.logit_scale * share).sum()
