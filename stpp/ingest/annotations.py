"""Which objects of which annotation file belong to an image.

Files of one image are read when the image is drawn. Larger files are read once, and their objects are kept on disk,
sorted by image, so that 10^6 objects take little memory.
"""

import hashlib
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, islice, takewhile
from operator import itemgetter
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import quote, unquote

from stpp.ingest.formats import FORMATS
from stpp.ingest.patterns import check_inside, compile_pattern
from stpp.ingest.shapes import Found, LabelName, Picture, Shape, Unread, as_row, of_row
from stpp.params.data import Data
from stpp.store.files import StppError, printable
from stpp.store.manifest import Dataset, Record
from stpp.store.packed import MappedRows, MappedTable, RowWriter

MAX_LABELS, MAX_OBJECTS = 10_000, 100_000
"""The most labels with a number in a file, and objects of an image: these are kept in memory."""


class Counts:
    """Counts of what is passed over, by kind, each with its first examples. Threads may share it.

    The memory it takes is bounded: further kinds than KINDS are counted together.
    """

    EXAMPLES, KINDS = 3, 50

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter()
        self._pixels: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, what: str, example: str, pixels: int = 0) -> None:
        with self._lock:
            if what not in self._count and len(self._count) >= self.KINDS:
                what = "more, of other kinds"
            self._count[what] += 1
            self._pixels[what] += pixels
            examples = self._examples.setdefault(what, [])
            examples.append(example)
            if len(examples) > 2 * self.EXAMPLES:
                examples[:] = sorted(examples)[: self.EXAMPLES]

    def said(self) -> list[str]:
        """Return one line for each kind. The examples are the first ones by name, whatever the order of threads."""
        said = []
        for what, count in sorted(self._count.items()):
            pixels = f" ({self._pixels[what]} pixels)" if self._pixels[what] else ""
            examples = ", ".join(sorted(self._examples[what])[: self.EXAMPLES])
            said.append(printable(f"{count} {what}{pixels}, such as {examples}"))
        return said


@dataclass(frozen=True)
class Annotated:
    """What an annotation file says of an image: its size there (None if not given), and its objects in their order."""

    file: str
    """Path below the data set's root."""
    width: int | None
    height: int | None
    annotated: bool
    """Whether a person has annotated the image, also if it has no object."""
    author: str
    """Who annotated it; empty if not given."""
    objects: list[Shape | Unread]


def open_annotations(data: Data, dataset: Dataset, counts: Counts) -> "OfImages | OfFolders":
    """Return the annotations of a data set. Files of more than one image are read now.

    counts: gets what of them belongs to no image of the data set. Raises StppError naming a file that is missing or
    malformed.
    """
    assert data.annotations and data.images
    pattern = data.annotations.file
    check_inside(pattern, "data.annotations.file")
    names = compile_pattern(pattern, "data.annotations.file")[1] if "{" in pattern else []
    if {*compile_pattern(data.images, "data.images")[1]} - {"ext"} <= {*names}:
        return OfImages(data)
    return OfFolders(data, dataset, counts)


class OfImages:
    """Annotations in one file for each image, which the image's record names."""

    def __init__(self, data: Data) -> None:
        self._root, self._read = Path(data.root), _reader(data)

    def get(self, record: Record) -> Annotated | None:
        """Return the annotations of an image, or None. Raises StppError naming a malformed file."""
        if not record.mask:
            return None
        found = [*islice(self._read(self._root / record.mask), MAX_OBJECTS + 2)]
        _few(len(found) - 1, self._root / record.mask, record)
        pictures = [one for one in found if isinstance(one, Picture)]
        if len(pictures) != 1:
            what = f"is of {len(pictures)} images, but data.annotations.file names a file for each image"
            raise StppError(f"{self._root / record.mask}: {what}; correct the pattern, or the file")
        names = {one.label: one.name for one in found if isinstance(one, LabelName)}
        objects = [_named(one, names) for one in found if isinstance(one, Shape | Unread)]
        one = pictures[0]
        return Annotated(record.mask, one.width, one.height, one.annotated, one.author, objects)


class OfFolders:
    """Annotations in one file for the whole data set, or in one for each of its folders."""

    def __init__(self, data: Data, dataset: Dataset, counts: Counts) -> None:
        assert data.annotations
        self._data, self._counts, self._records = data, counts, dataset.records
        self._one = data.annotations.file if "{" not in data.annotations.file else ""
        files = [self._one] if self._one else sorted({record.mask for record in dataset.records.values()} - {""})
        self._names: dict[str, dict[str, str]] = {file: {} for file in files}
        objects, pictures = RowWriter(), RowWriter()
        for file in files:
            for found in _reader(data)(Path(data.root) / file):
                if isinstance(found, Picture):
                    if not found.paths:
                        what = "is of one image; give data.annotations.file the placeholders of data.images"
                        raise StppError(f"{Path(data.root) / file}: {what}")
                    about = found.width or "", found.height or "", int(found.annotated), quote(found.author)
                    pictures.add([_hash(file, found.image), file, *about, *found.paths])
                elif isinstance(found, LabelName):
                    self._names[file][found.label] = found.name
                    if len(self._names[file]) > MAX_LABELS:
                        raise StppError(
                            f"{Path(data.root) / file}: more than {MAX_LABELS} labels; is it the right file?"
                        )
                else:
                    objects.add([_hash(file, found.image), *as_row(found)])
        self._objects = objects.rows().ordered()
        self._of = MappedTable(MappedRows.spooled(self._best(self._matched(pictures.rows().ordered()))), tuple)

    def get(self, record: Record) -> Annotated | None:
        """Return the annotations of an image, or None."""
        place = self._of.get(_hash(record.id))
        if place is None:
            return None
        _, file, width, height, annotated, author, at, count = place
        _few(int(count), Path(self._data.root) / file, record)
        rows = self._objects[int(at) : int(at) + int(count)]
        objects = [_named(of_row(row[1:]), self._names[file]) for row in rows]
        size = int(width or 0) or None, int(height or 0) or None
        return Annotated(file, *size, annotated == "1", unquote(author), objects)

    def _matched(self, pictures: MappedRows) -> Iterator[list[Any]]:
        """Yield for each image of the files that is in the data set: its hash with the rank of the match, and more."""
        by_path, by_name = self._table(lambda image: image), self._table(lambda image: image.rpartition("/")[2])
        for (_, file, *about), at, count in self._joined(pictures):
            for path in about[4:]:
                parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
                exact = _under(by_path, _hash(self._one or file, "/".join(parts)))
                ids = exact or _under(by_name, _hash(self._one or file, parts[-1] if parts else ""))
                ranks = [len(parts) + 1 if exact else self._common(i, parts) for i in ids]
                if ranks and ranks.count(max(ranks)) == 1:
                    name = ids[ranks.index(max(ranks))]
                    yield [f"{_hash(name)}{9999 - max(ranks):04d}", file, *about[:4], at, count, name]
                    break
            else:
                ambiguous = "several images of the data set may be" if ranks else "are not in the data set"
                self._counts.add(f"image(s) of {file} {ambiguous}", about[4])

    def _best(self, matched: Iterator[list[Any]]) -> Iterator[list[Any]]:
        """Yield the best match of each image. Raises StppError for an image that a file lists twice."""
        last = ""
        for key, file, *about, name in MappedRows.spooled(matched).ordered():
            if key == last:
                raise StppError(f"{Path(self._data.root) / file}: lists the image {name} twice; remove one entry")
            if key[:-4] == last[:-4]:
                self._counts.add(f"image(s) of {file} are not in the data set", f"a second {name}")
            else:
                yield [key[:-4], file, *about]
            last = key

    def _joined(self, pictures: MappedRows) -> Iterator[tuple[list[str], int, int]]:
        """Yield each image of the files with the position of its first object and the number of its objects."""
        of_key = groupby(enumerate(self._objects.keys()), key=itemgetter(1))
        spans = ((key, [at for at, _ in group]) for key, group in of_key)
        key, places = next(spans, (b"~", []))
        last = b""
        for row, own in zip(pictures, pictures.keys(), strict=True):
            if own == last:
                raise StppError(f"{Path(self._data.root) / row[1]}: two images have the id of {row[6]}; correct one")
            last = own
            while key < own:
                self._without_image(places)
                key, places = next(spans, (b"~", []))
            yield (row, places[0], len(places)) if key == own else (row, 0, 0)
            if key == own:
                key, places = next(spans, (b"~", []))
        while places:
            self._without_image(places)
            key, places = next(spans, (b"~", []))

    def _without_image(self, places: list[int]) -> None:
        for at in places:
            self._counts.add("object(s) belong to an image that their file does not list", self._objects[at][2])

    def _table(self, name_of: Callable[[str], str]) -> MappedRows:
        """Return the ids of the images by a hash of their file and of a name, sorted by the hash."""
        rows = ([_hash(self._one or r.mask, name_of(r.image)), r.id] for r in self._records.values())
        return MappedRows.spooled(rows).ordered()

    def _common(self, name: str, parts: list[str]) -> int:
        """Return how many of the last parts of an image's path equal those of `parts`."""
        own = self._records[name].image.split("/")
        equal = (one == other for one, other in zip(reversed(own), reversed(parts), strict=False))
        return sum(takewhile(bool, equal))


def _few(objects: int, path: Path, record: Record) -> None:
    """Raise StppError if an image has too many objects to be kept in memory."""
    if objects > MAX_OBJECTS:
        raise StppError(f"{path}: more than {MAX_OBJECTS} objects on {record.image}; is it the right file?")


def _reader(data: Data) -> Callable[[Path], Iterable[Found]]:
    assert data.annotations
    found: Callable[[Path], Iterable[Found]] = resolve_name(FORMATS[data.annotations.format])
    return found


def _named(found: Shape | Unread, names: Mapping[str, str]) -> Shape | Unread:
    """Return an object with the name of its label in place of the label's number."""
    return replace(found, label=names.get(found.label, found.label)) if isinstance(found, Shape) and names else found


def _hash(*words: str) -> str:
    """Return a short key for words that may hold any characters."""
    return hashlib.blake2b("\0".join(words).encode(errors="surrogatepass"), digest_size=10).hexdigest()


MOST = 100
"""The most images of one file name that are compared with an annotated image."""


def _under(table: MappedRows, key: str) -> list[str]:
    """Return the values of a key in a sorted table, at most MOST."""
    first = bisect_left(range(len(table)), key.encode(), key=table.key)
    rows = (table[at] for at in range(first, min(first + MOST, len(table))))
    return [value for _, value in takewhile(lambda row: row[0] == key, rows)]
