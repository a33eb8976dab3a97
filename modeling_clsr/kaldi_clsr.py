"""Kaldi's front end: waveform in, stacked and normalised log-mel filterbank out.

Enters: waveform in [-1, 1] (..., S). Leaves: log-mel (..., T, M), or stacked (B, F, stacked * M). All steps
are batched and exact per item. Source: Kaldi's `compute-fbank-feats` with FunASR's settings (Hamming window,
no dither). Axes: B batch, S samples, T frames of 10 ms, M mel bins, F stacked frames.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
SAMPLE_SCALE = 32768.0  # Kaldi reads 16-bit integers
EPSILON = torch.finfo(torch.float32).eps


def kaldi_fbank(
    waveform: Tensor,
    sampling_rate: int = 16000,
    num_mel_bins: int = 80,
    frame_length_ms: float = 25.0,
    frame_shift_ms: float = 10.0,
) -> Tensor:
    """Compute Kaldi's log-mel filterbank.

    Per frame: take off the mean, emphasise high frequencies, apply a Hamming window, power spectrum, mel
    filters from 20 Hz to half the sampling rate, natural logarithm. A clip shorter than one frame is filled
    up with zeros.

    Args:
        waveform: in [-1, 1], (..., S).
        sampling_rate: in Hz.
        num_mel_bins: M.
        frame_length_ms: of a frame.
        frame_shift_ms: between the starts of frames.

    Returns:
        (..., T, M), float32; see `num_fbank_frames` for T. In a padded batch, rows beyond an item's own
        number of frames belong to padding.
    """
    length, shift = _frame_samples(sampling_rate, frame_length_ms, frame_shift_ms)
    waveform = waveform.float() * SAMPLE_SCALE
    if waveform.shape[-1] < length:
        waveform = F.pad(waveform, (0, length - waveform.shape[-1]))
    frames = waveform.unfold(-1, length, shift)  # (..., T, samples)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    # The first sample stands for the one before it.
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    window = torch.hamming_window(length, periodic=False, dtype=torch.float32, device=waveform.device)
    frames = (frames - PREEMPHASIS * before) * window
    fft_size = 2 ** math.ceil(math.log2(length))
    power = torch.fft.rfft(frames, n=fft_size).abs().square()  # (..., T, fft_size / 2 + 1)
    filters = torch.from_numpy(kaldi_mel_filters(num_mel_bins, fft_size, sampling_rate)).to(waveform.device)
    return (power @ filters).clamp(min=EPSILON).log()


def num_fbank_frames(
    num_samples: Tensor | int,
    sampling_rate: int = 16000,
    frame_length_ms: float = 25.0,
    frame_shift_ms: float = 10.0,
) -> Tensor | int:
    """Return how many frames fit entirely in `num_samples`; at least 1.

    >>> num_fbank_frames(16000), num_fbank_frames(10)
    (98, 1)
    """
    length, shift = _frame_samples(sampling_rate, frame_length_ms, frame_shift_ms)
    if isinstance(num_samples, Tensor):
        return (num_samples - length).clamp(min=0) // shift + 1
    return max(num_samples - length, 0) // shift + 1


def stack_frames(
    features: Tensor, lengths: Tensor, num_stacked: int = 7, stride: int = 6
) -> tuple[Tensor, Tensor]:
    """Join neighbouring frames at a low frame rate (LFR).

    Row i holds `num_stacked` frames around frame `stride * i`; beyond either end the first or last frame of
    the item repeats.

    Args:
        features: (B, T, M).
        lengths: real frames of each item, at least 1, (B,).
        num_stacked: frames in a row (m).
        stride: frames between rows (n); 6 frames are 60 ms.

    Returns:
        stacked: (B, ceil(T / stride), num_stacked * M), zero beyond an item's own rows.
        lengths: rows of each item, ceil(length / stride), (B,).
    """
    num_rows = -(-features.shape[1] // stride)
    offsets = torch.arange(num_stacked, device=features.device) - (num_stacked - 1) // 2
    index = torch.arange(num_rows, device=features.device).unsqueeze(-1) * stride + offsets  # (F, m)
    index = index.flatten().clamp(min=0).unsqueeze(0).minimum(lengths.unsqueeze(-1) - 1)  # (B, F * m)
    stacked = features.gather(1, index.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
    stacked = stacked.unflatten(1, (num_rows, num_stacked)).flatten(2)  # (B, F, m * M)
    row_lengths = -(-lengths // stride)
    is_padding = torch.arange(num_rows, device=features.device) >= row_lengths.unsqueeze(-1)
    return stacked.masked_fill(is_padding.unsqueeze(-1), 0.0), row_lengths


def normalize_frames(features: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply stored statistics (CMVN): add the negative mean, multiply by the inverse deviation.

    Args:
        features: (..., M).
        shift: (M,).
        scale: (M,).

    Returns:
        (..., M).

    Raises:
        ValueError: the statistics are of another width.
    """
    if features.shape[-1] != shift.shape[-1]:
        raise ValueError(
            f"frames are {features.shape[-1]} wide but the normalisation is {shift.shape[-1]} wide; "
            "take both from one checkpoint"
        )
    return (features + shift) * scale


@functools.lru_cache(maxsize=8)
def kaldi_mel_filters(num_mel_bins: int, fft_size: int, sampling_rate: int) -> np.ndarray:
    """Return triangular filters, linear in Kaldi's mel scale, without area normalisation.

    Args:
        num_mel_bins: M.
        fft_size: points of the Fourier transform.
        sampling_rate: in Hz.

    Returns:
        (fft_size / 2 + 1, M), float32.
    """
    mel = _mel(np.arange(fft_size // 2 + 1) * sampling_rate / fft_size)[:, None]  # (bins, 1)
    edges = np.linspace(_mel(LOWEST_HZ), _mel(sampling_rate / 2), num_mel_bins + 2)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]  # (M,)
    filters = np.minimum((mel - left) / (center - left), (right - mel) / (right - center)).clip(min=0)
    filters[-1] = 0.0  # Kaldi leaves out the bin at half the sampling rate
    return filters.astype(np.float32)


def _mel(hertz):
    return 1127.0 * np.log(1.0 + hertz / 700.0)


def _frame_samples(sampling_rate: int, frame_length_ms: float, frame_shift_ms: float) -> tuple[int, int]:
    return int(sampling_rate * frame_length_ms / 1000), int(sampling_rate * frame_shift_ms / 1000)
