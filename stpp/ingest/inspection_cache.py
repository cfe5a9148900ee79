"""A cache of inspection results, so that `prepare` does not read unchanged files again.

The cache is one CSV table for each data set, in the project's folder `.stpp/` and outside all DVC outs. Deleting it
costs only time.

A file counts as unchanged if its size, mtime, ctime and inode are the same; no program can set ctime back. A file that
changed just before it was read is not cached, because a later change could get the same timestamp. A table is ignored
if it is damaged, or if it was written with other parameters, other code or other versions of the decoders. Concurrent
runs each write a complete table, and the last one stays.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from stpp.run.code import import_closure, source_path
from stpp.store import decoding
from stpp.store.files import atomic_write, sha256
from stpp.store.manifest import RECORD, Record, as_row, record_of

MIN_AGE_NS = 2_000_000_000
"""The age in ns that a file must have when it is read; no file system in use has coarser timestamps."""
MAX_TABLES = 4
"""The number of tables kept in the folder, for this and other data sets; older ones are deleted."""
States = tuple[str, str]
"""The file states (see `state_of`) of an image and of its mask."""
MaskColours = dict[int, str]
"""Mask value -> its palette colour as "#rrggbb"; empty if it has none or one without meaning (see `shown_in`)."""
Inspected = tuple[Record, list[str], MaskColours, Mapping[str, int]]
"""A record, notes on how its image was converted, the values and palette colours of its mask, and what was changed."""


def state_of(path: Path) -> str:
    """Return a text that changes when the file is written or replaced; empty if the file cannot be found."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def old_enough(states: States, now: int) -> bool:
    """Return whether any change after `now` (ns) is sure to change the states, because the files are old enough."""
    times = [int(word) for state in states if state for word in state.split()[1:3]]
    return max(times, default=now) < now - MIN_AGE_NS


class InspectionCache:
    """The cache of one data set: the old table is read and a new one written at once, both in ascending order of ids.

    Use it in a `with` block. At its end the new table replaces the old one; after an error the old one stays. An error
    in writing the table never fails the run.
    """

    def __init__(self, folder: Path | None, root: Path, about: Any) -> None:
        """folder: where the table lies; None switches the cache off. root: the data set's folder.

        about: JSON data; everything beside the file's content that decides the result. It is hashed into the key.
        """
        code = [(name, sha256(source_path(name))) for name in sorted(import_closure("stpp.ingest.inspection"))]
        key = hashlib.sha256(json.dumps([about, code, decoding.versions()], sort_keys=True).encode()).hexdigest()
        self._first = ["stpp inspected", "4", key]
        place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
        self._path = folder / f"inspected-{place}.csv" if folder else None
        self._writer: Any = None

    def __enter__(self) -> "InspectionCache":
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
            error = OSError()  # the new table is incomplete: discard it and keep the old one
        with suppress(OSError):
            self._stack.__exit__(type(error) if error else None, error, trace)
            if self._path:
                others = sorted(self._path.parent.glob("inspected-*.csv"), key=lambda path: path.stat().st_mtime)
                for old in others[:-MAX_TABLES]:
                    old.unlink(missing_ok=True)

    def _write(self, row: list[Any]) -> None:
        """Write one row; on an error, such as a full disk, give up the new table and let the run go on."""
        try:
            if self._writer:
                self._writer.writerow(row)
        except OSError:
            self._writer = None

    def write(self, line: str) -> None:
        """Write one line to the file and add it to the checksum; the CSV writer calls this."""
        self._sum.update(line.encode())
        self._file.write(line)

    def _rows(self) -> Iterator[list[str]]:
        """Yield the rows of the old table in order of ids, if the table is complete and has this key."""
        if self._path is None or not _whole(self._path):
            return
        with suppress(OSError, UnicodeDecodeError, csv.Error), self._path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if next(rows) == self._first:
                yield from (row for row in rows if row[0] != "end" or len(row) > 2)

    def get(self, name: str, image: str, mask: str, states: States) -> Inspected | None:
        """Return the cached result of an id; None if there is none or its files changed. Call with ascending ids."""
        while self._next is not None and self._next[0] < name:
            self._next = next(self._old, None)
        row = self._next
        if row is None or (*row[:3], *row[-2:]) != (name, image, mask, *states) or not states[0]:
            return None
        notes, shown, changed = json.loads(row[len(RECORD)])
        return record_of(row), notes, {int(value): colour for value, colour in shown.items()}, changed

    def put(self, result: Inspected, states: States) -> None:
        """Store the result for files in these states. Call it with ascending ids."""
        self._write([*as_row(result[0]), json.dumps(result[1:]), *states])


def _whole(path: Path) -> bool:
    """Return whether a table ends with the hash of all lines before its last one."""
    total, before = hashlib.sha256(), b""
    try:
        with path.open("rb") as file:
            for line in file:
                total.update(before)
                before = line
    except OSError:
        return False
    return before == f"end,{total.hexdigest()}\n".encode()
