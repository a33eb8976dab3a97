"""The one LanceDB row, and what an index remembers about itself.

A row is a passage. A recording without speech has one row without a vector, which no search returns, so
that it is known and skipped the next time. What the index was built with stands in the table itself, so that an index
is a table and nothing else: in a folder, or in an object store.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

try:
    import lancedb
    import pyarrow as pa
except ImportError as error:
    raise ImportError(
        "`clsr index` and `clsr search` need lancedb, which is not installed; "
        'install the "search" extra of this package'
    ) from error

from ..data.passages import CutSettings, Cutting, FixedWindows

METADATA_KEY = b"clsr_index"
FORMAT_VERSION = 3
FIRST_FORMAT_FILE = "clsr_index.json"  # beside the table of an index in format 1
CUTS: dict[str, type[CutSettings | FixedWindows]] = {"pauses": CutSettings, "fixed": FixedWindows}
TABLE = "passages"
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}
WINDOW_DTYPE = np.dtype("<f2")
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
            ("recorded", pa.timestamp("us", "UTC")),  # when the file was last changed
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("transcript", pa.string()),
            ("probability", pa.float32()),  # of the transcript
            ("words", pa.list_(word)),
            ("vector", pa.list_(pa.float32(), embed_dim)),
            # Of what may be a moment, (W, D), see `pack_windows`. As a list of vectors it would be a second column that
            # a search which names none might mean.
            ("window_vectors", pa.binary()),
        ]
    )


def pack_windows(vectors: np.ndarray) -> bytes:
    """Store (W, D) unit vectors: 2 bytes a number, which changes a cosine by less than 0.001."""
    return vectors.astype(WINDOW_DTYPE).tobytes()


def unpack_windows(stored: bytes, embed_dim: int) -> np.ndarray:
    """Return what `pack_windows` stored, (W, D)."""
    return np.frombuffer(stored, WINDOW_DTYPE).reshape(-1, embed_dim)


@dataclass(frozen=True)
class IndexMetadata:
    """What an index was built with.

    Attributes:
        model: folder or Hub id of the checkpoint.
        model_fingerprint: of its weights.
        embed_dim: of the vectors.
        sampling_rate: of the waveforms that were embedded, in Hz.
        cut: how recordings are cut.
        format_version: of this record and of the rows.
    """

    model: str
    model_fingerprint: str
    embed_dim: int
    sampling_rate: int
    cut: Cutting
    format_version: int = FORMAT_VERSION

    def encode(self) -> bytes:
        """Write as JSON."""
        kind = next(name for name, cls in CUTS.items() if isinstance(self.cut, cls))
        fields = dataclasses.asdict(self)
        return json.dumps(fields | {"cut": {"kind": kind} | fields["cut"]}).encode()

    @classmethod
    def decode(cls, text: bytes, name: str) -> "IndexMetadata":
        """Read what `encode` wrote.

        Raises:
            IndexMismatchError: it has another format version.
        """
        fields = json.loads(text)
        if fields.get("format_version") != FORMAT_VERSION:
            raise _other_format(name, fields.get("format_version"))
        cut = dict(fields["cut"])
        return cls(**fields | {"cut": CUTS[cut.pop("kind")](**cut)})

    def check_cut(self, cut: Cutting | None) -> None:
        """Refuse other settings than those of the index.

        Raises:
            IndexMismatchError: they differ.
        """
        if cut is not None and cut != self.cut:
            raise IndexMismatchError(
                f"the index is cut by {describe(self.cut)} but {describe(cut)} is asked for; "
                "leave the settings out, or use a new folder"
            )

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


def create_table(uri: str, metadata: IndexMetadata) -> lancedb.table.Table:
    """Make the table of a new index.

    Args:
        uri: folder, or address in an object store ("s3://bucket/talks.clsr").
        metadata: what it is built with.

    Raises:
        FileExistsError: there is an index already, or the folder holds something else.
    """
    folder = Path(uri)
    others = [] if "://" in uri or not folder.is_dir() else sorted(entry.name for entry in folder.iterdir())
    if others:
        raise FileExistsError(
            f"{uri} holds {len(others)} files already ({others[0]}, …) but a new index needs its own folder; "
            "name a new one"
        )
    schema = row_schema(metadata.embed_dim).with_metadata({METADATA_KEY: metadata.encode()})
    try:
        return connect(uri).create_table(TABLE, schema=schema)
    except ValueError as error:
        if "already exists" not in str(error):
            raise
        raise FileExistsError(f"{uri} holds an index already; open it, or name a new one") from error


def open_table(uri: str) -> tuple[lancedb.table.Table, IndexMetadata]:
    """Open the table of an index.

    Args:
        uri: as in `create_table`.

    Raises:
        FileNotFoundError: there is no index.
        IndexMismatchError: it has another format version.
    """
    folder = None if "://" in uri else Path(uri)
    if folder is not None and (folder / FIRST_FORMAT_FILE).is_file():
        raise _other_format(uri, 1)
    if folder is not None and not folder.is_dir():  # connecting would make it
        raise _no_index(uri, "does not exist")
    try:
        table = connect(uri).open_table(TABLE)
    except (ValueError, FileNotFoundError) as error:
        raise _no_index(uri, "holds no index") from error
    found = (table.schema.metadata or {}).get(METADATA_KEY)
    if found is None:
        raise _no_index(uri, "holds a table of something else")
    return table, IndexMetadata.decode(found, uri)


def connect(uri: str) -> lancedb.DBConnection:
    """Connect to the database of an index."""
    # Always the latest version: from an old one, a second `add` would write again what another handle has written.
    return lancedb.connect(uri, read_consistency_interval=timedelta(0))


async def open_async_table(uri: str) -> lancedb.AsyncTable:
    """Open the table of an index that is there, for coroutines."""
    connection = await lancedb.connect_async(uri, read_consistency_interval=timedelta(0))
    return await connection.open_table(TABLE)


def describe(cut: Cutting) -> str:
    """Write settings for people.

    >>> describe(FixedWindows(20.0, 5.0))
    'fixed (max_s 20, overlap_s 5)'
    """
    kind = next(name for name, cls in CUTS.items() if isinstance(cut, cls))
    return f"{kind} ({', '.join(f'{name} {value:g}' for name, value in dataclasses.asdict(cut).items())})"


def _no_index(uri: str, state: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{uri} {state}; check the spelling, or make one with `clsr index PATH --index {uri}`"
    )


def _other_format(uri: str, version: object) -> IndexMismatchError:
    return IndexMismatchError(
        f"{uri} has index format {version} but this version reads {FORMAT_VERSION}; "
        "build it again with `clsr index` in a new folder"
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
