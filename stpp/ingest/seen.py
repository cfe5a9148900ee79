"""What earlier runs of `prepare` saw in files that have not changed since: they need not be read again.

A table in `.stpp/` beside the project, outside all outs: whoever deletes it loses time. A file is taken for unchanged
if its size, its two times and its inode are; the time of its last change (ctime) nobody can set back. What was changed
so shortly before it was read that a later change could bear the same time is not kept. A table that is damaged, or of
other parameters, code or decoders, is not used; runs at one time each write a whole one, and the last stays.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import PIL

from stpp.run.code import closure, source
from stpp.store.files import atomic_write, sha256
from stpp.store.manifest import RECORD, Record, as_row, record_of

RACY = 2_000_000_000
"""Nanoseconds: no file system in use counts time in longer steps."""
KEPT = 4
"""Tables of other data sets that are kept beside."""
States = tuple[str, str]
"""Of an image and of its mask."""
Shown = dict[int, str]
"""Values in a mask, and the colours that its palette gives them; empty where it gives none that says anything."""
Seen = tuple[Record, list[str], Shown]
"""A record, notes on what had to be done to read its image, and what its mask shows."""


def state_of(path: Path) -> str:
    """What changes whenever a file is written or exchanged; empty if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def settled(states: States, now: int) -> bool:
    """Whether a change from now on, in ns, would show in the states of files."""
    times = [int(word) for state in states if state for word in state.split()[1:3]]
    return max(times, default=now) < now - RACY


class Memory:
    """The table of one data set: asked in the order of ids, and written anew on the way.

    Used in a `with` block, at whose end the new table takes the old one's place; `folder` None remembers nothing.
    """

    def __init__(self, folder: Path | None, root: Path, about: Any) -> None:
        """about: all that decides what is seen in a file, beside its content."""
        code = [(name, sha256(source(name))) for name in sorted(closure("stpp.ingest.inspection"))]
        key = hashlib.sha256(json.dumps([about, code, PIL.__version__], sort_keys=True).encode()).hexdigest()
        self._first = ["stpp seen", "2", key]
        place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
        self._path = folder / f"seen-{place}.csv" if folder else None
        self._writer: Any = None

    def __enter__(self) -> "Memory":
        self._stack, self._sum = ExitStack(), hashlib.sha256()
        self._old = self._rows()
        self._next = next(self._old, None)
        if self._path:
            with suppress(OSError), ExitStack() as stack:
                partial = stack.enter_context(atomic_write(self._path))
                self._file = stack.enter_context(partial.open("w", newline="", encoding="utf-8"))
                self._writer = csv.writer(self, lineterminator="\n")
                self._write(self._first)
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer and error is None:
            self._write(["end", self._sum.hexdigest()])
        if self._writer is None and error is None:
            error = OSError()  # the new table is not whole, and the old one stays
        with suppress(OSError):
            self._stack.__exit__(type(error) if error else None, error, trace)
            if self._path:
                others = sorted(self._path.parent.glob("seen-*.csv"), key=lambda path: path.stat().st_mtime)
                for old in others[:-KEPT]:
                    old.unlink(missing_ok=True)

    def _write(self, row: list[Any]) -> None:
        """A full disk, say, costs the memory and not the run."""
        try:
            if self._writer:
                self._writer.writerow(row)
        except OSError:
            self._writer = None

    def write(self, line: str) -> None:
        """For csv: a line, summed up on its way."""
        self._sum.update(line.encode())
        self._file.write(line)

    def _rows(self) -> Iterator[list[str]]:
        """The rows of the old table, by id, if it is whole and of this key."""
        if self._path is None or not _whole(self._path):
            return
        with suppress(OSError, UnicodeDecodeError, csv.Error), self._path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if next(rows) == self._first:
                yield from (row for row in rows if row[0] != "end" or len(row) > 2)

    def find(self, name: str, image: str, mask: str, states: States) -> Seen | None:
        """What was seen in the files of an id, if these are as they were. Ids come in ascending order."""
        while self._next is not None and self._next[0] < name:
            self._next = next(self._old, None)
        row = self._next
        if row is None or (*row[:3], *row[-2:]) != (name, image, mask, *states) or not states[0]:
            return None
        notes, shown = json.loads(row[len(RECORD)])
        return record_of(row), notes, {int(value): colour for value, colour in shown.items()}

    def keep(self, seen: Seen, states: States) -> None:
        """Remember what was seen in files of these states. Ids come in ascending order."""
        self._write([*as_row(seen[0]), json.dumps(seen[1:]), *states])


def _whole(path: Path) -> bool:
    """Whether a table ends with the hash of what comes before."""
    total, before = hashlib.sha256(), b""
    try:
        with path.open("rb") as file:
            for line in file:
                total.update(before)
                before = line
    except OSError:
        return False
    return before == f"end,{total.hexdigest()}\n".encode()
