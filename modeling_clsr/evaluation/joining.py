"""Clips one behind the other: files and pauses in, one recording and the place of each clip in it out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from ..data.audio import SAMPLING_RATE, load_audio
from ..data.voices import write_opus

Span = tuple[float, float]  # start and end, in seconds


def write_joined(path: Path, clips: Sequence[str | None], pauses: Sequence[float]) -> list[Span]:
    """Write a recording, unless it is there.

    Args:
        path: of the recording; a file of another length is another recording and is written again.
        clips: files in order; None for one that has no sound.
        pauses: silence behind each clip, in seconds; that behind the last is left out.

    Returns:
        Where each clip is, in seconds of the recording.
    """
    pieces, spans, position = [], [], 0
    for clip, pause in zip(clips, pauses, strict=True):
        samples = load_audio(clip) if clip is not None else np.zeros(0, dtype=np.float32)
        end = position + len(samples)
        spans.append((round(position / SAMPLING_RATE, 3), round(end / SAMPLING_RATE, 3)))
        silence = np.zeros(int(pause * SAMPLING_RATE), dtype=np.float32)
        pieces += [samples, silence]
        position = end + len(silence)
    if not path.exists() or abs(soundfile.info(path).duration - spans[-1][1]) > 0.05:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_opus(path, np.concatenate(pieces[:-1]))
    return spans
