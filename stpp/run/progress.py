"""Progress that says what, how far and how long: a bar on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from stpp.run.distributed import is_main

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int | None, start: int = 0) -> Iterable[T]:
    """`items`, with a bar of `total` steps on standard error, `start` of which an earlier attempt did.

    total: None where it is not known; then they are counted. Of several processes the first shows it.
    """
    from tqdm import tqdm

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
