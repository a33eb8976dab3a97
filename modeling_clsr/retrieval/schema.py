"""The one LanceDB row, and what an index remembers about itself.

A row is a passage. A recording without speech has one row without a vector, which no search returns, so
that it is known and skipped the next time.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

try:
    import lancedb
    import pyarrow as pa
except ImportError as error:
    raise ImportError(
        "`clsr index` and `clsr search` need lancedb, which is not installed; "
        'install the "search" extra of this package'
    ) from error

from ..data.passages import CutSettings

METADATA_FILE = "clsr_index.json"
FORMAT_VERSION = 1
TABLE = "passages"
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}
EDGE_BYTES = 1 << 16  # of each end of a recording, in its fingerprint


class IndexMismatchError(ValueError):
    """The index was built by another model, or by another version of its format."""


def row_schema(embed_dim: int) -> pa.Schema:
    """Describe a row.

    Args:
        embed_dim: of the vectors.
    """
    word = pa.struct(
        [
            ("text", pa.string()),
            ("start", pa.float64()),  # seconds from the start of the recording
            ("end", pa.float64()),
            ("probability", pa.float32()),
        ]
    )
    return pa.schema(
        [
            # The same however often a recording is indexed, see `row_id`. Being the primary key, it makes LanceDB
            # notice that another process has just written the same recording, which it would else write twice.
            pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
            ("source", pa.string()),  # absolute path
            ("path", pa.string()),  # the path as it was given, for people
            ("fingerprint", pa.string()),  # of the recording
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("transcript", pa.string()),
            ("probability", pa.float32()),  # of the transcript
            ("words", pa.list_(word)),
            ("vector", pa.list_(pa.float32(), embed_dim)),
        ]
    )


def open_table(folder: Path, embed_dim: int) -> lancedb.table.Table:
    """Open the table of an index, or make it.

    Args:
        folder: of the index.
        embed_dim: of the vectors.
    """
    # Always the latest version: from an old one, a second `add` would write again what another handle has written.
    database = lancedb.connect(str(folder), read_consistency_interval=timedelta(0))
    return database.create_table(TABLE, schema=row_schema(embed_dim), exist_ok=True)


@dataclass(frozen=True)
class IndexMetadata:
    """What an index was built with.

    Attributes:
        model: folder or Hub id of the checkpoint.
        model_fingerprint: of its weights.
        embed_dim: of the vectors.
        sampling_rate: of the waveforms that were embedded, in Hz.
        cut: how recordings are cut.
        format_version: of this file and of the rows.
    """

    model: str
    model_fingerprint: str
    embed_dim: int
    sampling_rate: int
    cut: CutSettings
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Write `clsr_index.json`, whole or not at all."""
        unfinished = folder / f"{METADATA_FILE}.tmp"
        unfinished.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(folder / METADATA_FILE)

    @classmethod
    def read(cls, folder: Path) -> "IndexMetadata":
        """Read `clsr_index.json`.

        Raises:
            FileNotFoundError: the folder holds no index.
            IndexMismatchError: it has another format version.
        """
        file = folder / METADATA_FILE
        if not file.is_file():
            state = "holds no index" if folder.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"{folder} {state}; check the spelling, or make one with `clsr index PATH --index {folder}`"
            )
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields.get("format_version") != FORMAT_VERSION:
            raise IndexMismatchError(
                f"{folder} has index format {fields.get('format_version')} but this version reads "
                f"{FORMAT_VERSION}; build it again with `clsr index` in a new folder"
            )
        return cls(**fields | {"cut": CutSettings(**fields["cut"])})

    def check_model(self, model: str, fingerprint: str) -> None:
        """Refuse another model than the one that built the index.

        Raises:
            IndexMismatchError: the fingerprints differ.
        """
        if fingerprint != self.model_fingerprint:
            raise IndexMismatchError(
                f"the index was built by {self.model}@{self.model_fingerprint[:8]} but the model is "
                f"{model}@{fingerprint[:8]}; use the first, or re-run `clsr index` with a new folder"
            )


def source_fingerprint(path: Path) -> str:
    """Tell whether a recording has changed: its size, its time of change, and a hash of both its ends."""
    stat = path.stat()
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(stat.st_size - EDGE_BYTES, 0))
        digest.update(file.read(EDGE_BYTES))
    return f"{stat.st_size}-{stat.st_mtime_ns}-{digest.hexdigest()}"


def row_id(source: str, start_s: float) -> str:
    """Name the row of the passage of `source` that begins at `start_s`."""
    return f"{hashlib.blake2b(source.encode(), digest_size=12).hexdigest()}-{round(start_s * 1000):09d}"


def quoted(text: str) -> str:
    """Write a text as a literal of LanceDB's filters."""
    return "'" + text.replace("'", "''") + "'"
