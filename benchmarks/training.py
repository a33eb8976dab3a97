"""How fast each stage trains, with and without caches, and how long it waits for data.

    python benchmarks/training.py --manifest speech/squad/manifest.jsonl --json benchmarks/results/training.json

The default checkpoint runs a few steps of every stage on the same clips, one setting after the other in one run. Making
a cache is timed by itself: it is paid once, not per epoch.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import torch

from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.training.arguments import parse_arguments
from modeling_clsr.training.run import run

SETTINGS = {
    "asr": ("--stage", "asr"),
    "asr, decoder alone": ("--stage", "asr", "--trainable", r"\.decoder\."),
    "asr, decoder alone, states cached": (
        "--stage",
        "asr",
        "--trainable",
        r"\.decoder\.",
        "--cache",
        "states",
    ),
    "joint": ("--stage", "joint", "--embedding_weight", "0.1"),
    "joint, pieces of 4": ("--stage", "joint", "--mini_batch_size", "4"),
    "text": ("--stage", "text"),
    "post": ("--stage", "post"),
    "post, transcripts cached": ("--stage", "post", "--cache", "transcripts"),
    "selfdistil": ("--stage", "selfdistil"),
    "dual": ("--stage", "dual"),
}


def measure(name: str, rows: Path, folder: Path, steps: int, batch: int) -> dict:
    """Run one setting twice: the first time makes the caches, the second is the training's own speed."""
    argv = [
        "--model",
        "default",
        "--train_manifest",
        str(rows),
        "--use_cpu",
        "true",
        "--disable_tqdm",
        "true",
    ]
    argv += ["--max_steps", str(steps), "--per_device_train_batch_size", str(batch), "--save_strategy", "no"]
    argv += ["--logging_steps", str(steps), "--learning_rate", "1e-7", "--cache_dir", str(folder / "cache")]
    argv += ["--dataloader_num_workers", "1", *SETTINGS[name]]
    has_cache = "--cache" in argv[-4:] or "selfdistil" in argv[-1]
    preparing = None
    if has_cache:
        start = time.perf_counter()
        run(*parse_arguments([*argv, "--output_dir", str(folder / "first"), "--max_steps", "1"]))
        preparing = time.perf_counter() - start
    trainer = run(*parse_arguments([*argv, "--output_dir", str(folder / "second")]))
    history = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
    heard = sum(row.duration for row in trainer.train_dataset.rows)
    share = steps * batch / len(trainer.train_dataset)  # of the rows, all of like length
    return {
        "setting": name,
        "audio_seconds_per_second": share * heard / history["train_runtime"],
        "data_wait": history["data_wait"],
        "first_run_with_cache_s": preparing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", required=True, help="rows with question and transcript")
    parser.add_argument("--rows", type=int, default=32, help="clips to use")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", help="one setting")
    parser.add_argument("--json", help="write the stamped result")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    stamp = make_stamp()
    lines = Path(args.manifest).read_text(encoding="utf-8").splitlines()
    distinct = {(row := json.loads(line))["audio"]: row for line in lines}
    chosen = sorted(distinct.values(), key=lambda row: abs(row["duration"] - 8.0))[: args.rows]
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / "rows.jsonl"
        root = Path(args.manifest).absolute().parent
        lines = [json.dumps(row | {"audio": str(root / row["audio"])}) for row in chosen]
        rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
        figures = []
        for name in [args.only] if args.only else SETTINGS:
            figures.append(measure(name, rows, Path(temporary), args.steps, args.batch))
            figure = figures[-1]
            print(
                f"{name:36s} {figure['audio_seconds_per_second']:8.1f} s of audio a second, "
                f"{100 * figure['data_wait']:5.1f} % waiting for data"
            )
    if args.json:
        seconds = sum(row["duration"] for row in chosen)
        data = f"{len(chosen)} clips, {seconds / 60:.1f} min, batch {args.batch}, {args.steps} steps"
        write_stamped(args.json, {"settings": figures}, stamp, data=data, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
