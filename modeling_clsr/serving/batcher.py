"""Batching: concurrent requests in, few passes of the model out.

One thread runs the model. It takes what has arrived, waits a moment for more, and gives every request its own answer.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any


class BusyError(RuntimeError):
    """More requests wait than the server takes."""


@dataclass
class _Job:
    items: list[Any]
    future: asyncio.Future
    loop: asyncio.AbstractEventLoop


class Batcher:
    """Runs a function over the items of many requests at once.

    Args:
        run: items -> one result for each.
        max_batch: most items in one call.
        max_waiting: most items that may wait; further requests are refused.
        wait_s: how long to wait for more.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        max_batch: int = 8,
        max_waiting: int = 256,
        wait_s: float = 0.01,
    ):
        self.run, self.max_batch, self.max_waiting, self.wait_s = run, max_batch, max_waiting, wait_s
        self.batches = self.items = 0
        self._waiting = 0
        self._lock = threading.Lock()
        self._queue: Queue[_Job | None] = Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that wait or are being worked on."""
        return self._waiting

    async def submit(self, items: list[Any], begun: bool = False) -> list[Any]:
        """Run items with those of other requests.

        Args:
            items: of one request.
            begun: they go on with a request that was taken before, and are not refused in its midst.

        Returns:
            A result for each.

        Raises:
            BusyError: too many items wait.
            Exception: what `run` raised for the batch.
        """
        with self._lock:
            if not begun and self._waiting + len(items) > self.max_waiting:
                raise BusyError(
                    f"{self._waiting} inputs wait and {len(items)} more came but at most {self.max_waiting} may; "
                    "try again in a moment"
                )
            self._waiting += len(items)
        loop = asyncio.get_running_loop()
        job = _Job(items, loop.create_future(), loop)
        self._queue.put(job)
        return await job.future

    def close(self) -> None:
        """End the thread when what waits is done, or given up."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs, ending = [job], False
            deadline = time.monotonic() + self.wait_s
            while sum(len(one.items) for one in jobs) < self.max_batch:
                try:
                    more = self._queue.get(timeout=max(deadline - time.monotonic(), 0.0))
                except Empty:
                    break
                if more is None:
                    ending = True
                    break
                jobs.append(more)
            self._finish([job for job in jobs if not self._is_abandoned(job)])
            if ending:
                return

    def _is_abandoned(self, job: _Job) -> bool:
        """Drop a job whose client has gone, or who waited too long."""
        if not job.future.cancelled():
            return False
        with self._lock:
            self._waiting -= len(job.items)
        return True

    def _finish(self, jobs: list[_Job]) -> None:
        items = [item for job in jobs for item in job.items]
        try:
            results: list[Any] = []
            for start in range(0, len(items), self.max_batch):
                results += self.run(items[start : start + self.max_batch])
                self.batches += 1
            error = None
        except Exception as raised:  # it belongs to the requests, not to the thread
            error = raised
        self.items += len(items)
        with self._lock:
            self._waiting -= len(items)
        if error is not None and len(jobs) > 1:  # one bad input must not fail the others
            with self._lock:
                self._waiting += len(items)
            for job in jobs:
                self._finish([job])
            return
        place = 0
        for job in jobs:
            own = None if error else results[place : place + len(job.items)]
            place += len(job.items)
            job.loop.call_soon_threadsafe(_settle, job.future, own, error)


def _settle(future: asyncio.Future, results: list[Any] | None, error: Exception | None) -> None:
    if future.done():  # the client has gone
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(results)
