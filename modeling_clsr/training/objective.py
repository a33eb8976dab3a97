"""The loss of a stage: what the model returned and what the batch knew in, named losses out.

Two kinds, because large batches are computed in pieces: losses of the whole batch's vectors (questions against clips),
and losses of single clips, whose mean over the batch is a weighted sum over its pieces.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..contrastive_clsr import info_nce
from .arguments import CLSRTrainingArguments
from .losses import embedding_distillation, score_distillation
from .memory import MemoryBank
from .teacher import self_distillation

# Names in a batch that are not for `CLSRModel.forward`.
BESIDE = (
    "context_groups",
    "row_index",
    "teacher_states",
    "teacher_states_mask",
    "teacher_best_ids",
    "teacher_log_probs",
    "teacher_mask",
    "teacher_text_embeds",
    "teacher_passage_embeds",
)
COUNTED_BY = ("clips", "tokens", "tokens and ends")


@dataclass
class Part:
    """One loss: its weight, and its mean over the "clips", "tokens" or "tokens and ends" of a batch or a piece."""

    weight: float
    value: Tensor
    counted_by: str = "clips"


def split_batch(batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a batch into the arguments of `forward` and what only the losses read."""
    return (
        {name: value for name, value in batch.items() if name not in BESIDE},
        {name: value for name, value in batch.items() if name in BESIDE},
    )


def vector_losses(
    queries: Tensor,
    documents: Tensor,
    scale: Tensor,
    beside: dict[str, Any],
    args: CLSRTrainingArguments,
    config: Any,
    bank: MemoryBank | None = None,
) -> dict[str, Part]:
    """Return the losses that compare all questions with all clips (or passages) of all processes.

    Each process scores its own rows against everything; the gradient of the others' rows comes back through the
    gathering. Averaged over processes, as DDP does, that is the gradient of one process with the whole batch.

    Args:
        queries: (B, D) unit vectors of this process.
        documents: (B, D) likewise.
        scale: (1,) inverse temperature.
        beside: "context_groups" (B,), "row_index" (B,), and the teacher's vectors for score distillation.
        args: weights.
        config: CLSRConfig.
        bank: if given, clips are compared with the questions of all rows, and questions with the clips of the batch
            and the transcripts of all other rows.
    """
    all_documents = gather(documents)
    targets = _rank() * len(queries) + torch.arange(len(queries), device=queries.device)
    if bank is None:
        groups = beside["context_groups"]
        all_groups = gather(groups)
        forward = info_nce(queries, all_documents, targets, scale, groups, all_groups)
        backward = info_nce(documents, gather(queries), targets, scale, groups, all_groups)
    else:
        rows = beside["row_index"]
        groups = bank.groups[rows]
        candidates = torch.cat((all_documents, bank.documents))
        # A row's own transcript shares its group, so it is no negative of its clip.
        all_groups = torch.cat((bank.groups[gather(rows)], bank.groups))
        forward = info_nce(queries, candidates, targets, scale, groups, all_groups)
        backward = info_nce(documents, bank.queries, rows, scale, groups, bank.groups)
    # Alone it is the loss; beside a recognition loss it has the paper's weight.
    weight = config.contrastive_weight if args.stage == "joint" else 1.0
    parts = {"contrastive": Part(weight, (forward + backward) / 2)}
    if args.score_weight:
        teacher = beside["teacher_text_embeds"] @ gather(beside["teacher_passage_embeds"]).T
        student = scale * queries @ all_documents.T
        parts["score_distillation"] = Part(
            args.score_weight, score_distillation(student, teacher, args.teacher_temperature)
        )
    return parts


def clip_losses(
    output: Any, beside: dict[str, Any], args: CLSRTrainingArguments, config: Any
) -> dict[str, Part]:
    """Return the losses of single clips.

    Args:
        output: `CLSROutput`.
        beside: the teacher's targets.
        args: weights and stage.
        config: CLSRConfig.
    """
    parts: dict[str, Part] = {}
    if args.stage == "selfdistil":
        states, distributions = self_distillation(output, beside)
        return {
            "states": Part(args.states_weight, states.mean()),
            "distribution": Part(args.distribution_weight, distributions.mean()),
        }
    if output.recognition_loss is not None and args.stage in ("asr", "joint"):
        writes_ends = config.decoder_type == "recognizer" and config.recognizer_type == "seq2seq"
        by = "tokens and ends" if writes_ends else "tokens"
        parts["recognition"] = Part(config.recognition_weight, output.recognition_loss, by)
    if output.predictor_loss is not None and args.stage in ("asr", "joint"):
        parts["predictor"] = Part(config.quantity_weight, output.predictor_loss, "tokens")
    if args.embedding_weight and output.audio_embeds is not None and output.passage_embeds is not None:
        distance = embedding_distillation(output.audio_embeds, output.passage_embeds)
        parts["embedding"] = Part(args.embedding_weight, distance.mean())
    return parts


def count(batch: dict[str, Any], counted_by: str) -> int:
    """Return how many "clips", "tokens" or "tokens and ends" a loss of the batch is a mean over."""
    clips = len(batch["context_groups"])
    if counted_by == "clips" or "transcript_mask" not in batch:
        return clips
    return int(batch["transcript_mask"].sum()) + (clips if counted_by == "tokens and ends" else 0)


def process_share(batch: dict[str, Any], counted_by: str) -> float:
    """Return what a loss of this process is multiplied by, so that the mean over processes is that over all tokens.

    1 with one process. DDP averages gradients; a process with fewer tokens than the others must count for less.
    """
    if counted_by == "clips" or not _is_distributed():
        return 1.0
    own = torch.tensor([float(count(batch, counted_by))], device=batch["context_groups"].device)
    everyone = own.clone()
    dist.all_reduce(everyone)
    return float(own * dist.get_world_size() / everyone.clamp(min=1))


def total(parts: dict[str, Part]) -> Tensor:
    """Return the weighted sum."""
    return torch.stack([part.weight * part.value for part in parts.values()]).sum()


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward each process gets the gradients that all of them have for its rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(tensor: Tensor) -> Tensor:
    """Join the rows of all processes, with gradient; every process must hold the same number.

    The library's own function for this has had three names since torch 2.6.
    """
    return _Gather.apply(tensor) if _is_distributed() else tensor  # type: ignore[no-untyped-call]


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if _is_distributed() else 0
