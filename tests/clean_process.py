"""Run code in a process of its own that has neither this package on its path nor the modules of an earlier one."""

import os
import subprocess
import sys
from pathlib import Path


def clean_environment(modules: Path) -> dict[str, str]:
    """Return the environment; `modules` gets the code that checkpoints bring along."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(modules),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",
    }


def run_clean(code: str, *arguments, cwd: Path, modules: Path) -> subprocess.CompletedProcess[str]:
    """Run code with arguments to its end; the caller judges the exit code."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(modules),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
