"""What two processes compute; run by test_distributed.py through torchrun, or alone for the reference.

torchrun --nproc_per_node 2 two_processes.py FOLDER {ddp,fsdp}
python two_processes.py FOLDER one
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from modeling_clsr.training.objective import clip_losses, process_share, split_batch, total, vector_losses
from modeling_clsr.training.rows import SpeechRows
from modeling_clsr.training.stages import STAGES, prepare_stage
from tests.training.tiny_runs import arguments, collator, sanm_model, sanm_processor, tone_rows


def main(folder: Path, kind: str) -> None:
    torch.set_num_threads(1)
    if kind != "one":
        dist.init_process_group("gloo")
    for stage in ("joint", "dual"):
        measure(folder, kind, stage)
    if kind != "one":
        dist.barrier()
        dist.destroy_process_group()
        os._exit(0)  # threads of gloo sometimes abort a process that has finished (torch 2.13)


def measure(folder: Path, kind: str, stage: str) -> None:
    """Save loss and gradients of one step; the wrapped model must be gone before the process group is."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if kind != "one" else (0, 1)
    model = sanm_model(folder, sampler_ratio=0.01)
    args = arguments(folder, stage)
    prepare_stage(model, stage)
    model.eval()  # no dropout, no sampler: chance would differ between processes
    model.speech_model.train(False)
    data = SpeechRows(tone_rows(folder / f"tones{rank}", 8, shared_context=True))
    share = 8 // world
    batch = collator(sanm_processor(), stage)([data[row] for row in range(rank * share, (rank + 1) * share)])
    wrapped = model
    if kind == "ddp":
        wrapped = DistributedDataParallel(model)
    if kind == "fsdp":
        for layer in [*model.speech_model.encoder.layers, *model.text_model.encoder.layer]:
            fully_shard(layer)
        wrapped = fully_shard(model)
    output = wrapped(**split_batch(batch)[0], return_embeds=STAGES[stage].embeds_clips)
    parts = vector_losses(
        output.text_embeds, output.audio_embeds, output.logit_scale, batch, args, model.config
    )
    for name, part in clip_losses(output, batch, args, model.config).items():
        part.value = part.value * process_share(batch, part.counted_by)
        parts[name] = part
    loss = total(parts)
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            whole = parameter.grad.full_tensor() if kind == "fsdp" else parameter.grad
            gradients[name] = whole.clone()
    value = loss.detach().clone()
    if world > 1:
        dist.all_reduce(value)
        value /= world
    if rank == 0:
        torch.save({"loss": value, "gradients": gradients}, folder / f"{kind}-{stage}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
