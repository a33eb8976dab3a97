"""Recognisers of a cascade: waveforms in, transcripts out.

Each is a function of a batch of waveforms (S,) float32 at 16 kHz.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.audio import SAMPLING_RATE
from ..transcript_clsr import Word

Recogniser = Callable[[list[np.ndarray]], list[str]]
BATCH_SIZE = 8  # of faster-whisper's own batching


def load_faster_whisper(folder: str | Path, compute_type: str = "int8") -> Any:
    """Load Whisper in the CTranslate2 layout, with as many threads as torch has."""
    import torch
    from faster_whisper import WhisperModel

    return WhisperModel(
        str(folder), device="cpu", compute_type=compute_type, cpu_threads=torch.get_num_threads()
    )


def faster_whisper(model: Any, beam: int = 1) -> Recogniser:
    """Return Whisper as faster-whisper runs it, clip by clip, in English."""

    def hear(waveforms: list[np.ndarray]) -> list[str]:
        texts = []
        for waveform in waveforms:
            segments, _ = model.transcribe(
                waveform, language="en", beam_size=beam, condition_on_previous_text=False
            )
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return texts

    return hear


def faster_whisper_batched(model: Any, beam: int = 1) -> Recogniser:
    """Return Whisper with faster-whisper's own batching.

    It batches pieces of one recording; so the clips are joined, and the pieces are the clips.
    """
    from faster_whisper import BatchedInferencePipeline

    pipeline = BatchedInferencePipeline(model)

    def hear(waveforms: list[np.ndarray]) -> list[str]:
        bounds = np.cumsum([0, *map(len, waveforms)])
        pieces = [
            {"start": a / SAMPLING_RATE, "end": b / SAMPLING_RATE} for a, b in itertools.pairwise(bounds)
        ]
        segments, _ = pipeline.transcribe(
            np.concatenate(waveforms),
            batch_size=BATCH_SIZE,
            clip_timestamps=pieces,
            vad_filter=False,
            language="en",
            beam_size=beam,
            without_timestamps=True,
        )
        texts = [""] * len(waveforms)
        for segment in segments:
            piece = int(np.searchsorted(bounds, (segment.start + 0.01) * SAMPLING_RATE, side="right")) - 1
            texts[min(max(piece, 0), len(texts) - 1)] += segment.text
        return [text.strip() for text in texts]

    return hear


def faster_whisper_words(model: Any, waveform: np.ndarray) -> list[Word]:
    """Return the timed words of a clip, by faster-whisper's `word_timestamps`."""
    segments, _ = model.transcribe(
        waveform, language="en", beam_size=1, condition_on_previous_text=False, word_timestamps=True
    )
    return [
        Word(word.word, word.start, word.end, word.probability)
        for segment in segments
        for word in segment.words or []
    ]


def transformers_recogniser(name: str | Path) -> Recogniser:
    """Return any recogniser of transformers: Whisper, wav2vec 2.0 with CTC, Moonshine and others.

    Args:
        name: folder or Hub id of a model with its processor.
    """
    from transformers import pipeline

    recogniser: Any = pipeline("automatic-speech-recognition", model=str(name), device="cpu")

    def hear(waveforms: list[np.ndarray]) -> list[str]:
        inputs = [{"raw": waveform, "sampling_rate": SAMPLING_RATE} for waveform in waveforms]
        return [found["text"].strip() for found in recogniser(inputs)]

    return hear
