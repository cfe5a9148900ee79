"""The meaning of mask values: from the values in some masks, names in files beside them, and the user's answers."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stpp.data.images import read_image, read_mask, values_in
from stpp.ingest.discovery import UnsureError, spread
from stpp.run.parallel import THREADS, ordered_map
from stpp.store.files import StppError, grouped, read_text
from stpp.store.masks import IGNORE

READ, OF_COLOURS, SHOWN = 200, 20, 8
"""READ: masks that are read. OF_COLOURS: colour masks whose colours are counted. SHOWN: colours that are listed."""
NAMES: dict[str, Callable[[list[str]], dict[int, str]]] = {
    "labelmap.txt": lambda rows: dict(enumerate(row.partition(":")[0] for row in rows)),
    "classes.txt": lambda rows: dict(enumerate(rows)),
    "class_dict.csv": lambda rows: dict(enumerate(row[0].strip() for row in list(csv.reader(rows))[1:])),
    "_classes.csv": lambda rows: {int(row[0]): row[1].strip() for row in list(csv.reader(rows))[1:]},
}
"""File of class names -> function: its lines -> names by value. In the first three, their order gives the values."""
VOID = ("void", "unlabelled", "unlabeled", "ignore", "ignored")
"""Names in these files that stand for pixels without a class."""
BYTES = 2**20


@dataclass(frozen=True)
class Meaning:
    """The values `classes`, `values` and `ignore` of the section data, and a reason for each."""

    classes: list[str]
    values: dict[int, int | str] | None
    ignore: int | None
    why: dict[str, str]


def read_values(root: Path, masks: Sequence[str]) -> dict[str, list[int]]:
    """Read at most READ of the masks, evenly spaced, and return their values by path.

    Raises StppError if masks cannot be read. If they hold colours, the error lists these.
    """

    def look(mask: str) -> list[int] | str:
        try:
            return values_in(read_mask(root / mask))
        except StppError as error:
            return str(error)

    some = spread(masks, READ)
    looked = dict(zip(some, ordered_map(look, some, THREADS), strict=True))
    if wrong := {mask: said for mask, said in looked.items() if isinstance(said, str)}:
        about = f"{len(wrong)} of {len(some)} masks that were read (of {len(masks)}) cannot be used:"
        colours = [root / mask for mask, said in wrong.items() if "convert its colours" in said]
        raise StppError("\n".join([about, *grouped(wrong.values()), *_colours(colours[:OF_COLOURS])]))
    return {mask: values for mask, values in looked.items() if not isinstance(values, str)}


def _colours(masks: Sequence[Path]) -> list[str]:
    """Return lines on the colours in some colour masks, and what to do."""
    pixels: Counter[int] = Counter()
    for mask in masks:
        packed = (read_image(mask)[0].astype(np.int64) << (16, 8, 0)).sum(axis=2)
        values, counts = np.unique(packed, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    shares = [f"#{colour:06x} {100 * count / pixels.total():.1f} %" for colour, count in pixels.most_common(SHOWN)]
    return [
        f"{len(pixels)} colours in {len(masks)} of them, by share of the pixels: {', '.join(shares)}",
        "write each colour as a value of its own (0, 1, 2 ...) into a PNG with one channel; labelling tools export "
        "such masks as `indexed` or `class ids`",
    ][: 2 * bool(masks)]


def read_names(folders: Iterable[Path]) -> dict[Path, dict[int, str]]:
    """Read the files of class names in the folders. Raises StppError for a file that cannot be read."""
    found: dict[Path, dict[int, str]] = {}
    for path in (folder / name for folder in folders for name in NAMES):
        if path.is_file() and path not in found:
            try:
                lines = [line.strip() for line in read_text(path, BYTES, encoding="utf-8-sig").splitlines()]
                found[path] = NAMES[path.name]([line for line in lines if line and not line.startswith("#")])
            except (ValueError, IndexError, csv.Error) as error:
                raise StppError(f"{path}: not readable as class names: {error}; correct it, or move it away") from None
    return found


def meaning(
    seen: Set[int],
    all_read: bool,
    files: Mapping[Path, dict[int, str]],
    classes: str | None = None,
    ignore: str | None = None,
) -> Meaning:
    """Return the classes of masks that hold the values `seen`, and what each value means.

    all_read: there are no other masks. files: class names by value. classes, ignore: the user's answers, as the options
    of `stpp init`. Raises UnsureError if the values can mean several things, and StppError if an answer does not fit.
    """
    given = [one.strip() for one in classes.split(",")] if classes is not None else []
    file, names = (None, {}) if given else _fitting(seen, files)
    void = _void(seen, names, len(given), ignore)
    kept = sorted(seen - void)
    order, found, why = kept, [f"class_{value}" for value in kept], "numbered by mask value: give them names"
    if given:
        unseen = not all_read and len(kept) < len(given) and set(kept) <= set(range(len(given)))
        order, found, why = [*range(len(given))] if unseen else kept, given, "as given with --classes"
        if len(order) != len(found):
            raise StppError(f"--classes: {len(found)} names for {len(kept)} mask values: {ranges(kept)}")
    elif file:
        order = [value for value in sorted(names.keys() - void) if not all_read or value in seen]
        absent = [name for value, name in sorted(names.items()) if value not in order and value not in void]
        found, why = [names[value] for value in order], f"from {file}"
        why += f"; without {', '.join(absent)}, which no mask shows" if absent else ""
    elif kept == [0, IGNORE]:
        found, why = ["background", "foreground"], "the masks hold only 0 and 255"
    elif not all_read and set(range(len(kept))) - {*kept, *void}:
        question = f"the masks that were read hold the values {ranges(kept)}; how are these {len(kept)} classes called?"
        raise UnsureError(question, "classes", "A,B,C (a name for each value)")
    _check_names(found, kept)
    # A data set has one value `ignore` that is no class. Others, and those below the number of classes, go to `values`.
    alone = next(iter(void)) if len(void) == 1 and min(void) >= len(order) else None
    ignored = IGNORE if IGNORE in void else alone
    values: dict[int, int | str] = {value: at for at, value in enumerate(order) if value != at}
    unread = set(range(len(order))) - set(order) if not all_read and order != [0, IGNORE] else set()
    values |= {value: "ignore" for value in sorted(unread | void) if value != ignored}
    source = f"from {file}" if void & names.keys() else "the common value of pixels without a class"
    source = "as given with --ignore" if ignore is not None else source
    why_ignore = source if void else "every value that was read is a class"
    return Meaning(found, values or None, ignored, {"classes": why, "ignore": why_ignore})


def _fitting(seen: Set[int], files: Mapping[Path, dict[int, str]]) -> tuple[Path | None, dict[int, str]]:
    """Return the file that names all values but 255, with its names. Raises UnsureError if files disagree."""
    fitting = {file: names for file, names in files.items() if seen - {IGNORE} <= names.keys()}
    if any(names != next(iter(fitting.values())) for names in fitting.values()):
        question = f"{', '.join(map(str, fitting))} name the classes differently; how are they called?"
        raise UnsureError(question, "classes", "A,B,C")
    return next(iter(fitting.items()), (None, {}))


def _void(seen: Set[int], names: Mapping[int, str], given: int, ignore: str | None) -> set[int]:
    """Return the values without a class. given: the number of names in `--classes`. Raises as `meaning` does."""
    rest = seen - {IGNORE}
    if ignore is not None:
        words = [] if ignore.strip() == "none" else [word.strip() for word in ignore.split(",")]
        if not all(word.isascii() and word.isdecimal() and int(word) <= 65535 for word in words):
            raise StppError(f"--ignore {ignore}: give mask values such as 11 or 0,255, or none")
        return set(map(int, words))
    if names:
        return {*(seen - names.keys()), *(value for value, name in names.items() if name.lower() in VOID)}
    if seen <= {0, IGNORE} or len(seen) == given or (len(seen) <= 2 and IGNORE not in seen):
        return set()
    if IGNORE in seen and (len(rest) == given or rest in (set(range(len(rest))), set(range(1, len(rest) + 1)))):
        return {IGNORE}
    question = f"the masks that were read hold the values {ranges(seen)}; which of them are no class (or none)?"
    raise UnsureError(question, "ignore", f"{max(seen)}, or --ignore none")


def _check_names(names: Sequence[str], kept: Sequence[int]) -> None:
    """Raise StppError unless there are 2 to 255 different names. kept: the values in the masks that are classes."""
    remedy = "give the names with --classes A,B,C"
    if len(names) < 2:
        raise StppError(
            f"the masks that were read show {len(kept)} class (value {ranges(kept)}); if others do, {remedy}"
        )
    if len(names) > IGNORE:
        raise StppError(
            f"the masks that were read hold {len(names)} values, more than {IGNORE} classes: ids of instances?"
        )
    if odd := [name for name, times in Counter(names).items() if times > 1 or not name]:
        raise StppError(f"class name {odd[0]!r}: empty or used twice; {remedy}")


def ranges(values: Iterable[int]) -> str:
    """Return values as text, such as "0-11, 255", with at most SHOWN ranges."""
    found: list[list[int]] = []
    for value in sorted(values):
        if found and value == found[-1][-1] + 1:
            found[-1][1:] = [value]
        else:
            found.append([value])
    return ", ".join(["-".join(map(str, one)) for one in found[:SHOWN]] + ["..."] * (len(found) > SHOWN))
