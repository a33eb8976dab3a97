"""JSON lines: whole files, and files that grow while long work goes on."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a `.jsonl` or `.jsonl.gz` file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def write_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the objects of a `.jsonl` file, whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    unfinished.write_text("".join(lines), encoding="utf-8")
    unfinished.replace(path)


def read_kept_lines(path: Path) -> list[dict[str, Any]]:
    """Return what `keep_line` has written so far.

    The line that a killed run was writing is cut off the file; one that is broken further up is left out.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    records = []
    for line in whole.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # what other versions wrote behind the line of a killed run
            continue
    return records


def keep_line(path: Path, record: dict[str, Any]) -> None:
    """Add an object to a `.jsonl` file, so that a run that is stopped finds it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
