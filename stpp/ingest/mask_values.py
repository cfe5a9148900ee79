"""The meaning of mask values: from the values in some masks, names in files beside them, and the user's answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stpp.data.mask_pixels import NOTHING, RANGES, MaskOfColoursError, read_mask, to_classes, two_peaks, values_in
from stpp.ingest.class_files import NAMES, is_void, read_class_file
from stpp.ingest.discovery import UnsureError, spread
from stpp.params.data import mask_values
from stpp.run.parallel import THREADS, ordered_map
from stpp.store.files import StppError, grouped
from stpp.store.manifest import COLOUR, value_name, value_of
from stpp.store.masks import IGNORE

READ, SHOWN = 200, 8
"""READ: masks that are read. SHOWN: values or colours that are listed."""
BY_COLOUR = {COLOUR: 0}
"""A meaning of mask values with which `read_mask` reads any colours."""
BINARY = {value: 255 if value > 127 else 0 for value in range(256)}
"""The meaning of the values in lossy masks of two classes."""
BORDER = value_of("#e0e0c0")
"""The colour of pixels without a class in the masks of Pascal VOC and of tools that write such masks."""


@dataclass(frozen=True)
class Meaning:
    """The values `classes`, `values` and `ignore` of the section data, and a reason for each."""

    classes: list[str]
    values: dict[int | str, int | str] | None
    ignore: int | None
    why: dict[str, str]


def read_values(root: Path, masks: Sequence[str]) -> tuple[dict[str, list[int]], bool]:
    """Read at most READ of the masks, evenly spaced; return their values by path, and whether to read them by ranges.

    If one of them holds colours, all are read by colour. If they have lossy compression, but two peaks, 0 and 255 stand
    for all values. Raises StppError if masks cannot be read.
    """

    def look(mask: str, meaning: Mapping[int, int] = NOTHING) -> list[int] | StppError:
        try:
            return values_in(read_mask(root / mask, meaning))
        except StppError as error:
            return error

    def look_by_ranges(mask: str) -> list[int] | None:
        try:
            values = read_mask(root / mask, BINARY)
        except StppError:
            return None
        return values_in(to_classes(values, BINARY)) if values.dtype == np.uint8 and two_peaks(values) else None

    some = spread(masks, READ)
    looked = dict(zip(some, ordered_map(look, some, THREADS), strict=True))
    if any(RANGES in str(said) for said in looked.values()):
        by_ranges = dict(zip(some, ordered_map(look_by_ranges, some, THREADS), strict=True))
        if all(by_ranges.values()):
            return {mask: values for mask, values in by_ranges.items() if values}, True
    if any(isinstance(said, MaskOfColoursError) and said.pixels for said in looked.values()):
        looked = dict(zip(some, ordered_map(lambda mask: look(mask, BY_COLOUR), some, THREADS), strict=True))
    if wrong := [str(said) for said in looked.values() if isinstance(said, StppError)]:
        about = f"{len(wrong)} of {len(some)} masks that were read (of {len(masks)}) cannot be used:"
        raise StppError("\n".join([about, *grouped(wrong)]))
    return {mask: values for mask, values in looked.items() if not isinstance(values, StppError)}, False


def read_names(folders: Iterable[Path]) -> dict[Path, dict[int, str]]:
    """Read the files of class names in the folders. Raises StppError for a file that cannot be read."""
    paths = dict.fromkeys(folder / name for folder in folders for name in NAMES)
    return {path: read_class_file(path) for path in paths if path.is_file()}


def meaning(
    seen: Set[int],
    all_read: bool,
    files: Mapping[Path, dict[int, str]],
    classes: str | None = None,
    ignore: str | None = None,
    lossy: bool = False,
) -> Meaning:
    """Return the classes of masks that hold the values `seen`, and what each value means.

    all_read: there are no other masks. files: class names by value. classes, ignore: the user's answers, as the options
    of `stpp init`. lossy: 0 and 255 stand for the values near them. Raises UnsureError if the values can mean several
    things, and StppError if an answer does not fit.
    """
    given = [one.strip() for one in classes.split(",")] if classes is not None else []
    by_colour = min(seen, default=0) >= COLOUR
    files = {file: {v: n for v, n in names.items() if (v >= COLOUR) == by_colour} for file, names in files.items()}
    file, names = (None, {}) if given else _fitting(seen, files)
    void = _void(seen, names, len(given), ignore)
    kept = sorted(seen - void)
    order, found, why = kept, [f"class_{value}" for value in kept], "numbered by mask value: give them names"
    if by_colour:
        found, why = [f"class_{number}" for number in range(1, len(kept) + 1)], "numbered by colour: give them names"
    if given:
        unseen = not all_read and len(kept) < len(given) and set(kept) <= set(range(len(given)))
        order, found, why = [*range(len(given))] if unseen else kept, given, "as given with --classes"
        if len(order) != len(found):
            raise StppError(f"--classes: {len(found)} names for {len(kept)} mask values: {ranges(kept)}")
    elif file:
        listed = [value for value in (names if by_colour else sorted(names)) if value not in void]
        order = [value for value in listed if not all_read or value in seen]
        absent = [names[value] for value in listed if value not in order]
        found, why = [names[value] for value in order], f"from {file}"
        why += f"; without {', '.join(absent)}, which no mask shows" if absent else ""
    elif kept == [0, IGNORE]:
        found, why = ["background", "foreground"], "the masks hold only 0 and 255"
    elif not by_colour and not all_read and set(range(len(kept))) - {*kept, *void}:
        question = f"the masks that were read hold the values {ranges(kept)}; how are these {len(kept)} classes called?"
        raise UnsureError(question, "classes", "A,B,C (a name for each value)")
    _check_names(found, kept)
    if by_colour:
        named: dict[int | str, int | str] = {
            value_name(value): name if given or file else at
            for at, (value, name) in enumerate(zip(order, found, strict=True))
        }
        named |= {value_name(value): "ignore" for value in sorted(void)}
        return Meaning(found, named, None, {"classes": why, "values": "the colours in the masks"})
    if lossy and kept == [0, IGNORE]:
        reasons = {"classes": why, "values": "lossy compression changes values"}
        return Meaning(found, {"0-127": 0, "128-255": 1}, None, reasons)
    # A data set has one value `ignore` that is no class. Others, and those below the number of classes, go to `values`.
    alone = next(iter(void)) if len(void) == 1 and min(void) >= len(order) else None
    ignored = IGNORE if IGNORE in void else alone
    values: dict[int | str, int | str] = {value: at for at, value in enumerate(order) if value != at}
    unread = set(range(len(order))) - set(order) if not all_read and order != [0, IGNORE] else set()
    values |= {value: "ignore" for value in sorted(unread | void) if value != ignored}
    source = f"from {file}" if void & names.keys() else "the common value of pixels without a class"
    source = "as given with --ignore" if ignore is not None else source
    why_ignore = source if void else "every value that was read is a class"
    return Meaning(found, values or None, ignored, {"classes": why, "ignore": why_ignore})


def _fitting(seen: Set[int], files: Mapping[Path, dict[int, str]]) -> tuple[Path | None, dict[int, str]]:
    """Return the file that names all values but those of no class. Raises UnsureError if files disagree."""
    fitting = {file: names for file, names in files.items() if seen - {IGNORE, BORDER} <= names.keys()}
    if any(names != next(iter(fitting.values())) for names in fitting.values()):
        question = f"{', '.join(map(str, fitting))} name the classes differently; how are they called?"
        raise UnsureError(question, "classes", "A,B,C")
    return next(iter(fitting.items()), (None, {}))


def _void(seen: Set[int], names: Mapping[int, str], given: int, ignore: str | None) -> set[int]:
    """Return the values without a class. given: the number of names in `--classes`. Raises as `meaning` does."""
    rest = seen - {IGNORE}
    if ignore is not None:
        words = [] if ignore.strip() == "none" else [word.strip() for word in ignore.split(",")]
        try:
            return {value for word in words for value in mask_values(word)}
        except ValueError:
            raise StppError(f"--ignore {ignore}: give mask values such as 11, 0,255 or #e0e0c0, or none") from None
    if names:
        return {*(seen - names.keys()), *(value for value, name in names.items() if is_void(name))}
    if min(seen, default=0) >= COLOUR:
        return {BORDER} & {*seen}
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
        what = f"{len(names)} values, more than {IGNORE} classes: ids of instances, or soft edges?"
        raise StppError(f"the masks that were read hold {what}")
    if odd := [name for name, times in Counter(names).items() if times > 1 or not name]:
        raise StppError(f"class name {odd[0]!r}: empty or used twice; {remedy}")


def ranges(values: Iterable[int]) -> str:
    """Return values as text, such as "0-11, 255", with at most SHOWN ranges or colours."""
    found: list[list[int]] = []
    for value in sorted(values):
        if found and value == found[-1][-1] + 1 and value < COLOUR:
            found[-1][1:] = [value]
        else:
            found.append([value])
    return ", ".join(["-".join(map(value_name, one)) for one in found[:SHOWN]] + ["..."] * (len(found) > SHOWN))
