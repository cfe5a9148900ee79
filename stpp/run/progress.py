"""Progress of long loops: a bar on a terminal, and lines that stay."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from stpp.run.distributed import is_main

T = TypeVar("T")

EVERY = 30.0
"""In a log, a loop prints a line about once in this many seconds."""
SHORT = 15.0
"""In a log, a loop that ends within this many seconds prints nothing; its stage prints what it did."""


def progress(items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
    """Return `items` wrapped in a progress bar on a terminal, or in lines in a log, both on standard error.

    what: the label. total: the number of steps, or None if unknown; then steps are only counted. Only the main process
    (rank 0) shows progress.
    """
    return bar(items, what, total) if sys.stderr.isatty() or not is_main() else _lines(items, what, total)


def bar(items: Iterable[T], what: str, total: int | None, start: int = 0) -> Iterable[T]:
    """Return `items` wrapped in a progress bar, which vanishes at the end; without a terminal, return `items`.

    start: the steps that an earlier attempt did. For the rest, see `progress`.
    """
    if not is_main() or not sys.stderr.isatty():
        return items
    shown: Iterable[T] = tqdm(
        items, desc=what, total=total, initial=start, dynamic_ncols=True, mininterval=0.2, leave=False
    )
    return shown


def say(line: str) -> None:
    """Print a line at once, above a bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Return a duration as text: `41 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _lines(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    """Yield `items`, and print a line now and then (EVERY), and at the end unless the loop was short (SHORT)."""
    begun = said = time.monotonic()
    done, of = 0, "" if total is None else f"/{total}"
    for done, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - said >= EVERY and done != total:
            left = "" if total is None else f", {duration((now - begun) / done * (total - done))} left"
            print(f"{what}: {done}{of}{left}", file=sys.stderr, flush=True)
            said = now
    if (took := time.monotonic() - begun) >= SHORT:
        print(f"{what}: {done}{of} in {duration(took)}", file=sys.stderr, flush=True)
