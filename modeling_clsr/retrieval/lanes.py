"""Batches two at a time on a CPU, each with half of its threads.

A decoder reads much memory and runs many small operations, which more threads do not make faster: two batches beside
each other use what one leaves idle.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

LANES = 2
Item = TypeVar("Item")
Result = TypeVar("Result")


def lane_batch_size(count: int, most: int) -> int:
    """Return how many of `count` items a batch should have, at most `most`, so that all lanes get alike.

    >>> lane_batch_size(49, 16)  # not three full ones and one of a single item
    13
    """
    rounds = math.ceil(count / (LANES * most))
    return math.ceil(count / (LANES * rounds))


def in_lanes(function: Callable[[Item], Result], items: Iterable[Item], device: str) -> Iterator[Result]:
    """Apply a function that runs a model to items, in order.

    Args:
        function: called from several threads.
        items: drawn in the caller's thread, a little ahead.
        device: the model's; not on a CPU, with one thread or for a single item all is done in the caller's thread.
    """
    threads = torch.get_num_threads()
    items = iter(items)
    first = list(itertools.islice(items, LANES))
    items = itertools.chain(first, items)
    if device != "cpu" or threads < LANES or len(first) < LANES:
        yield from map(function, items)
        return
    share = threads // LANES
    waiting: deque[Future[Result]] = deque()
    # In this thread, too: MKL has one number for all, that of the last call.
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(LANES, "lane", torch.set_num_threads, (share,)) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > LANES:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        torch.set_num_threads(threads)
