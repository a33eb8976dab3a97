"""The stamp of a result: what it depended on, so that it can be had again.

Enters: figures. Leaves: a JSON file with the figures and their stamp.
"""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

CODE = ("--", ":/modeling_clsr", ":/benchmarks/*.py", ":/recipes", ":/*.py")  # what a figure can depend on
PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "faster-whisper",
    "silero-vad",
    "lancedb",
    "numpy",
)


def write_stamped(path: str | Path, figures: dict[str, Any], stamp: dict[str, Any], **inputs: Any) -> None:
    """Write figures with their stamp, whole or not at all.

    Args:
        path: JSON file; its folder is made if absent.
        figures: what was measured.
        stamp: from `make_stamp`, taken before the measurement began.
        **inputs: what else it depended on: the checkpoint's fingerprint, data, batch size.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    content = {"figures": figures, "stamp": stamp | inputs}
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def make_stamp() -> dict[str, Any]:
    """Return command, time, commit, versions and machine of this run."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *map(_without_folders, sys.argv[1:])]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no", *CODE)),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "processor": _processor(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _without_folders(word: str) -> str:
    """Name an absolute path by its last part: the folders of one machine say nothing on another."""
    return Path(word).name if Path(word).is_absolute() else word


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
