"""Many rows in few objects, so that 10^6 images cost no Python objects of their own.

What a process holds it shares with those it forks until somebody writes there, and Python writes into an object
whenever it looks at it: a list of str is copied, page by page, into every worker of a loader. Here the text of all rows
lies in one block, or in a file of which the system keeps in memory what is in use, and where each row starts in one
array.
"""

import csv
import mmap
import os
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from itertools import islice, pairwise
from operator import itemgetter, le
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

from stpp.store.files import lines_of, open_regular

T = TypeVar("T")
FEW = 1 << 16
"""Rows that are walked through before their pages are given back."""


class Strings(Sequence[str]):
    """A list of str that does not change. 8 bytes each beside the text."""

    def __init__(self, items: Iterable[str]) -> None:
        self._text: bytearray = items._text if isinstance(items, Strings) else bytearray()
        self._ends: array[int] = items._ends if isinstance(items, Strings) else array("Q", [0])
        for item in () if isinstance(items, Strings) else items:
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
        """Positions by text; equal ones stay in their order."""
        if all(map(le, self, islice(self, 1, None))):
            return array("Q", range(len(self)))
        return array("Q", sorted(range(len(self)), key=self.__getitem__))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return self._text == other._text and self._ends == other._ends
        return isinstance(other, list | tuple) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Strings({list(self)!r})"


class Rows(Sequence[list[str]]):
    """Lines of CSV in a file that is mapped into memory, each a list of text; the first column is the key."""

    def __init__(self, file: IO[bytes], starts: "array[int]") -> None:
        """starts: where each row starts, and where the last one ends."""
        self._starts = starts
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""

    @classmethod
    def spooled(cls, rows: Iterable[Sequence[Any]]) -> "Rows":
        """`rows` in a temporary file that has no name and so ends with the process."""
        spool = Spool()
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
        """Let the system take what was read out of this process: it is in the file."""
        if isinstance(self._map, mmap.mmap):
            self._map.madvise(mmap.MADV_DONTNEED)

    def key(self, at: int) -> bytes:
        """The first column as it stands in the file. Bytes of UTF-8 sort as the text does."""
        start = self._starts[at]
        return self._map[start : self._map.find(b",", start, self._starts[at + 1])]

    def keys(self) -> Iterator[bytes]:
        for at in range(len(self)):
            if at % FEW == 0:
                self._give_back()
            yield self.key(at)

    def ordered(self) -> "Rows":
        """The same by key; rows of one key stay in their order."""
        if all(one <= other for one, other in pairwise(self.keys())):
            return self
        return Rows.spooled(self[at] for at in sorted(range(len(self)), key=self.key))


class Spool:
    """Rows that come one by one, written into a temporary file that has no name."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with this object
        self._starts = array("Q", [0])
        self._writer = csv.writer(self, lineterminator="\r\n")  # so that it quotes both
        self.add, self.extend = self._writer.writerow, self._writer.writerows

    def write(self, line: str) -> None:
        """For csv, which writes a line at a time."""
        data = line.encode(errors="surrogateescape")
        self._file.write(data)
        self._starts.append(self._starts[-1] + len(data))

    def rows(self) -> Rows:
        """What has come; no more may."""
        with self._file as file:
            file.flush()
            return Rows(file, self._starts)

    def __del__(self) -> None:
        self._file.close()


class Table(Mapping[str, T], Generic[T]):
    """Rows by key, read from their file whenever they are asked for; a row is found by halving.

    Iterated in the order of the file. Pickled, it is opened again by the file's name.
    """

    def __init__(self, rows: Rows, row_of: Callable[[list[str]], T], path: Path | None = None) -> None:
        """row_of: what becomes of a row's columns. path: where the rows lie, empty if they have no name."""
        self._rows, self._row_of, self._path = rows, row_of, path
        self._state = _state(path) if path else None
        self._order: array[int] | None = None
        if any(one >= other for one, other in pairwise(rows.keys())):
            self._order = array("Q", sorted(range(len(rows)), key=rows.key))
            for one, other in pairwise(self._order):
                if rows.key(one) == rows.key(other):
                    raise ValueError(f"{rows[one][0]} stands there twice")

    @classmethod
    def read(cls, path: Path, columns: Sequence[str], row_of: Callable[[list[str]], T]) -> "Table[T]":
        """The table of a CSV file that has `columns`, the key first, and perhaps more after them.

        Every row is checked by `row_of`, now. Raises ValueError if the file is none such, OSError if it is not there.
        """
        with open_regular(path) as file:
            starts, end, line = array("Q"), 0, b""

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
                        raise ValueError(f"line {number}: not {len(header)} values; is it whole?")
                    if not line.startswith(f"{row[0]},".encode()):  # it is looked for as it stands there
                        raise ValueError(f"line {number}: {row[0]!r} is no id")
                    row_of(row)
            except csv.Error as error:
                raise ValueError(str(error)) from None
            starts.append(end)
            return cls(Rows(file, starts[1:]), row_of, path)

    def find(self, key: object) -> int | None:
        """The number of a row, None if there is none of that key."""
        if not isinstance(key, str):
            return None
        sought, rows, order = key.encode(errors="surrogatepass"), self._rows, self._order
        at = bisect_left(order or range(len(rows)), sought, key=rows.key)
        if at == len(rows):
            return None
        at = order[at] if order else at
        return at if rows.key(at) == sought else None

    def position(self, key: str) -> int:
        """The number of a row. Raises KeyError."""
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
        """Keys and rows, in the order of the file."""
        return ((row[0], self._row_of(row)) for row in self._rows)

    def __getstate__(self) -> dict[str, Any]:
        if self._path is None:
            raise TypeError("rows in a file without a name cannot be given to another process")
        return self.__dict__ | {"_rows": self._rows._starts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        assert self._path
        with open_regular(self._path) as file:
            if _state(self._path) != self._state:
                raise ValueError(f"{self._path}: was changed while it was in use")
            self._rows = Rows(file, state["_rows"])


class _Items(ItemsView[str, T]):
    _mapping: Table[T]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return self._mapping.walk()


class _Values(ValuesView[T]):
    _mapping: Table[T]

    def __iter__(self) -> Iterator[T]:
        return (row for _, row in self._mapping.walk())


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is another one."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
