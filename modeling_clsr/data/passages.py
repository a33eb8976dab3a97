"""Cut a recording into passages: speech, at most as long as one pass of the recogniser takes, cut in pauses.

Enters: a waveform, or a recording read block by block. Leaves: passages in order, without overlap, that hold
all speech; nothing of silence.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .audio import audio_blocks
from .speech_detector import FRAME_S, FRAME_SAMPLES, SAMPLING_RATE, SpeechDetector

# Silero's own defaults, in whole frames.
SPEECH_ON = 0.5  # speech begins at this probability
SPEECH_OFF = 0.35  # and ends below this one
MIN_PAUSE_FRAMES = 4  # 128 ms; silero: 100 ms, in whole frames the same
MIN_SPEECH_FRAMES = 8  # 256 ms; silero: 250 ms. Shorter bursts are clicks and coughs
VALLEY_FRAMES = 5  # width of the mean by which a cut without a pause is chosen


@dataclass(frozen=True)
class Passage:
    """A window of a recording, in seconds from its start."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class CutSettings:
    """How a recording is cut.

    Attributes:
        max_s: longest passage, in seconds.
        max_pause_s: a longer pause always ends a passage, in seconds.
        pad_s: silence left at both ends of a passage where the pause has it, in seconds.
    """

    max_s: float = 29.0
    max_pause_s: float = 1.5
    pad_s: float = 0.15

    def __post_init__(self):
        if self.max_s < 2 or not 0 <= 2 * self.pad_s <= min(self.max_pause_s, 1):
            raise ValueError(
                f"max_s is {self.max_s:g}, max_pause_s {self.max_pause_s:g} and pad_s {self.pad_s:g} but "
                "max_s must be at least 2 and pad_s at most 0.5 and half of max_pause_s; change them"
            )


@dataclass(frozen=True)
class FixedWindows:
    """Windows of one length, wherever they cut (the paper's way).

    Attributes:
        max_s: length of a window, in seconds; only the last is shorter.
        overlap_s: that two neighbours share, so that what one cuts the other holds whole, in seconds.
    """

    max_s: float = 28.0
    overlap_s: float = 4.0

    def __post_init__(self):
        if not 0 <= self.overlap_s <= self.max_s / 2 or self.max_s < 2:
            raise ValueError(
                f"max_s is {self.max_s:g} and overlap_s {self.overlap_s:g} but max_s must be at least 2 and "
                "overlap_s at most half of it; change them"
            )


Cutting = CutSettings | FixedWindows


def cut_passages(
    waveform: np.ndarray,
    sampling_rate: int,
    max_s: float = 29.0,
    max_pause_s: float = 1.5,
    pad_s: float = 0.15,
    detector: SpeechDetector | None = None,
) -> list[Passage]:
    """Cut a waveform into passages of speech.

    Args:
        waveform: (S,) float32, mono.
        sampling_rate: of the waveform; must be 16000 Hz.
        max_s: longest passage, in seconds.
        max_pause_s: a longer pause always ends a passage, in seconds.
        pad_s: silence left at both ends of a passage, in seconds.
        detector: to share one between calls.

    Returns:
        The passages; none for silence.

    Raises:
        ValueError: the rate is another one, or the settings do not fit together.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(
            f"audio is sampled at {sampling_rate} Hz but finding pauses expects {SAMPLING_RATE} Hz; "
            "resample it with data.audio.load_audio"
        )
    settings = CutSettings(max_s, max_pause_s, pad_s)
    waveform = np.asarray(waveform, dtype=np.float32)
    blocks = (waveform[at : at + 60 * SAMPLING_RATE] for at in range(0, len(waveform), 60 * SAMPLING_RATE))
    return [passage for passage, _ in _cut(blocks, settings, detector or SpeechDetector())]


def stream_passages(
    path: str | Path, settings: Cutting | None = None, detector: SpeechDetector | None = None
) -> Iterator[tuple[Passage, np.ndarray]]:
    """Read a recording of any length and yield its passages with their waveforms, (S,) float32 at 16 kHz.

    No more than about `max_s` and one block are held at a time. Raises as `audio_blocks`.
    """
    blocks = audio_blocks(path, SAMPLING_RATE)
    if isinstance(settings, FixedWindows):
        yield from _windows(blocks, settings)
        return
    yield from _cut(blocks, settings or CutSettings(), detector or SpeechDetector())


def _windows(blocks: Iterable[np.ndarray], settings: FixedWindows) -> Iterator[tuple[Passage, np.ndarray]]:
    """Yield windows; the rest at the end is a window of its own unless the one before holds it already."""
    size, overlap = (round(seconds * SAMPLING_RATE) for seconds in (settings.max_s, settings.overlap_s))
    samples, offset = np.zeros(0, dtype=np.float32), 0  # offset: index of samples[0] in the recording
    for block in blocks:
        samples = np.concatenate([samples, block])
        while len(samples) >= size:
            yield Passage(offset / SAMPLING_RATE, (offset + size) / SAMPLING_RATE), samples[:size].copy()
            samples, offset = samples[size - overlap :], offset + size - overlap
    if len(samples) > (overlap if offset else 0):
        yield Passage(offset / SAMPLING_RATE, (offset + len(samples)) / SAMPLING_RATE), samples.copy()


def _cut(
    blocks: Iterable[np.ndarray], settings: CutSettings, detector: SpeechDetector
) -> Iterator[tuple[Passage, np.ndarray]]:
    cutter = _Cutter(settings)
    for block, probabilities in detector.stream(blocks):
        cutter.push(block, probabilities)
        yield from cutter.ready()
    yield from cutter.ready(final=True)


class _Cutter:
    """What has been read but not cut: samples and frame probabilities from the first undecided frame on."""

    def __init__(self, settings: CutSettings):
        self.limit = int((settings.max_s - 2 * settings.pad_s) / FRAME_S)  # frames of speech in one passage
        self.max_pause = int(settings.max_pause_s / FRAME_S)
        self.pad = round(settings.pad_s * SAMPLING_RATE)
        # So many frames decide what becomes of the first passage, whatever follows.
        self.horizon = self.limit + self.max_pause + MIN_SPEECH_FRAMES + MIN_PAUSE_FRAMES + 2
        self.probabilities = np.zeros(0, dtype=np.float32)
        self.frame = 0  # index of probabilities[0] in the recording
        self.samples = np.zeros(0, dtype=np.float32)
        self.offset = 0  # index of samples[0] in the recording
        self.end = 0  # sample at which the last passage ended, without its padding
        self.in_speech = False  # the last cut was inside speech

    def push(self, block: np.ndarray, probabilities: np.ndarray) -> None:
        drop = max(self.frame * FRAME_SAMPLES - self.pad - self.offset, 0)
        self.samples = np.concatenate([self.samples[drop:], block])
        self.offset += drop
        self.probabilities = np.concatenate([self.probabilities, probabilities])

    def ready(self, final: bool = False) -> Iterator[tuple[Passage, np.ndarray]]:
        """Yield the passages that are decided."""
        while len(self.probabilities) >= (1 if final else self.horizon):
            window = self.probabilities[: self.horizon]
            segments = speech_segments(window, self.in_speech, goes_on=not final)
            if not segments or segments[0][0] > 0:
                self._advance(segments[0][0] if segments else len(window), in_speech=False)
                continue
            cut, resume = _first_passage(window, segments, self.limit, self.max_pause)
            yield self._passage(cut, resume)
            self._advance(cut, in_speech=cut == resume)

    def _passage(self, cut: int, resume: int) -> tuple[Passage, np.ndarray]:
        """Pad the speech from frame 0 to `cut`; the next begins at `resume`. Pauses are shared in halves."""
        last = self.offset + len(self.samples)
        start, end = self.frame * FRAME_SAMPLES, min((self.frame + cut) * FRAME_SAMPLES, last)
        before = min(self.pad, (start - self.end) // 2 if self.end else start)
        after = min(self.pad, (resume - cut) * FRAME_SAMPLES // 2, last - end)
        self.end = end
        start, end = start - before, end + after
        passage = Passage(start / SAMPLING_RATE, end / SAMPLING_RATE)
        return passage, self.samples[start - self.offset : end - self.offset].copy()

    def _advance(self, frames: int, in_speech: bool) -> None:
        self.frame += frames
        self.probabilities = self.probabilities[frames:]
        self.in_speech = in_speech


def speech_segments(
    probabilities: np.ndarray, in_speech: bool = False, goes_on: bool = False
) -> list[tuple[int, int]]:
    """Find where somebody speaks, by silero's rule (two thresholds, shortest pause, shortest speech).

    Args:
        probabilities: (F,) of speech.
        in_speech: frame 0 continues a speech, which then counts however short it is.
        goes_on: more frames will follow, so that a speech not yet ended lasts to the last frame and counts, too.

    Returns:
        (start, end) of each, in frames.
    """
    segments = []
    start, silent_since = (0 if in_speech else None), None
    for frame, probability in enumerate(probabilities.tolist()):
        if probability >= SPEECH_ON:
            start, silent_since = (frame if start is None else start), None
        elif probability < SPEECH_OFF and start is not None:
            silent_since = frame if silent_since is None else silent_since
            if frame - silent_since >= MIN_PAUSE_FRAMES:
                segments.append((start, silent_since))
                start, silent_since = None, None
    if start is not None:
        segments.append((start, len(probabilities)))
    return [
        (first, end)
        for first, end in segments
        if end - first >= MIN_SPEECH_FRAMES
        or (in_speech and first == 0 and end > 0)
        or (goes_on and first == start)
    ]


def _first_passage(
    probabilities: np.ndarray, segments: list[tuple[int, int]], limit: int, max_pause: int
) -> tuple[int, int]:
    """Choose where the passage that begins at frame 0 ends, and where speech goes on.

    At the first long pause if it comes in time; else at the longest pause in the second half, or the last one
    before; else, in speech without a pause, at the frame least like speech.
    """
    pauses = [(end, following) for (_, end), (following, _) in itertools.pairwise(segments)]
    pauses.append((segments[-1][1], len(probabilities) + max_pause + 1))
    fitting = []
    for end, following in pauses:
        if end > limit:
            break
        if following - end > max_pause:
            return end, following
        fitting.append((end, following))
    late = [pause for pause in fitting if pause[0] >= limit // 2]
    if late:
        return max(late, key=lambda pause: (pause[1] - pause[0], pause[0]))
    if fitting:
        return fitting[-1]
    first, last = limit // 2, limit - MIN_SPEECH_FRAMES
    smooth = np.convolve(probabilities[:limit], np.ones(VALLEY_FRAMES) / VALLEY_FRAMES, mode="same")
    cut = first + int(np.argmin(smooth[first:last]))
    return cut, cut
