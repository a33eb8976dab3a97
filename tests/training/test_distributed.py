"""Two processes against one: losses, gradients, and the Trainer's own weights."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.tiny_runs import sanm_model, sanm_processor, tone_rows

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

pytestmark = pytest.mark.slow


def start(script: Path, *arguments: str, processes: int = 1) -> str:
    """Run a script in one process or several; return what it wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path):
    script = ROOT / "tests" / "training" / "two_processes.py"
    start(script, str(tmp_path), "one")
    for kind in ("ddp", "fsdp"):
        start(script, str(tmp_path), kind, processes=2)
        for stage in ("joint", "dual"):
            one, two = (torch.load(tmp_path / f"{which}-{stage}.pt") for which in ("one", kind))
            assert two["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-5), (kind, stage)
            assert two["gradients"].keys() == one["gradients"].keys() and one["gradients"]
            for name, gradient in one["gradients"].items():
                torch.testing.assert_close(
                    two["gradients"][name],
                    gradient,
                    rtol=1e-3,
                    atol=1e-5,
                    msg=lambda m, n=name, k=kind: f"{k} {n}: {m}",
                )


@pytest.mark.parametrize("pieces", [(), ("--mini_batch_size", "2")])
def test_trainer_with_two_processes_gives_the_weights_of_one(pieces, tmp_path):
    """Launched as the README says; three steps of 2 × 4 against 1 × 8."""
    model = sanm_model(tmp_path, sampler_ratio=0.01)
    model.text_model.config.hidden_dropout_prob = model.text_model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(tmp_path / "start")
    sanm_processor().save_pretrained(tmp_path / "start")
    tone_rows(tmp_path / "tones", 24)
    weights = {}
    for processes, batch in ((1, "8"), (2, "4")):
        out = tmp_path / f"out{processes}"
        printed = start(
            ROOT / "train_clsr.py",
            *("--model", str(tmp_path / "start"), "--train_manifest", str(tmp_path / "tones" / "rows.jsonl")),
            *("--output_dir", str(out), "--max_steps", "3", "--per_device_train_batch_size", batch),
            *(
                "--use_cpu",
                "True",
                "--disable_tqdm",
                "True",
                "--stage",
                "joint",
                "--optim",
                "sgd",
                "--max_grad_norm",
                "0",
            ),
            *pieces,
            processes=processes,
        )
        assert f"({processes} processes × {batch} × 1 accumulated)" in printed
        assert "7 negatives for each question" in printed
        weights[processes] = load_file(out / "model.safetensors")
    for name, weight in weights[1].items():
        torch.testing.assert_close(
            weights[2][name], weight, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
