"""An encoder that knows a few clips by heart: it finds them in a passage and says their text.

Real audio, real pauses and a real table can so be tested against exact words and times, without a trained model.
"""

import hashlib
import re

import numpy as np

from modeling_clsr import Transcript, Word
from modeling_clsr.retrieval.doubt import Doubt

EMBED_DIM = 128


class KnownClips:
    """Stands where `Encoder` does."""

    def __init__(self, clips: dict[str, np.ndarray], name: str = "known-clips", fingerprint: str = "f" * 32):
        self.clips = clips
        self.name = name
        self.fingerprint = fingerprint
        self.device = "cpu"
        self.embed_dim = EMBED_DIM
        self.sampling_rate = 16000
        self.max_audio_s = 29.0
        self.doubt: Doubt | None = None
        self.batches: list[list[int]] = []  # lengths of the waveforms of each batch

    def encode_passages(self, waveforms: list[np.ndarray]) -> list[tuple[Transcript, np.ndarray]]:
        self.batches.append([len(waveform) for waveform in waveforms])
        transcripts = [self.transcribe(waveform) for waveform in waveforms]
        return [(transcript, embed(transcript.text)) for transcript in transcripts]

    def encode_texts(self, texts: list[str], truncation: bool = False) -> np.ndarray:
        return np.stack([embed(text) for text in texts])

    def transcribe(self, waveform: np.ndarray) -> Transcript:
        """Say the text of each clip whose middle part is in the waveform, its words spread over the clip."""
        found = []
        for text, clip in self.clips.items():
            at = locate(clip, waveform)
            if at is not None:
                found.append((at / self.sampling_rate, len(clip) / self.sampling_rate, text))
        words = []
        for start, length, text in sorted(found):
            parts = text.split()
            step = length / len(parts)
            words += [Word(w, start + i * step, start + (i + 1) * step, 1.0) for i, w in enumerate(parts)]
        text = " ".join(word.text for word in words)
        return Transcript(text, [], words, 1.0 if text else 0.0, 0.0 if text else 1.0)


def locate(clip: np.ndarray, waveform: np.ndarray) -> int | None:
    """Find where a clip begins in a waveform, by correlation with its middle half."""
    quarter = len(clip) // 4
    middle = clip[quarter : 3 * quarter]
    if len(waveform) < len(middle):
        return None
    size = 1 << (len(waveform) + len(middle)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(waveform, size) * np.conj(np.fft.rfft(middle, size)), size)
    at = int(np.argmax(correlation[: len(waveform) - len(middle) + 1]))
    part = waveform[at : at + len(middle)]
    cosine = correlation[at] / max(np.linalg.norm(part) * np.linalg.norm(middle), 1e-9)
    return at - quarter if cosine > 0.9 else None


def embed(text: str) -> np.ndarray:
    """Embed a bag of words: one fixed random direction for each word, rare-looking (long) words count more."""
    vector = np.full(EMBED_DIM, 1e-3)
    for word in re.findall(r"[a-z']+", text.lower()):
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        vector += len(word) * np.random.default_rng(seed).standard_normal(EMBED_DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
