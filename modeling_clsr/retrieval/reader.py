"""What a search reads of the table: rows by their vectors, rows by their words, and the rows it has found.

LanceDB's blocking calls wait for its event loop at every step of a query. Here the queries of a search are coroutines
that run side by side where they can, and `wait` is the only place that blocks.
"""

from collections.abc import Awaitable
from typing import Any, TypeVar

import numpy as np
from lancedb.background_loop import LOOP
from lancedb.query import MatchQuery

from .schema import open_async_table

NUM_PROBES = 10  # partitions of the vector index that are searched
REFINE_FACTOR = 1  # times the rows wanted, whose stored vectors are then compared

Result = TypeVar("Result")


class RowsMovedError(RuntimeError):
    """Rows were rewritten by another process between being found and being read."""


def wait(work: Awaitable[Result]) -> Result:
    """Run a coroutine in LanceDB's event loop and return its result; also where the caller runs a loop of its own."""
    return LOOP.run(work)


class TableReader:
    """The table of an index, always in its latest version.

    Args:
        uri: of the index, see `schema.create_table`.
    """

    def __init__(self, uri: str):
        self._table = wait(open_async_table(uri))

    async def count(self) -> int:
        """Return the number of rows."""
        return await self._table.count_rows()

    async def prewarm(self) -> None:
        """Read the indices into memory; otherwise a search reads the parts that no search before it has read."""
        for index in await self._table.list_indices():
            await self._table.prewarm_index(index.name)

    async def nearest(self, vector: np.ndarray, count: int, condition: str | None = None) -> dict[int, float]:
        """Find the rows whose vectors are nearest, exactly where the table has no vector index yet.

        Args:
            vector: (D,) unit vector.
            count: of rows.
            condition: filter on the rows.

        Returns:
            The cosine of each row by its LanceDB row id, which `fetch` takes; nearest first.
        """
        found = self._table.query().nearest_to(vector).column("vector").distance_type("cosine").limit(count)
        found = found.nprobes(NUM_PROBES).refine_factor(REFINE_FACTOR)
        distances = await _numbers(found, "_distance", condition)
        return {row: 1 - distance for row, distance in distances.items()}

    async def worded(self, text: str, count: int, condition: str | None = None) -> dict[int, float]:
        """Find the rows that say words of a text: BM25 by row id, best first. Arguments as `nearest`."""
        words: Any = MatchQuery(text, "transcript")  # type: ignore[call-arg] # pydantic's defaults
        return await _numbers(self._table.query().nearest_to_text(words).limit(count), "_score", condition)

    async def fetch(self, rows: list[int], columns: list[str]) -> list[dict]:
        """Read rows that a search has found.

        Args:
            rows: their row ids.
            columns: to read.

        Returns:
            A dict of the columns for each row, in the order of `rows`.

        Raises:
            RowsMovedError: another process has rewritten rows since, which gives them new ids.
        """
        if not rows:
            return []
        taken = await self._table.take_row_ids(rows).with_row_id().select(columns).to_list()
        found = {row.pop("_rowid"): row for row in taken}
        if len(found) < len(rows):
            raise RowsMovedError(f"{len(rows) - len(found)} of {len(rows)} rows have moved; search again")
        return [found[row] for row in rows]


async def _numbers(found: Any, column: str, condition: str | None) -> dict[int, float]:
    """Return one number of each row, and read nothing else: timed words take longer to read than to find."""
    if condition:
        found = found.where(condition)
    numbers = await found.select([column]).with_row_id().to_arrow()
    return dict(zip(numbers["_rowid"].to_pylist(), numbers[column].to_pylist(), strict=True))
