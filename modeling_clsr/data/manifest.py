"""Rows: what a training or a benchmark knows of a clip, as JSON Lines or as any Hugging Face data set.

Enters: files or data sets with column names. Leaves: `Row`s with absolute paths, checked.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import soundfile

logger = logging.getLogger(__name__)
LISTED = 10  # bad rows named in a warning


@dataclass(frozen=True)
class Row:
    """One clip.

    Attributes:
        id: unique in its manifest.
        audio: path of the clip.
        transcript: what it says.
        question: a written question that it answers.
        question_audio: path of a spoken question.
        context_id: of the passage; rows that share one are no negatives of each other.
        answer: words of the transcript.
        start: of the answer, in seconds from the clip's start.
        end: of the answer.
        speaker: who speaks.
        duration: in seconds.
    """

    id: str
    audio: str = ""
    transcript: str | None = None
    question: str | None = None
    question_audio: str | None = None
    context_id: str | None = None
    answer: str | None = None
    start: float | None = None
    end: float | None = None
    speaker: str | None = None
    duration: float | None = None


NAMES = tuple(entry.name for entry in fields(Row))
PATHS = ("audio", "question_audio")
TEXTS = ("transcript", "question")


def read_manifest(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    audio_root: str | Path | None = None,
    needs: Sequence[str] = ("audio",),
    max_audio_s: float | None = None,
    skip_bad_rows: bool = False,
) -> list[Row]:
    """Read and check a manifest.

    Args:
        path: JSON Lines, one object per line.
        columns: names of the file's own columns, as {"duration": "dur"}.
        audio_root: folder of relative audio paths; that of the manifest if None.
        needs: columns that every row must have; "question" may be spoken.
        max_audio_s: longest clip, in seconds.
        skip_bad_rows: leave unusable rows out, count and list them in a warning.

    Returns:
        Rows with absolute paths and known durations.

    Raises:
        FileNotFoundError: the manifest or a clip is missing.
        ValueError: a column is missing, a row is no JSON object, a text is empty, a clip cannot be read or is too
            long, or an id stands twice; the message names the row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the manifest of rows (JSON Lines)")
    root = Path(audio_root) if audio_root is not None else path.parent
    return check_rows(
        _raw_rows(path), str(path), columns, root, needs, max_audio_s=max_audio_s, skip_bad_rows=skip_bad_rows
    )


def check_rows(
    raw: Iterable[tuple[int, Any]],
    source: str,
    columns: Mapping[str, str] | None,
    root: Path,
    needs: Sequence[str] = ("audio",),
    max_audio_s: float | None = None,
    skip_bad_rows: bool = False,
) -> list[Row]:
    """Turn numbered records into rows; see `read_manifest`."""
    rows, bad = [], []
    seen: dict[str, int] = {}
    for number, record in raw:
        try:
            row = _row(record, number, source, columns or {}, root)
            _check(row, number, source, needs, max_audio_s)
            if row.id in seen:
                raise ValueError(
                    f"row {number} of {source} has the id {row.id!r} of row {seen[row.id]}; make ids unique"
                )
            seen[row.id] = number
            rows.append(row)
        except (ValueError, FileNotFoundError) as error:
            if not skip_bad_rows:
                raise
            bad.append(str(error))
    if bad:
        shown = "\n  ".join(bad[:LISTED])
        more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        logger.warning("%d rows of %s were skipped:\n  %s%s", len(bad), source, shown, more)
    if not rows:
        raise ValueError(
            f"{source} has {len(bad)} rows and 0 usable ones; see the reasons with skip_bad_rows off"
        )
    return rows


def stream_manifest(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    audio_root: str | Path | None = None,
    needs: Sequence[str] = ("audio",),
) -> Iterator[Row]:
    """Yield checked rows one by one, for manifests that no list should hold; arguments as `read_manifest`."""
    root = Path(audio_root) if audio_root is not None else Path(path).parent
    for number, record in _raw_rows(Path(path)):
        row = _row(record, number, str(path), columns or {}, root)
        _check(row, number, str(path), needs, None)
        yield row


def rows_of_dataset(
    dataset: Iterable[Mapping[str, Any]],
    folder: str | Path,
    columns: Mapping[str, str] | None = None,
    needs: Sequence[str] = ("audio",),
    skip_bad_rows: bool = False,
) -> list[Row]:
    """Turn any data set (`datasets.load_dataset`, or a list of dictionaries) into rows.

    Args:
        dataset: its audio columns hold paths, or {"bytes", "path"} as `Audio(decode=False)` gives them, or
            {"array", "sampling_rate"}. torchcodec is not needed: cast the columns with `undecoded`.
        folder: gets a file for each clip that has no path of its own; equal clips share one.
        columns: names of the data set's own columns.
        needs: columns that every row must have.
        skip_bad_rows: as `read_manifest`.
    """
    folder, names = Path(folder), dict(columns or {})
    folder.mkdir(parents=True, exist_ok=True)

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, entry in enumerate(dataset, start=1):
            record = dict(entry)
            for name in PATHS:
                column = names.get(name, name)
                if isinstance(record.get(column), Mapping):
                    record[column] = _stored_clip(record[column], folder)
            yield number, record

    return check_rows(records(), "the data set", names, folder, needs, skip_bad_rows=skip_bad_rows)


def undecoded(dataset: Any) -> Any:
    """Cast every audio column of a Hugging Face data set so that its bytes are handed out as they are."""
    from datasets import Audio

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, Audio):
            dataset = dataset.cast_column(name, Audio(decode=False))
    return dataset


def distinct_clips(rows: Iterable[Row]) -> list[Row]:
    """Keep the first row of each clip, whose id stands for what is heard in it; others ask more about it."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.audio, row)
    return list(first.values())


def write_manifest(path: str | Path, rows: Iterable[Row]) -> Path:
    """Write rows, whole or not at all; audio paths below the manifest's folder become relative.

    Returns:
        `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            record = {name: value for name, value in asdict(row).items() if value not in (None, "")}
            for name in PATHS:
                if name in record:
                    record[name] = _relative(record[name], path.parent)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    unfinished.replace(path)
    return path


def _raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    yield number, error


def _row(record: Any, number: int, source: str, columns: Mapping[str, str], root: Path) -> Row:
    if not isinstance(record, Mapping):
        raise ValueError(
            f"row {number} of {source} is no JSON object ({str(record)[:60]}); write one object per line"
        )
    values = {}
    for name in NAMES:
        column = columns.get(name, name)
        if name in columns and column not in record:
            raise ValueError(
                f"row {number} of {source} has no column {column!r} but {', '.join(record)}; name another for {name}"
            )
        if record.get(column) is not None:
            values[name] = record[column]
    for name in PATHS:
        if name in values:
            values[name] = str(root / str(values[name]))
    values["id"] = str(values.get("id", number))
    if values.get("duration") is not None:
        values["duration"] = float(values["duration"])
    return Row(**values)


def _check(row: Row, number: int, source: str, needs: Sequence[str], max_audio_s: float | None) -> None:
    where = f"row {number} ({row.id}) of {source}"
    for name in needs:
        value = getattr(row, name)
        if name == "question" and row.question_audio:
            continue
        if value is None or value == "":
            if name in TEXTS and value == "":
                raise ValueError(f"{where} has an empty {name}; fill it or drop the row")
            raise ValueError(f"{where} has no {name}; add the column or map another one to it with columns")
    for name in TEXTS:
        value = getattr(row, name)
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{where} has an empty {name}; fill it or drop the row")
    if "audio" not in needs or not row.audio:
        return
    if not Path(row.audio).is_file():
        raise FileNotFoundError(f"{where} names {row.audio}, which is not there; set audio_root")
    if row.duration is None:
        object.__setattr__(row, "duration", _duration(row.audio, where))
    if max_audio_s is not None and (row.duration or 0.0) > max_audio_s:
        raise ValueError(
            f"{where} is {row.duration:.2f} s but the model takes at most {max_audio_s:g} s; "
            "cut it with modeling_clsr.data.passages.cut_passages"
        )


def _duration(path: str, where: str) -> float:
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{where} names {path}, which cannot be read ({error}); repair or drop it"
        ) from error


def _stored_clip(clip: Mapping[str, Any], folder: Path) -> str:
    """Return the path of a clip; written to the folder, under a name of its content, if it is only in memory."""
    if clip.get("array") is not None:
        encoded = io.BytesIO()
        soundfile.write(encoded, clip["array"], int(clip["sampling_rate"]), format="FLAC")
        content, suffix = encoded.getvalue(), ".flac"
    elif clip.get("bytes") is not None:
        content, suffix = clip["bytes"], Path(str(clip.get("path") or "clip.wav")).suffix
    else:
        return str(Path(str(clip["path"])).absolute())
    file = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not file.exists():
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.tmp")  # several processes may write it
        unfinished.write_bytes(content)
        unfinished.replace(file)
    return str(file.absolute())


def _relative(path: str, folder: Path) -> str:
    absolute, base = Path(path).absolute(), folder.absolute()
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else str(absolute)
