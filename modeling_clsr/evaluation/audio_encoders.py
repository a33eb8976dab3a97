"""Models that embed texts and clips into one space, without a transcript between them, as systems."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.audio import SAMPLING_RATE
from ..data.manifest import Row
from .systems import Cache, Scored, unit


class AudioEncoderSystem:
    """Any model that embeds texts and clips into one space.

    Args:
        embed_texts: texts -> (Q, D).
        embed_clips: waveforms (S,) at 16 kHz -> (N, D).
        key: names the model, for the cache.
        cache_dir: of `Cache`.
        name: in the tables.
    """

    def __init__(
        self,
        embed_texts: Callable[[list[str]], np.ndarray],
        embed_clips: Callable[[list[np.ndarray]], np.ndarray],
        key: str,
        cache_dir: Path | None = None,
        name: str = "st",
    ):
        self.embed_texts, self.embed_clips, self.name = embed_texts, embed_clips, name
        self.cache = Cache(cache_dir, f"audio-encoder/{key}")

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Score by cosine."""
        entries = self.cache.fill(passages, self._hear, self.name)
        clips = unit(np.array([entry.vector for entry in entries], dtype=np.float32))
        return Scored(
            unit(self.embed_texts(list(questions))) @ clips.T, None, sum(e.seconds for e in entries)
        )

    def _hear(self, clips: list[np.ndarray]) -> list[tuple[None, list[float]]]:
        return [(None, vector.tolist()) for vector in self.embed_clips(clips)]


def sentence_transformers_system(
    model: str | Path, cache_dir: Path | None = None, name: str = "st"
) -> AudioEncoderSystem:
    """Return the system of a sentence-transformers model that takes audio.

    Args:
        model: folder or Hub id; code that comes with it is run.
        cache_dir: of `Cache`.
        name: in the tables.

    Raises:
        ValueError: the model takes no audio.
    """
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), trust_remote_code=True, device="cpu")
    if "audio" not in encoder.modalities:
        raise ValueError(
            f"{model} takes {', '.join(map(str, encoder.modalities))} but the system needs audio; name another model"
        )

    def embed_clips(waveforms: list[np.ndarray]) -> np.ndarray:
        clips: Any = [{"array": waveform, "sampling_rate": SAMPLING_RATE} for waveform in waveforms]
        return encoder.encode(clips, show_progress_bar=False)

    return AudioEncoderSystem(encoder.encode, embed_clips, f"sentence-transformers/{model}", cache_dir, name)


def clap(model: Any, processor: Any, cache_dir: Path | None = None, name: str = "clap") -> AudioEncoderSystem:
    """Return the system of a `ClapModel` and its processor, which hears 48 kHz."""
    import soxr
    import torch

    rate = processor.feature_extractor.sampling_rate

    @torch.no_grad()
    def embed_texts(texts: list[str]) -> np.ndarray:
        batch = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return model.get_text_features(**batch).pooler_output.numpy()

    @torch.no_grad()
    def embed_clips(waveforms: list[np.ndarray]) -> np.ndarray:
        resampled = [soxr.resample(waveform, SAMPLING_RATE, rate) for waveform in waveforms]
        batch = processor.feature_extractor(resampled, sampling_rate=rate, return_tensors="pt")
        return model.get_audio_features(**batch).pooler_output.numpy()

    digest = hashlib.sha256(str(model.config.to_dict()).encode()).hexdigest()
    weight = next(model.parameters()).detach().flatten()[:8].tolist()
    return AudioEncoderSystem(embed_texts, embed_clips, f"clap/{digest}/{weight}", cache_dir, name)
