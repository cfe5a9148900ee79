"""Compact sequences of strings and CSV rows, so that 10^6 images need no Python object each.

Forked processes share a memory page until one of them writes to it. Python writes to an object whenever it uses it (the
reference count), so the pages of a list of str are copied one by one into every worker of a data loader. Here the text
of all rows lies in one block of memory, or in a mapped file that the system keeps in memory only where it is in use.
One array holds where each row starts.
"""

import csv
import heapq
import mmap
import os
import re
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from itertools import islice, pairwise
from operator import itemgetter, le
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

from stpp.store.files import StppError, lines_of, open_regular

T = TypeVar("T")
FEW = 1 << 16
"""The number of rows that are iterated before their memory pages are released."""
QUOTED = re.compile(rb'"([^"]*(?:""[^"]*)*)",')
"""The first column of a CSV row if it is quoted, as one that holds a comma or a quote is; a quote is doubled."""


class PackedStrings(Sequence[str]):
    """An immutable list of str in one block of memory; each takes 8 bytes and its UTF-8 text."""

    def __init__(self, items: Iterable[str]) -> None:
        self._text: bytearray = items._text if isinstance(items, PackedStrings) else bytearray()
        self._ends: array[int] = items._ends if isinstance(items, PackedStrings) else array("Q", [0])
        for item in () if isinstance(items, PackedStrings) else items:
            self._text += item.encode()
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        return str(self._text[self._ends[at] : self._ends[at + 1]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def order(self) -> "array[int]":
        """Return the positions sorted by text; equal strings keep their order."""
        if all(map(le, self, islice(self, 1, None))):
            return array("Q", range(len(self)))
        return array("Q", sorted(range(len(self)), key=self.__getitem__))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedStrings):
            return self._text == other._text and self._ends == other._ends
        return isinstance(other, list | tuple) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Strings({list(self)!r})"


class MappedRows(Sequence[list[str]]):
    """The rows of a memory-mapped CSV file, each a list of str; the first column is the key."""

    def __init__(self, file: IO[bytes], starts: "array[int]", quoted: bool) -> None:
        """starts: the byte offset of each row, and the offset where the last row ends. quoted: whether any key is."""
        self._starts, self._quoted = starts, quoted
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""

    @classmethod
    def spooled(cls, rows: Iterable[Sequence[Any]]) -> "MappedRows":
        """Write `rows` into a nameless temporary file, which the system removes when the process ends."""
        spool = RowWriter()
        spool.extend(rows)
        return spool.rows()

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, at: int) -> list[str]: ...
    @overload
    def __getitem__(self, at: slice) -> list[list[str]]: ...
    def __getitem__(self, at: int | slice) -> list[str] | list[list[str]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        line = self._map[self._starts[at] : self._starts[at + 1]].decode(errors="surrogateescape")
        return next(csv.reader([line])) if '"' in line else line.removesuffix("\n").removesuffix("\r").split(",")

    def __iter__(self) -> Iterator[list[str]]:
        for at in range(len(self)):
            if at % FEW == 0:
                self._give_back()
            yield self[at]
        self._give_back()

    def _give_back(self) -> None:
        """Release the memory pages read so far; the system reads them from the file again when they are needed."""
        if isinstance(self._map, mmap.mmap):
            self._map.madvise(mmap.MADV_DONTNEED)

    def key(self, at: int) -> bytes:
        """Return the bytes of a row's first column. Bytes of UTF-8 sort as the text does."""
        start = self._starts[at]
        key = self._map[start : self._map.find(b",", start, self._starts[at + 1])]
        whole = QUOTED.match(self._map, start, self._starts[at + 1]) if self._quoted else None
        return whole[1].replace(b'""', b'"') if whole else key

    def keys(self) -> Iterator[bytes]:
        for at in range(len(self)):
            if at % FEW == 0:
                self._give_back()
            yield self.key(at)

    def ordered(self) -> "MappedRows":
        """Return the rows sorted by key; rows with equal keys keep their order."""
        if all(one <= other for one, other in pairwise(self.keys())):
            return self
        spool = RowWriter()
        for number, at in enumerate(self.order()):
            if number % FEW == 0:
                self._give_back()
            spool.copy(self._map[self._starts[at] : self._starts[at + 1]])
        return spool.rows()

    def order(self) -> "array[int]":
        """Return the positions of the rows sorted by key; rows with equal keys keep their order.

        Parts are sorted, then merged, so that the keys of one part alone are in memory.
        """
        starts = range(0, len(self), FEW)
        parts = (array("Q", sorted(range(at, min(at + FEW, len(self))), key=self.key)) for at in starts)
        return array("Q", heapq.merge(*parts, key=self.key))


class RowWriter:
    """A writer of CSV rows, one by one, into a nameless temporary file; `rows` then reads them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with this object
        self._starts, self._quoted = array("Q", [0]), False
        self._writer = csv.writer(self, lineterminator="\r\n")  # so that csv quotes values with \r as well as \n
        self.add, self.extend = self._writer.writerow, self._writer.writerows

    def write(self, line: str) -> None:
        """Append one line; `csv.writer` calls this once per row."""
        self.copy(line.encode(errors="surrogateescape"))

    def copy(self, line: bytes) -> None:
        """Append a row as it is written in a file."""
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))
        self._quoted = self._quoted or line.startswith(b'"')

    def rows(self) -> MappedRows:
        """Return the rows written so far and close the file; no row can be added after that."""
        with self._file as file:
            file.flush()
            return MappedRows(file, self._starts, self._quoted)

    def __del__(self) -> None:
        self._file.close()


class MappedTable(Mapping[str, T], Generic[T]):
    """A read-only mapping from key to row that leaves the rows in their file and finds one by binary search.

    It is iterated in the order of the file. Unpickling opens the file again by its name, and raises ValueError if the
    file has changed. A table without a file name cannot be pickled: TypeError.
    """

    def __init__(self, rows: MappedRows, row_of: Callable[[list[str]], T], path: Path | None = None) -> None:
        """row_of: turns a row's columns into a value. path: the file of the rows; None if it has no name.

        Raises ValueError if a key occurs twice.
        """
        self._rows, self._row_of, self._path = rows, row_of, path
        self._state = _state(path) if path else None
        self._order: array[int] | None = None
        if any(one >= other for one, other in pairwise(rows.keys())):
            self._order = rows.order()
            for one, other in pairwise(self._order):
                if rows.key(one) == rows.key(other):
                    raise ValueError(f"{rows[one][0]} is listed twice")

    @classmethod
    def read(cls, path: Path, columns: Sequence[str], row_of: Callable[[list[str]], T]) -> "MappedTable[T]":
        """Open a CSV file as a table: its first columns must be `columns`, the first of them is the key.

        Every row is passed to `row_of` once now, as a check. Raises ValueError if the file is malformed, OSError if it
        does not exist, and StppError if it is not a regular file.
        """
        with open_regular(path) as file:
            starts, end, line, quoted = array("Q"), 0, b"", False

            def text() -> Iterator[str]:
                nonlocal end, line
                for line in lines_of(file):
                    starts.append(end)
                    end += len(line)
                    yield line.decode("utf-8" if starts[-1] else "utf-8-sig")

            reader = csv.reader(text())
            try:
                header = next(reader, [])
                if header[: len(columns)] != list(columns):
                    raise ValueError(f"not a table of {', '.join(columns)}; is it the right file?")
                for number, row in enumerate(reader, 2):
                    if len(starts) != number or len(row) != len(header):
                        raise ValueError(f"line {number}: expected {len(header)} values; is the file complete?")
                    # `find` compares bytes, so a key must be written as `csv.writer` writes it.
                    if not line.startswith(f"{row[0]},".encode()):
                        if not line.startswith(_quoted(row[0])):
                            raise ValueError(f"line {number}: {row[0]!r} is not a valid id")
                        quoted = True
                    row_of(row)
            except csv.Error as error:
                raise ValueError(str(error)) from None
            starts.append(end)
            return cls(MappedRows(file, starts[1:], quoted), row_of, path)

    def find(self, key: object) -> int | None:
        """Return the index of the row with a key, or None if there is no such row."""
        if not isinstance(key, str):
            return None
        sought, rows, order = key.encode(errors="surrogatepass"), self._rows, self._order
        at = bisect_left(order or range(len(rows)), sought, key=rows.key)
        if at == len(rows):
            return None
        at = order[at] if order else at
        return at if rows.key(at) == sought else None

    def position(self, key: str) -> int:
        """Return the index of the row with a key. Raises KeyError if there is no such row."""
        if (at := self.find(key)) is None:
            raise KeyError(key)
        return at

    def __getitem__(self, key: str) -> T:
        return self._row_of(self._rows[self.position(key)])

    def __contains__(self, key: object) -> bool:
        return self.find(key) is not None

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return map(itemgetter(0), iter(self._rows))

    def items(self) -> ItemsView[str, T]:
        return _Items(self)

    def values(self) -> ValuesView[T]:
        return _Values(self)

    def walk(self) -> Iterator[tuple[str, T]]:
        """Yield keys and values in the order of the file."""
        return ((row[0], self._row_of(row)) for row in self._rows)

    def __getstate__(self) -> dict[str, Any]:
        if self._path is None:
            raise TypeError("rows in a file without a name cannot be given to another process")
        return self.__dict__ | {"_rows": (self._rows._starts, self._rows._quoted)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        assert self._path
        with open_regular(self._path) as file:
            if _state(self._path) != self._state:
                raise StppError(f"{self._path}: was changed while it was in use; run the command again")
            self._rows = MappedRows(file, *state["_rows"])


class _Items(ItemsView[str, T]):
    _mapping: MappedTable[T]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return self._mapping.walk()


class _Values(ValuesView[T]):
    _mapping: MappedTable[T]

    def __iter__(self) -> Iterator[T]:
        return (row for _, row in self._mapping.walk())


def _quoted(key: str) -> bytes:
    """Return the first column as it is written for a key with a comma or a quote; no line begins with it for others."""
    written = key.replace('"', '""')
    return f'"{written}",'.encode() if "," in written or '"' in written else b"\n"


def _state(path: Path) -> tuple[int, int, int]:
    """Return the size, modification time and inode of a file: they differ once the file is changed or replaced."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
