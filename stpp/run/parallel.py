"""Many items in few threads: a function of each, in their order, of which only some are in work at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, repeat
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
THREADS = 2 * (os.cpu_count() or 1)
"""For reading and hashing files, where nobody says otherwise: some wait for the disk while others compute."""
TOGETHER = 16
"""Items that a thread takes at once where there are many: handing over costs more than a small file."""


def in_order(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """`map` by `workers` threads, for functions that wait or compute outside Python (reading, hashing, decoding).

    Unlike an executor's own, it holds a bounded number of items, however many there are.
    """
    if workers < 2:
        yield from map(function, items)
        return

    def several(some: list[A]) -> list[B]:
        return [function(item) for item in some]

    rest, pending = iter(items), deque[Future[list[B]]]()
    with ThreadPoolExecutor(workers) as pool:
        for size in chain(repeat(1, 4 * workers), repeat(TOGETHER)):  # a few items may be large ones
            if not (some := list(islice(rest, size))):
                break
            pending.append(pool.submit(several, some))
            if len(pending) > 4 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
