"""Recordings to waveforms, passages and batches."""

from .audio import audio_blocks, audio_duration, find_recordings, load_audio
from .passages import CutSettings, Passage, cut_passages, stream_passages
from .sampler import length_batches

__all__ = [
    "CutSettings",
    "Passage",
    "audio_blocks",
    "audio_duration",
    "cut_passages",
    "find_recordings",
    "length_batches",
    "load_audio",
    "stream_passages",
]
