"""The data manifest that `stpp prepare` writes: classes, mask values and one record per image.

Lists of ids that a person writes are read here, too.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stpp.store.files import ID, StppError, digest, quoted, read_text, unicode_forms, write_csv, write_json
from stpp.store.packed import MappedTable
from stpp.store.reading import Reading, as_json, from_json
from stpp.store.records import DatasetJson, read

Rgb = tuple[int, int, int]
T = TypeVar("T")
COLOUR = 2**24
"""A colour as a mask value is COLOUR + 0xRRGGBB. Smaller mask values are the numbers in the mask files."""


def by_colour(values: Iterable[int]) -> bool:
    """Return whether mask values are colours."""
    return max(values, default=0) >= COLOUR


def value_name(value: int) -> str:
    """Return a mask value as text: a number, or a colour such as "#800000"."""
    return f"#{value - COLOUR:06x}" if value >= COLOUR else str(value)


def value_of(name: str) -> int:
    """Return the mask value that `value_name` wrote. Raises ValueError for other text."""
    return COLOUR + int(name[1:], 16) if name.startswith("#") else int(name)


def rgb_of(value: int) -> Rgb:
    """Return the red, green and blue of a mask value that is a colour."""
    return value >> 16 & 255, value >> 8 & 255, value & 255


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the data set.

    Paths are relative to the data set's root. Width and height are in pixels, after EXIF rotation. Hashes are of the
    files' bytes.
    """

    id: str
    image: str
    mask: str
    """Empty if the image has no mask. The annotation file if the mask was drawn from one."""
    width: int
    height: int
    image_sha256: str
    mask_sha256: str
    """For a mask that was drawn: of its pixels (`stpp.store.masks.mask_sha256`)."""
    classes: tuple[int, ...]
    """Ids of the classes present in the mask, ascending."""


@dataclass(frozen=True)
class Dataset:
    """The data set that `stpp prepare` found: classes, the meaning of mask values, and one record per image."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[Rgb, ...]
    values: dict[int, int]
    """Mask value -> class id, or 255 for ignore. A mask value that is not a key is invalid.

    If the values are colours (from `COLOUR` on), masks are read by colour, else by number.
    """
    records: Mapping[str, Record]
    """Records by id. Read from a file, this is a `MappedTable`, which leaves the records on disk."""
    drawn: Path | None = None
    """The mask set of all masks if they were drawn from annotation files; else None: each mask is a file."""
    variable: str = ""
    """The variable of .mat files that holds the mask (`data.variable`)."""
    reading: Reading | None = None
    """How image files are read; None: as ordinary pictures."""

    @cached_property
    def digest(self) -> str:
        """The md5 over ids, file hashes, classes and mask values, 32 characters: it identifies this content."""
        return _digest(self, self.records.values())


def digest_of(dataset: Dataset, ids: list[str]) -> str:
    """Return a hash, 32 characters, of the images `ids`, their masks, the classes and the mask values.

    The order of `ids` and repeated ids do not change it.
    """
    return _digest(dataset, (dataset.records[i] for i in sorted(set(ids))))


def _digest(dataset: Dataset, records: Iterable[Record]) -> str:
    drawn = " drawn" if dataset.drawn else ""
    about = f"{dataset.classes} {sorted(dataset.values.items())}{drawn}\n{dataset.variable}{dataset.reading or ''}"
    total = hashlib.md5(about.encode(), usedforsecurity=False)
    for r in records:
        total.update(f"{r.id} {r.image_sha256} {r.mask_sha256}\n".encode())
    return total.hexdigest()


def repeated_hashes(hashes: Iterable[str]) -> set[int]:
    """Return the built-in `hash` of every string that occurs more than once, using 8 bytes of memory per string.

    Two different strings may have the same `hash`, so the caller must compare the strings themselves. The hashes are
    valid in this process alone.
    """
    ordered = np.sort(np.fromiter(map(hash, hashes), np.int64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


DRAWN = "masks"
"""The folder of the mask set beside dataset.json, if the masks were drawn from annotation files."""
RECORD = ("id", "image", "mask", "width", "height", "image_sha256", "mask_sha256", "classes")
"""The columns of manifest.csv."""


def write_dataset(folder: Path, dataset: Dataset) -> None:
    """Write dataset.json and manifest.csv into a folder."""
    about = {
        "name": dataset.name,
        "digest": dataset.digest,
        "images": len(dataset.records),
        "classes": list(dataset.classes),
        "palette": [list(c) for c in dataset.palette],
        "values": {value_name(k): v for k, v in sorted(dataset.values.items())},
    }
    about |= {"masks": DRAWN} if dataset.drawn else {}
    about |= {"variable": dataset.variable} if dataset.variable else {}
    about |= {"reading": as_json(dataset.reading)} if dataset.reading else {}
    write_json(folder / "dataset.json", about)
    write_csv(folder / "manifest.csv", RECORD, map(as_row, dataset.records.values()))


def as_row(r: Record) -> tuple[Any, ...]:
    """Return a record as a row of manifest.csv."""
    return r.id, r.image, r.mask, r.width, r.height, r.image_sha256, r.mask_sha256, " ".join(map(str, r.classes))


def read_dataset(folder: Path) -> Dataset:
    """Read the data set that `write_dataset` wrote.

    Raises StppError naming the folder or file if it is damaged, or if a path leads out of the data set.
    """
    about = read(folder / "dataset.json", DatasetJson)
    try:
        return Dataset(
            name=about["name"],
            classes=tuple(about["classes"]),
            palette=tuple((r, g, b) for r, g, b in about["palette"]),
            values={value_of(k): v for k, v in about["values"].items()},
            records=MappedTable.read(folder / "manifest.csv", RECORD, record_of),
            drawn=folder / DRAWN if about.get("masks") else None,
            variable=about.get("variable", ""),
            reading=from_json(about.get("reading")),
        )
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise StppError(f"{folder}: not what `stpp prepare` writes ({error}); run `dvc repro` again") from None


def read_table(path: Path, columns: Sequence[str], row_of: Callable[[list[str]], T]) -> MappedTable[T]:
    """Open a CSV table that a stage wrote, keyed by its first column. Raises StppError naming a bad or missing file."""
    try:
        return MappedTable.read(path, columns, row_of)
    except (OSError, ValueError) as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None


def record_of(row: list[str]) -> Record:
    """Return the record in a row of manifest.csv; the inverse of `as_row`.

    Raises ValueError if the row is malformed, or if a path leads out of the data set.
    """
    name, image, mask, width, height, image_sha256, mask_sha256, classes = row[: len(RECORD)]
    if not ID.match(name):
        raise ValueError(f"{name!r} is not a valid id")
    for path in (image, mask):
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise ValueError(f"{path} points outside the data set")
    shown = tuple(map(int, classes.split()))
    return Record(name, image, mask, int(width), int(height), image_sha256, mask_sha256, shown)


GAPS, LONGEST = 16, 9000
"""How many spaces of a line may divide it into two names, and the characters of the longest line that is divided."""


def columns(line: str, known: Callable[[str], bool]) -> tuple[str, str]:
    """Return the first and the second name in a line of a list; the second is empty if there is one name.

    Names may hold spaces. In this order, the line is one name if it is `known` as a whole; two names separated by a
    tab; two known names separated by a space; two words that end as files do, as in published lists (after an id, the
    second word must hold a folder); else one name.
    """
    whole = line.strip()
    words = whole.split()
    if len(words) < 2 or known(whole):
        return whole, ""
    if whole.count("\t") == 1:
        first, _, second = whole.partition("\t")
        return first.strip(), second.strip()
    for first, second in _halves(whole):
        if known(first) and known(second):
            return first, second
    a_file, with_folder = FILE.search(words[0]), "/" in words[1]
    if len(words) == 2 and FILE.search(words[1]) and (a_file or with_folder):
        return words[0], words[1]
    return whole, ""


FILE = re.compile(r"[^/]\.[A-Za-z]\w{1,4}\Z")
"""The end of a word that is a file's name: a dot and 2 to 5 letters or digits, such as `.jpg`."""


def _halves(line: str) -> Iterator[tuple[str, str]]:
    """Yield what stands before and after each white space of a line, for the first GAPS of them."""
    for gap in islice(re.finditer(r"\s+", line), GAPS) if len(line) <= LONGEST else ():
        yield line[: gap.start()], line[gap.end() :]


def names_in(line: str) -> list[str]:
    """Return the names that `columns` may ask for in a line of a list, in all Unicode forms."""
    whole = line.strip()
    if whole.isascii() and len(whole.split()) < 2:
        return [whole]
    return [form for name in (whole, *chain(*_halves(whole))) for form in unicode_forms(name)]


def hint(name: str) -> str:
    """Return what may be wrong with a name in a list that is not known; empty if it has no space."""
    return "; separate an image and its mask by a tab" if len(name.split()) > 1 else ""


def respelled_in(path: Path, lines: Sequence[int]) -> str:
    """Return a note on the lines of a list, by number, whose names the data set has in another Unicode form."""
    names = f"{len(lines)} name(s) differ from the data set's in their Unicode form, such as in line {lines[0]}"
    return f"{path}: {names}; they are read as the same names"


def read_user_list(path: Path, dataset: Dataset) -> tuple[dict[str, int], list[str]]:
    """Read a list of images written by a person, and return its ids with their line numbers, and its problems.

    A line holds an id or an image's path, and perhaps a mask's, which is not used (see `columns`). A name counts, and
    a line is printed, if only its Unicode form differs from that in the data set. Each problem is a line of text; a
    list that cannot be read or is empty is a problem, too.
    """
    try:
        lines = [line.strip() for line in read_text(path, encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        return {}, [f"{path}: not readable: {error}; save it as UTF-8"]
    except OSError as error:
        return {}, [f"{path}: not readable: {error.strerror}"]
    others = {line for line in lines if line and line not in dataset.records}
    id_of = _ids_by_name(others, dataset)
    ids: dict[str, int] = {}
    problems, respelled = [], []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        name, found = line, line if line not in others else id_of(line)
        if not found:
            name, mask = columns(line, lambda name: id_of(name) is not None)
            found = id_of(name)
            if (other := id_of(mask)) and other != found:
                name, found = line, None  # two images
        if not found:
            problems.append(
                f"{path}:{number}: {quoted(name)} is neither an id nor an image of the data set{hint(name)}"
            )
        elif found in ids:
            problems.append(f"{path}:{number}: {quoted(name)} is listed twice; remove one line")
        else:
            ids[found] = number
            if not name.isascii() and name not in (found, dataset.records[found].image):
                respelled.append(number)
    if respelled:
        print(respelled_in(path, respelled))
    if not any(lines):
        problems.append(f"{path}: the list is empty")
    return ids, problems


def _ids_by_name(lines: Iterable[str], dataset: Dataset) -> Callable[[str], str | None]:
    """Return a function from a name in the lines, in any Unicode form, to the id of an image of that id or path.

    It returns an empty id for a mask, and None for other names. lines: those that are no ids as they are written.
    """
    names = set(chain.from_iterable(map(names_in, lines)))
    of_file: dict[str, str] = {}
    for i, record in dataset.records.items() if names else ():
        if record.mask in names:
            of_file.setdefault(record.mask, "")
        if record.image in names:
            of_file[record.image] = i

    def id_of(name: str) -> str | None:
        if found := of_file.get(name):
            return found
        for form in unicode_forms(name):
            if found := of_file.get(form) or (form if form in dataset.records else ""):
                return found
        return "" if any(form in of_file for form in unicode_forms(name)) else None

    return id_of


def split_digest(split: Path) -> str:
    """Return a hash, 32 characters, of a split: of its ids, their sets, and the hashes of images and masks."""
    return digest([split / "manifest.csv"])[:32]
