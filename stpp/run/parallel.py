"""A `map` over threads that keeps the order of the items and holds only some of them at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, repeat
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
THREADS = 2 * (os.cpu_count() or 1)
"""The default number of threads for reading and hashing: some wait for the disk while others compute."""
TOGETHER = 16
"""Items per task when there are many: submitting a task costs more than hashing a small file."""


def ordered_map(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Yield `function(item)` for each item, in order, computed by `workers` threads.

    It suits functions that release the GIL (reading, hashing, decoding). Unlike `Executor.map`, it holds a bounded
    number of items and results at a time. With fewer than two workers it is plain `map`.
    """
    if workers < 2:
        yield from map(function, items)
        return

    def several(some: list[A]) -> list[B]:
        return [function(item) for item in some]

    rest, pending = iter(items), deque[Future[list[B]]]()
    with ThreadPoolExecutor(workers) as pool:
        for size in chain(repeat(1, 4 * workers), repeat(TOGETHER)):  # few items may be large ones: one per task
            if not (some := list(islice(rest, size))):
                break
            pending.append(pool.submit(several, some))
            if len(pending) > 4 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
