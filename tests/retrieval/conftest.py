"""Recordings joined from known clips, and the encoder that knows them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.audio import load_audio

from .known_clips import KnownClips

GAP_S = 1.2
RATE = 16000


@pytest.fixture(scope="session")
def clips(reread: list[dict]) -> dict[str, np.ndarray]:
    """Twelve clips by their text."""
    return {row["transcript"]: load_audio(row["path"]) for row in reread[:12]}


@pytest.fixture
def encoder(clips) -> KnownClips:
    return KnownClips(clips)


def write_recording(
    path: Path, texts: list[str], clips: dict[str, np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Join clips with gaps to a recording; return where each lies, in seconds."""
    gap = np.zeros(round(GAP_S * RATE), dtype=np.float32)
    parts, at, where = [], 0, {}
    for text in texts:
        parts += [gap, clips[text]]
        at += len(gap)
        where[text] = (at / RATE, (at + len(clips[text])) / RATE)
        at += len(clips[text])
    soundfile.write(path, np.concatenate([*parts, gap]), RATE)
    return where


def write_talks(folder: Path, clips: dict[str, np.ndarray]) -> dict[str, dict[str, tuple[float, float]]]:
    """Make a folder of three recordings, four clips each; return where each clip lies, by file name and text."""
    folder.mkdir()
    texts = list(clips)
    return {
        name: write_recording(folder / name, texts[4 * number : 4 * number + 4], clips)
        for number, name in enumerate(["a.wav", "b.flac", "it's 100%_c.wav"])
    }


@pytest.fixture
def talks(tmp_path: Path, clips) -> dict[str, dict[str, tuple[float, float]]]:
    return write_talks(tmp_path / "talks", clips)
