"""Recordings to rows: read, cut, transcribe, embed.

Enters: recordings. Leaves: each with all its rows, when its last passage is done. Passages of several
recordings are pooled and batched by length, because a batch costs what its longest clip costs.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.audio import audio_duration
from ..data.passages import Cutting, Passage, stream_passages
from ..data.sampler import length_batches
from ..data.speech_detector import SpeechDetector
from .encoder import Encoder
from .lanes import in_lanes, lane_batch_size
from .moments import embed_windows
from .schema import pack_windows, row_id, source_fingerprint

POOL = 64  # passages batched together; at 29 s each they hold 120 MB
READ_ERRORS = (OSError, ValueError, ImportError)  # what one bad recording may raise


@dataclass
class AddReport:
    """What `SpeechIndex.add` did.

    Attributes:
        added: recordings indexed, new or changed.
        skipped: recordings that had not changed.
        passages: rows with speech that were written.
        audio_s: length of the added recordings, in seconds.
        failed: (path, message) of each recording that could not be read.
    """

    added: int = 0
    skipped: int = 0
    passages: int = 0
    audio_s: float = 0.0
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(eq=False)
class Recording:
    """One recording on its way into the table.

    Attributes:
        path: as it was given.
        source: absolute path, its name in the table.
        fingerprint: see `source_fingerprint`.
        recorded: when the file was last changed.
        duration_s: by its header, in seconds.
        read_s: up to where its passages have been read, in seconds.
        waiting: passages read but not encoded.
        complete: read to its end.
        rows: of the passages with words, by `row_schema`.
    """

    path: Path
    source: str
    fingerprint: str
    recorded: datetime
    duration_s: float
    read_s: float = 0.0
    waiting: int = 0
    complete: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)

    def row(self, start_s: float = 0.0, end_s: float = 0.0) -> dict[str, Any]:
        """Make a row without speech; as the only one it tells that the recording is known."""
        return {
            "id": row_id(self.source, start_s),
            "source": self.source,
            "path": str(self.path),
            "fingerprint": self.fingerprint,
            "recorded": self.recorded,
            "start_s": round(start_s, 3),
            "end_s": round(end_s, 3),
            "transcript": "",
            "probability": 0.0,
            "words": [],
            "vector": None,
            "window_vectors": None,
        }


@dataclass(eq=False)
class _Clip:
    """A passage in the pool; `seconds` of its recording are done with it. What is heard in it becomes its row."""

    recording: Recording
    passage: Passage
    waveform: np.ndarray
    seconds: float
    row: dict[str, Any] | None = None


def changed_recordings(paths: Iterable[Path], known: dict[str, str], report: AddReport) -> list[Recording]:
    """Choose the recordings that are new or changed.

    Args:
        paths: of recordings.
        known: fingerprint by source of what the table has.
        report: counts those that have not changed, and names those that cannot be read.
    """
    changed: dict[str, Recording] = {}
    for path in paths:
        try:
            source = absolute(path)
            fingerprint = source_fingerprint(path)
            if known.get(source) == fingerprint:
                report.skipped += 1
            elif source not in changed:
                recorded = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                changed[source] = Recording(path, source, fingerprint, recorded, audio_duration(path))
        except READ_ERRORS as error:
            report.failed.append((str(path), str(error)))
    return list(changed.values())


def encode_recordings(
    recordings: list[Recording], encoder: Encoder, cut: Cutting, batch_size: int, report: AddReport
) -> Iterator[tuple[float, list[Recording]]]:
    """Fill the rows of recordings.

    Args:
        recordings: from `changed_recordings`.
        encoder: the model.
        cut: how recordings are cut.
        batch_size: most passages in a batch.
        report: names the recordings that cannot be read; they are left out.

    Yields:
        After each batch the seconds of audio done since the last, and the recordings that it completed.
    """
    open_recordings: list[Recording] = []
    clips = _read(recordings, cut, open_recordings, report)
    for chosen in in_lanes(partial(_encode, encoder), _batches(clips, batch_size), encoder.device):
        for clip in chosen:
            clip.recording.waiting -= 1
            if clip.row is not None:
                clip.recording.rows.append(clip.row)
        yield _finished(open_recordings, sum(clip.seconds for clip in chosen))
    yield _finished(open_recordings, 0.0)  # those that end in silence


def _read(
    recordings: list[Recording], cut: Cutting, open_recordings: list[Recording], report: AddReport
) -> Iterator[_Clip]:
    """Read recordings one after the other; those begun are put into `open_recordings`."""
    detector = SpeechDetector()
    for recording in recordings:
        open_recordings.append(recording)
        try:
            for passage, waveform in stream_passages(recording.path, cut, detector):
                seconds = passage.end_s - recording.read_s
                recording.read_s = passage.end_s
                recording.waiting += 1
                yield _Clip(recording, passage, waveform, seconds)
            if source_fingerprint(recording.path) != recording.fingerprint:
                raise ValueError(f"{recording.path} was changed while it was read; index it again")
        except READ_ERRORS as error:
            open_recordings.remove(recording)
            report.failed.append((str(recording.path), str(error)))
        recording.complete = True


def _batches(clips: Iterator[_Clip], batch_size: int) -> Iterator[list[_Clip]]:
    """Batch clips of like length, as many batches for one lane as for the other."""
    while pool := list(itertools.islice(clips, POOL)):
        most = lane_batch_size(len(pool), batch_size)
        for batch in length_batches([len(clip.waveform) for clip in pool], most):
            yield [pool[number] for number in batch]


def _encode(encoder: Encoder, clips: list[_Clip]) -> list[_Clip]:
    """Give the clips of one batch their rows. A clip without words, music or noise, gets none."""
    encoded = encoder.encode_passages([clip.waveform for clip in clips])
    transcripts = [transcript for transcript, _ in encoded]
    windows = embed_windows(
        encoder,
        [transcript.text.strip() for transcript in transcripts],
        [transcript.words for transcript in transcripts],
    )
    for clip, (transcript, vector), window_vectors in zip(clips, encoded, windows, strict=True):
        recording, start_s = clip.recording, clip.passage.start_s
        if not transcript.text.strip():
            continue
        norm = float(np.linalg.norm(vector))
        if not 0.9 < norm < 1.1:  # LanceDB would store it, and never find it
            raise ValueError(
                f"{recording.path} at {start_s:.1f} s has a vector of norm {norm:g} but 1 is needed; "
                "check the checkpoint"
            )
        words = [
            replace(word, start=round(start_s + word.start, 3), end=round(start_s + word.end, 3))
            for word in transcript.words
        ]
        clip.row = (
            recording.row(start_s, clip.passage.end_s)
            | {"transcript": transcript.text.strip(), "probability": transcript.probability}
            | {"words": [asdict(word) for word in words], "vector": vector.tolist()}
            | {"window_vectors": pack_windows(window_vectors)}
        )
    return clips


def _finished(open_recordings: list[Recording], seconds: float) -> tuple[float, list[Recording]]:
    """Take the finished recordings out of `open_recordings`; their last silence counts as done, too."""
    finished = [recording for recording in open_recordings if recording.complete and not recording.waiting]
    for recording in finished:
        open_recordings.remove(recording)
        seconds += max(recording.duration_s - recording.read_s, 0.0)
        recording.rows = sorted(recording.rows, key=lambda row: row["start_s"])
    return seconds, finished


def absolute(path: str | Path) -> str:
    """Return the absolute path, links not followed: the name of a recording in the table."""
    source = os.path.normpath(Path(path).expanduser().absolute())
    source.encode()  # a name that is not Unicode raises a ValueError: the table could not hold it
    return source
