"""Clips as people hand them over: file names, bytes, arrays of any rate; out comes one float32 waveform.

For single clips; whole recordings are read block by block by `modeling_clsr.data.audio`.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    import soundfile
except (ImportError, OSError):  # OSError: the package without its library
    soundfile = None  # type: ignore[assignment]
try:
    import soxr
except ImportError:
    soxr = None  # type: ignore[assignment]
try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".au")  # soundfile reads them
CONTAINER_SUFFIXES = (".m4a", ".mp4", ".aac", ".webm", ".mkv", ".mov")  # PyAV reads them


def read_waveform(source: Any, sampling_rate: int) -> np.ndarray:
    """Read one clip.

    Args:
        source: file name, the file's bytes, a waveform (S,) already at `sampling_rate`, or a dictionary with "array"
            and "sampling_rate" (data sets) or with "bytes" or "path".
        sampling_rate: of the result, in Hz.

    Returns:
        (S,) float32, mono.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no audio, or of a kind that is not known.
        ImportError: the package that could read or resample it is not installed.
    """
    if isinstance(source, dict):
        if source.get("array") is not None:
            wave = np.asarray(source["array"], dtype=np.float32)
            return _resample(wave, int(source["sampling_rate"]), sampling_rate)
        source = source.get("bytes") or source.get("path")
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray | list | tuple):
        return np.asarray(source, dtype=np.float32)
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; give an audio file, its bytes or a waveform")
        if path.suffix.lower() in CONTAINER_SUFFIXES:
            return _read_container(path, sampling_rate)
        return _read(path, str(path), sampling_rate)
    if isinstance(source, bytes | bytearray):
        return _read(io.BytesIO(source), f"{len(source)} bytes", sampling_rate)
    raise ValueError(
        f"a clip is of type {type(source).__name__} but must be a file name, bytes or a waveform"
    )


def is_audio(source: Any) -> bool:
    """Say whether an input is a clip rather than a text; strings count by the suffix of a file name."""
    if isinstance(source, str):
        return source.lower().endswith(AUDIO_SUFFIXES + CONTAINER_SUFFIXES) and not any(
            c.isspace() for c in source[-6:]
        )
    if isinstance(source, dict):
        return "array" in source or "bytes" in source or "path" in source
    return isinstance(source, np.ndarray | torch.Tensor | bytes | bytearray | Path)


def _read(file: Any, name: str, sampling_rate: int) -> np.ndarray:
    if soundfile is None:
        raise ImportError(f"{name} cannot be read without soundfile; run `pip install soundfile soxr`")
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)  # (S, C)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} cannot be read as audio ({error}); convert it to wav or flac") from error
    return _resample(samples.mean(axis=1), rate, sampling_rate)


def _read_container(path: Path, sampling_rate: int) -> np.ndarray:
    if av is None:
        raise ImportError(
            f"{path} cannot be read without PyAV; run `pip install av` or convert it to wav or flac"
        )
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
        frames = [frame for packet in container.decode(audio=0) for frame in resampler.resample(packet)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames]).astype(np.float32)


def _resample(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    mono = np.ascontiguousarray(
        wave if wave.ndim == 1 else wave.mean(axis=int(wave.shape[0] > wave.shape[1]))
    )
    if rate == wanted:
        return mono
    if soxr is None:
        raise ImportError(
            f"audio at {rate} Hz cannot be brought to {wanted} Hz without soxr; run `pip install soxr`"
        )
    return np.asarray(soxr.resample(mono, rate, wanted), dtype=np.float32)
