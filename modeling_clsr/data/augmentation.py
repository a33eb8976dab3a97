"""Augmentation of clips: noise, rooms, pace, codec, and masks on the log-mel; each drawn from (seed, epoch, index).

Enters: waveforms (S,) float32, or log-mel. Leaves: the same, changed; never NaN, and silence stays silence.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from torch import Tensor

from .audio import load_audio

Key = tuple[int, int, int]  # seed, epoch, index


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float, start: int = 0) -> np.ndarray:
    """Mix noise in at a signal-to-noise ratio.

    Args:
        waveform: (S,) float32.
        noise: (N,) float32, repeated to the clip's length.
        snr_db: of the powers, in decibels.
        start: first sample of the noise.

    Returns:
        (S,) float32; the waveform itself where it or the noise is silent.
    """
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    heard = np.resize(np.roll(noise, -start), len(waveform))
    noise_power = float(np.mean(np.square(heard, dtype=np.float64)))
    if power == 0.0 or noise_power == 0.0:
        return waveform
    gain = np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    return (waveform + gain * heard).astype(np.float32)


def add_room(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve with a room's impulse response; the direct sound stays in its place and the power is kept.

    Args:
        waveform: (S,) float32.
        response: (R,) float32, its peak is the direct sound.

    Returns:
        (S,) float32; the reverberation behind the clip's end is cut off.
    """
    direct = int(np.abs(response).argmax())
    size = len(waveform) + len(response) - 1
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(waveform)]
    power, wet_power = np.mean(np.square(waveform, dtype=np.float64)), np.mean(np.square(wet))
    if power == 0.0 or wet_power == 0.0:
        return waveform
    return (wet * np.sqrt(power / wet_power)).astype(np.float32)


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Play faster or slower, pitch included: (S,) becomes (S / factor,), and so do times in the clip."""
    precision = 1000
    changed = soxr.resample(waveform, round(precision * factor), precision)
    return np.asarray(changed, dtype=np.float32)


def through_codec(waveform: np.ndarray, sampling_rate: int, codec: str) -> np.ndarray:
    """Encode and decode: "telephone" (8 kHz, mu-law) or "opus" (a low bit rate).

    Returns:
        (S,) float32, of the same length.
    """
    rate = 8000 if codec == "telephone" else sampling_rate
    narrow = waveform if rate == sampling_rate else soxr.resample(waveform, sampling_rate, rate)
    buffer = io.BytesIO()
    if codec == "telephone":
        soundfile.write(buffer, narrow, rate, format="WAV", subtype="ULAW")
    else:
        soundfile.write(buffer, narrow, rate, format="OGG", subtype="OPUS", compression_level=0.97)
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    wide = decoded if rate == sampling_rate else soxr.resample(decoded, rate, sampling_rate)
    return np.resize(np.asarray(wide, dtype=np.float32), len(waveform))


def mask_features(features: Tensor, key: Key, bands: int = 2, stretches: int = 2) -> Tensor:
    """Mask bands and stretches of a log-mel with its mean (SpecAugment, arXiv 1904.08779).

    Args:
        features: (M, T).
        key: of the draw.
        bands: of at most 15 mel bands.
        stretches: of at most 5 % of the frames.

    Returns:
        (M, T), a copy.
    """
    draw, masked = _draw(key, "mask"), features.clone()
    num_bands, num_frames = features.shape
    for _ in range(bands):
        width = int(draw.integers(0, min(15, num_bands // 4) + 1))
        start = int(draw.integers(0, num_bands - width + 1))
        masked[start : start + width] = features.mean()
    for _ in range(stretches):
        width = int(draw.integers(0, max(num_frames // 20, 1) + 1))
        start = int(draw.integers(0, num_frames - width + 1))
        masked[:, start : start + width] = features.mean()
    return masked


@dataclass
class Augmentation:
    """Changes of a waveform, each with its probability.

    Args:
        noises: (N,) waveforms at the clips' rate.
        rooms: impulse responses.
        noise_probability: of noise, at a ratio drawn from `snr_db`.
        room_probability: of a room.
        speed_probability: of another pace, drawn from `speeds`.
        codec_probability: of a codec.
        snr_db: range, in decibels.
        speeds: range of factors.
    """

    noises: Sequence[np.ndarray] = ()
    rooms: Sequence[np.ndarray] = ()
    noise_probability: float = 0.0
    room_probability: float = 0.0
    speed_probability: float = 0.0
    codec_probability: float = 0.0
    snr_db: tuple[float, float] = (5.0, 25.0)
    speeds: tuple[float, float] = (0.9, 1.1)
    codecs: tuple[str, ...] = field(default=("telephone", "opus"))

    def __call__(self, waveform: np.ndarray, sampling_rate: int, key: Key) -> np.ndarray:
        """Change a clip (S,) as its key says; the same key gives the same samples."""
        draw = _draw(key, "waveform")
        # Every number is drawn, used or not, so that one setting does not shift the others.
        chances, places = draw.random(4), draw.random(5)
        if chances[0] < self.speed_probability:
            waveform = change_speed(waveform, _between(self.speeds, places[0]))
        if chances[1] < self.room_probability and self.rooms:
            waveform = add_room(waveform, self.rooms[int(places[1] * len(self.rooms))])
        if chances[2] < self.noise_probability and self.noises:
            noise = self.noises[int(places[2] * len(self.noises))]
            waveform = add_noise(
                waveform, noise, _between(self.snr_db, places[3]), int(places[4] * len(noise))
            )
        if chances[3] < self.codec_probability:
            waveform = through_codec(waveform, sampling_rate, self.codecs[int(places[4] * len(self.codecs))])
        peak = float(np.abs(waveform).max()) if len(waveform) else 0.0
        return waveform / peak if peak > 1.0 else waveform


def load_noises(folder: str | Path, sampling_rate: int = 16000) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Read noises and impulse responses.

    Args:
        folder: with `noise*` and `rir*` files.
        sampling_rate: of the result, in Hz.

    Returns:
        Noises and rooms.

    Raises:
        FileNotFoundError: the folder holds neither.
    """
    found = [
        [load_audio(file, sampling_rate) for file in sorted(Path(folder).glob(f"{kind}*"))]
        for kind in ("noise", "rir")
    ]
    if not any(found):
        raise FileNotFoundError(
            f"{folder} holds no noise* and no rir* files; give the folder with the recordings"
        )
    return found[0], found[1]


def _draw(key: Key, what: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{what}/{'/'.join(map(str, key))}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _between(ends: tuple[float, float], place: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(place)
