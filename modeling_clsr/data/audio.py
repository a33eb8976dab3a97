"""Decode recordings: the only file that touches codecs.

Enters: a path. Leaves: float32 mono blocks at the rate asked for. soundfile reads WAV, FLAC, Ogg, Opus and
MP3; PyAV (the "audio" extra) reads the containers it cannot: MP4, M4A, WebM, Matroska.
"""

import difflib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

try:
    import av
except ImportError:  # the "audio" extra
    av = None  # type: ignore[assignment]

SAMPLING_RATE = 16000  # Hz
BLOCK_S = 30.0  # seconds decoded at once
LEAD_S = 1.0  # decoded before a part that begins inside a recording: codecs and resamplers need a start
SOUNDFILE_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")
CONTAINER_SUFFIXES = (".m4a", ".m4b", ".mp4", ".aac", ".mov", ".webm", ".mkv", ".mka", ".wma")
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES + CONTAINER_SUFFIXES


def load_audio(path: str | Path, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Decode a whole recording.

    Args:
        path: of the recording.
        sampling_rate: of the result, in Hz.

    Returns:
        (S,) float32, mono.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file, or it is a folder.
        ValueError: the file is not audio, broken, empty, or holds NaN.
        ImportError: only PyAV could read it, and it is not installed.
    """
    return np.concatenate(list(audio_blocks(path, sampling_rate)))


def read_range(
    path: str | Path, start_s: float, end_s: float, sampling_rate: int = SAMPLING_RATE
) -> np.ndarray:
    """Decode a part of a recording; neither its length nor where the part lies matters.

    Args:
        path: of the recording.
        start_s: in seconds from its start.
        end_s: likewise.
        sampling_rate: of the result, in Hz.

    Returns:
        (S,) float32, mono; shorter if the recording ends before.

    Raises:
        FileNotFoundError, IsADirectoryError, ValueError, ImportError: as `load_audio`.
    """
    lead = min(start_s, LEAD_S)
    first = round(lead * sampling_rate)
    missing = first + round((end_s - start_s) * sampling_rate)
    pieces = []
    for block in audio_blocks(path, sampling_rate, start_s=start_s - lead):
        pieces.append(block[:missing])
        missing -= len(block)
        if missing <= 0:
            break
    return np.concatenate([np.zeros(0, dtype=np.float32), *pieces])[first:]


def audio_blocks(
    path: str | Path, sampling_rate: int = SAMPLING_RATE, block_s: float = BLOCK_S, start_s: float = 0.0
) -> Iterator[np.ndarray]:
    """Decode a recording block by block, so that its length does not matter.

    Args:
        path: of the recording.
        sampling_rate: of the blocks, in Hz.
        block_s: seconds decoded at once.
        start_s: where to begin, in seconds.

    Yields:
        (S,) float32, mono; joined they are the recording from `start_s` on, nothing if it ends before.

    Raises:
        FileNotFoundError, IsADirectoryError, ValueError, ImportError: as `load_audio`.
    """
    path = _checked(path)
    resampler = None
    num_samples = 0
    for block, rate in _decode(path, block_s, start_s):  # (S, C)
        mono = block.mean(axis=1, dtype=np.float32)  # (S, C) -> (S,)
        bad = int(np.count_nonzero(~np.isfinite(mono)))
        if bad:
            at = start_s + (num_samples + int(np.argmin(np.isfinite(mono)))) / rate
            raise ValueError(
                f"{path} holds {bad} NaN or infinite samples of {len(mono)}, the first at {at:.2f} s; "
                "repair or drop it"
            )
        num_samples += len(mono)
        if rate != sampling_rate:
            if resampler is None:
                resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32")
            mono = resampler.resample_chunk(mono)
        if len(mono):
            yield mono
    if num_samples == 0 and start_s == 0:
        raise ValueError(f"{path} holds 0 samples but at least 1 is needed; drop it")
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        if len(rest):
            yield rest


def audio_duration(path: str | Path) -> float:
    """Return the length of a recording in seconds as its header states it, 0.0 where it does not.

    Raises:
        FileNotFoundError, IsADirectoryError, ValueError, ImportError: as `load_audio`.
    """
    path = _checked(path)
    try:
        return float(soundfile.info(str(path)).duration)
    except soundfile.LibsndfileError as error:
        with _open_container(path, error) as container:
            return (container.duration or 0) / av.time_base


def find_recordings(paths: Iterable[str | Path]) -> list[Path]:
    """List the recordings under files and folders.

    Args:
        paths: a file is taken whatever its name; a folder is walked for audio suffixes.

    Returns:
        Every recording once, in the order given, those of a folder sorted.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no recordings.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            recordings = [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES]
            if not recordings:
                raise FileNotFoundError(
                    f"{path} holds {len(files)} files but no recording ({', '.join(AUDIO_SUFFIXES)}); "
                    "name another folder, or the files themselves"
                )
            found.update(dict.fromkeys(recordings))
        else:
            _existing(path)
            found[path] = None
    return list(found)


def _existing(path: Path) -> None:
    if path.exists():
        return
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    similar = difflib.get_close_matches(path.name, siblings, n=1)
    remedy = f"did you mean {path.parent / similar[0]}?" if similar else "check the spelling"
    raise FileNotFoundError(f"{path} does not exist; {remedy}")


def _checked(path: str | Path) -> Path:
    path = Path(path)
    _existing(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder but a recording is needed; name a file in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} has 0 bytes but a recording is needed; copy it again or drop it")
    return path


def _decode(path: Path, block_s: float, start_s: float) -> Iterator[tuple[np.ndarray, int]]:
    """Yield blocks (S, C) float32 at the file's own rate, and that rate."""
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        yield from _decode_container(path, block_s, start_s, error)
        return
    with file:
        num_read = min(round(start_s * file.samplerate), file.frames)
        file.seek(num_read)
        while True:
            try:
                block = file.read(round(block_s * file.samplerate), dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise ValueError(
                    f"{path} is broken after {num_read} of {file.frames} samples ({_reason(error)}); "
                    "copy it again or drop it"
                ) from error
            if not len(block):
                break
            num_read += len(block)
            yield block, file.samplerate


def _decode_container(
    path: Path, block_s: float, start_s: float, error: soundfile.LibsndfileError
) -> Iterator[tuple[np.ndarray, int]]:
    with _open_container(path, error) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        parts: list[np.ndarray] = []
        surplus = None if start_s else 0  # samples before the start; a container seeks to a packet before it
        try:
            if start_s:
                container.seek(int(start_s * av.time_base))
            # The resampler holds samples back: None, as the last frame, makes it hand them out.
            for frame in itertools.chain(container.decode(stream), [None]):
                if surplus is None and frame is not None:
                    surplus = max(round((start_s - float(frame.time or 0.0)) * stream.rate), 0)
                for piece in resampler.resample(frame):
                    samples = piece.to_ndarray().T  # (C, S) -> (S, C)
                    parts.append(samples[surplus or 0 :])
                    surplus = max((surplus or 0) - len(samples), 0)
                if sum(map(len, parts)) >= block_s * stream.rate:
                    yield np.concatenate(parts), stream.rate
                    parts = []
        except av.error.FFmpegError as failure:
            raise ValueError(f"{path} is broken ({failure.strerror}); copy it again or drop it") from failure
        if parts:
            yield np.concatenate(parts), stream.rate


def _open_container(path: Path, error: soundfile.LibsndfileError):
    """Open what soundfile refused with `error`."""
    if av is None and path.suffix.lower() in CONTAINER_SUFFIXES:
        raise ImportError(
            f"{path} needs PyAV, which is not installed (soundfile: {_reason(error)}); "
            'install the "audio" extra of this package'
        ) from error
    try:
        container = av.open(str(path)) if av is not None else None
    except av.error.FFmpegError:
        container = None
    # Text can pass for a stream of no rate.
    if container is not None and container.streams.audio and container.streams.audio[0].rate:
        return container
    with path.open("rb") as file:
        head = file.read(8)
    raise ValueError(
        f"{path} begins with {head!r} and holds no audio that can be read ({_reason(error)}); "
        "convert it to WAV, FLAC, Ogg or MP3"
    ) from error


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.removeprefix("Error : ").rstrip(".")
