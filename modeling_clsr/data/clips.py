"""Clips as files: rows in, the same rows over changed clips out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from .audio import SAMPLING_RATE, load_audio
from .manifest import Row, distinct_clips


def safe_name(name: str) -> str:
    """Return an id as a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def write_changed(
    rows: Sequence[Row],
    change: Callable[[str, np.ndarray], np.ndarray],
    folder: Path,
    title: str | None = None,
) -> list[Row]:
    """Write every clip as it is changed, in 16-bit FLAC; clips that are there are kept.

    Args:
        rows: several rows over one clip share the changed one, too.
        change: the id of a clip's first row and its waveform (S,) at 16 kHz -> what is written.
        folder: for the clips.
        title: of the progress bar.

    Returns:
        The rows over the changed clips.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = {}
    for row in tqdm(distinct_clips(rows), unit="clip", desc=title):
        path = folder / f"{safe_name(row.id)}.flac"
        if not path.exists():
            unfinished = path.with_suffix(".tmp")
            soundfile.write(unfinished, change(row.id, load_audio(row.audio)), SAMPLING_RATE, format="FLAC")
            unfinished.replace(path)
        changed[row.audio] = str(path)
    return [replace(row, audio=changed[row.audio]) for row in rows]
