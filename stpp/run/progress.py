"""Progress of long loops: a bar on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from stpp.run.distributed import is_main

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int | None, start: int = 0) -> Iterable[T]:
    """Return `items` wrapped in a progress bar on standard error.

    what: the label. total: the number of steps, or None if unknown; then steps are only counted. start: the steps that
    an earlier attempt did. Only the main process (rank 0) shows the bar.
    """
    if not is_main():
        return items
    terminal = sys.stderr.isatty()
    bar: Iterable[T] = tqdm(
        items,
        desc=what,
        total=total,
        initial=start,
        dynamic_ncols=True,
        mininterval=0.2 if terminal else 15,
        maxinterval=10 if terminal else 30,
        leave=not terminal,
    )
    return bar
