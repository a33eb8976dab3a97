"""The passages of an index as a stream of `datasets`, for training and for retrieval pipelines.

Enters: an index. Leaves: an `IterableDataset` that reads the table batch by batch, so that its size does not matter.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ..retrieval import SpeechIndex
from ..retrieval.schema import open_table, pa
from ..retrieval.search import row_condition

try:
    from datasets import Features, IterableDataset
except ImportError as error:
    raise ImportError(
        'streaming an index needs datasets, which is not installed; install the extra "train"'
    ) from error

COLUMNS = ("id", "source", "path", "recorded", "start_s", "end_s", "transcript", "words", "vector")
PREFIXES = 16**4  # of the hash that an id begins with
PROCESS = os.getpid()  # that imported this module: a worker's own, unless it was forked


def stream_index(
    index: SpeechIndex | str | Path,
    columns: Sequence[str] | None = None,
    batch_size: int = 1000,
    num_shards: int = 16,
    file: str | None = None,
    after: date | None = None,
    before: date | None = None,
    exclude: str | None = None,
) -> IterableDataset:
    """Stream the passages of speech that an index holds now; what is added later is not among them.

    A shard is a range of the hash of a recording's path: `shuffle` mixes the shards, the workers of a DataLoader share
    them (started by "spawn"), and no recording is torn apart. The state of the stream (`state_dict`) names shard and
    row; it fits as long as the index has not changed.

    Args:
        index: or its folder or address.
        columns: of `retrieval.schema.row_schema`; `COLUMNS` if None. `words` is a list of text, start, end (seconds
            from the start of the recording) and probability; `vector` is (D,) float32, of unit norm.
        batch_size: rows read at once, by each worker.
        num_shards: at least as many as workers, at most 65536; each is one pass over the ids.
        file: glob; only recordings whose path it matches.
        after: only recordings last changed on this day (UTC) or later.
        before: only recordings last changed before this day.
        exclude: glob; not the recordings whose path it matches.

    Returns:
        The rows, typed, in no order that means anything.

    Raises:
        FileNotFoundError: there is no index.
        IndexMismatchError: it has another format version.
        ValueError: a column does not exist, `num_shards` or `batch_size` is out of range, or no passage passes the
            filters.
        RuntimeError: while it is read, in a forked worker.
    """
    uri = index.uri if isinstance(index, SpeechIndex) else str(index)
    table, _ = open_table(uri)
    columns = tuple(columns or COLUMNS)
    unknown = [name for name in columns if name not in table.schema.names]
    if unknown:
        raise ValueError(
            f"columns has {unknown[0]!r} but the index has {', '.join(table.schema.names)}; choose among them"
        )
    if not 1 <= num_shards <= PREFIXES or batch_size < 1:
        raise ValueError(
            f"num_shards is {num_shards} and batch_size {batch_size} but 1 to {PREFIXES} shards of at least 1 row "
            "can be read; change them"
        )
    filters = row_condition(file, after, before, exclude)
    condition = "vector IS NOT NULL" + (f" AND {filters}" if filters else "")  # else nobody speaks
    if not table.count_rows(condition):
        raise ValueError(
            f"{uri} has {table.count_rows()} rows but none with {condition}; add recordings, or loosen the filters"
        )
    bounds = [f"{PREFIXES * shard // num_shards:04x}" for shard in range(num_shards)] + ["g"]
    reading = {"uri": uri, "version": table.version, "columns": columns, "condition": condition}
    return IterableDataset.from_generator(
        _read_shards,
        features=Features.from_arrow_schema(pa.schema([table.schema.field(name) for name in columns])),
        gen_kwargs=reading | {"batch_size": batch_size, "shards": list(itertools.pairwise(bounds))},
    )


def _read_shards(
    uri: str,
    version: int,
    columns: tuple[str, ...],
    condition: str,
    batch_size: int,
    shards: list[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    """Read shards one after the other; each worker opens the table for itself, in the version that all have."""
    if os.getpid() != PROCESS:  # sooner or later it would wait for ever
        raise RuntimeError(
            f"process {os.getpid()} was forked from {PROCESS} but LanceDB's threads do not come along; "
            'pass multiprocessing_context="spawn" to the DataLoader'
        )
    table, _ = open_table(uri)
    table.checkout(version)
    for low, high in shards:
        found = table.search().where(f"id >= '{low}' AND id < '{high}' AND {condition}")
        for batch in found.select(list(columns)).to_batches(batch_size):
            yield from batch.to_pylist()
