"""Files of class names, as labelling tools write them beside the masks."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from stpp.ingest.patterns import check_inside
from stpp.params.data import Data, mask_values
from stpp.store.files import StppError, read_text
from stpp.store.manifest import COLOUR, Rgb, rgb_of, value_name

NAMES = ("labelmap.txt", "classes.txt", "class_dict.csv", "_classes.csv")
"""The usual names of such files. The content decides how a file is read."""
VOID = ("void", "unlabelled", "unlabeled", "ignore", "ignored")
"""Names in these files that stand for pixels without a class."""
BYTES = 2**20
OF_CVAT = re.compile(r"[^:]+:[\d, ]*(:[^:]*){0,2}")
"""A line of CVAT's labelmap.txt: name:red,green,blue:parts:actions. The colour may be missing."""


def read_class_file(path: Path) -> dict[int, str]:
    """Return the class names in a file by mask value: by number and, if all names have a colour, also by colour.

    Without numbers in the file, the order of the names gives them. Raises StppError if the file cannot be read, or if
    it gives a value twice.
    """
    named: dict[int, str] = {}
    try:
        lines = [line.strip() for line in read_text(path, BYTES, encoding="utf-8-sig").splitlines()]
        rows = list(_rows([line for line in lines if line and not line.startswith("#")], path.suffix.lower()))
        for value, name, rgb in rows:
            for one in (value, *([_packed(rgb)] if all(colours for _, _, colours in rows) else [])):
                if named.setdefault(one, name) != name:
                    raise ValueError(f"{value_name(one)} is both {named[one]} and {name}")
    except FileNotFoundError:
        raise StppError(f"{path}: no such file; give its path below data.root") from None
    except (ValueError, IndexError, OSError, csv.Error) as error:
        raise StppError(f"{path}: not readable as class names: {error}; correct it, or move it away") from None
    return named


def _rows(lines: Sequence[str], suffix: str) -> Iterator[tuple[int, str, Sequence[str]]]:
    """Yield value, name and colour (red, green and blue, or nothing) for every class in the lines of a file."""
    if suffix == ".csv":
        header, *rows = csv.reader(lines)
        if header[0].strip().lower() in ("pixel value", "value", "id"):  # Roboflow: value, name
            yield from ((int(row[0]), row[1].strip(), ()) for row in rows)
        else:
            yield from ((value, row[0].strip(), row[1:4]) for value, row in enumerate(rows))
    elif lines and all(OF_CVAT.fullmatch(line) for line in lines):
        for value, line in enumerate(lines):
            name, rgb = line.split(":")[:2]
            yield value, name.strip(), rgb.split(",") if rgb.strip() else ()
    else:
        yield from ((value, line, ()) for value, line in enumerate(lines))


def _packed(rgb: Sequence[str]) -> int:
    """Return a colour as a mask value. Raises ValueError unless it is three numbers from 0 to 255."""
    red, green, blue = (int(part) for part in rgb)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"{red},{green},{blue} is no colour")
    return COLOUR + (red << 16) + (green << 8) + blue


def is_void(name: str) -> bool:
    """Return whether a name in such a file stands for pixels without a class."""
    return name.lower() in VOID


def with_classes(data: Data) -> Data:
    """Return the section `data` with the names, values and colours of the file that `classes` names, if it names one.

    Keys of `values` take precedence over those of the file. Raises StppError if the file cannot be used.
    """
    if not isinstance(data.classes, str):
        return data
    check_inside(data.classes, "data.classes")
    path = Path(data.root) / data.classes
    named = read_class_file(path)
    numbers, colours = ({v: n for v, n in named.items() if (v >= COLOUR) == of} for of in (False, True))
    classes = tuple(dict.fromkeys(name for _, name in sorted(numbers.items()) if not is_void(name)))
    own = data.values or {}
    used = colours if data.by_colour or (data.values is None and colours) else numbers
    taken = {value for key in own for value in mask_values(key)}
    values: dict[str, int | str] = {
        value_name(v): "ignore" if is_void(name) else name for v, name in used.items() if v not in taken
    }
    palette = data.palette or (_palette(classes, colours) if colours else None)
    meant = None if data.annotations or isinstance(data.masks, dict) else values | own
    changed = {"classes": classes, "values": meant, "palette": palette}
    try:
        return Data.model_validate(data.model_dump() | changed)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise StppError(f"data.classes: {path}: {what}") from None


def _palette(classes: Sequence[str], colours: Mapping[int, str]) -> tuple[Rgb, ...]:
    """Return the first colour of every class."""
    first = {name: rgb_of(value) for value, name in reversed([*colours.items()])}
    return tuple(first[name] for name in classes)
