"""Inspection of a data set: read every image and mask once, record what is there and collect all problems."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stpp.data.bands import read_photo
from stpp.data.images import read_image
from stpp.data.mask_pixels import MOST_COLOURS, RANGES, MaskOfColoursError, counts_in, read_mask, to_classes, values_in
from stpp.ingest.catalog import ImagePair, list_images
from stpp.ingest.inspection_cache import Inspected, InspectionCache, MaskColours, States, old_enough, state_of
from stpp.ingest.known_layouts import Layout, layout
from stpp.ingest.measuring import reading_of
from stpp.ingest.palettes import PaletteCheck, shown_in
from stpp.params.data import Data
from stpp.run.parallel import ordered_map
from stpp.run.progress import progress
from stpp.store.files import StppError, quoted, sha256
from stpp.store.manifest import Dataset, Record, as_row, by_colour, record_of, repeated_hashes, value_name
from stpp.store.masks import IGNORE
from stpp.store.packed import MappedRows, MappedTable
from stpp.store.reading import Reading, as_json

LISTED, TO_PASTE = 20, 64
"""Mask values that a problem lists, and colours in the section that the user can paste; the most frequent first."""
MOST = 10_000
"""Different colours that are counted."""


@dataclass(frozen=True)
class Looked:
    """The result for one image: a record (None after a problem), and what was found on the way."""

    record: Record | None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """How the image was converted."""
    shown: MaskColours = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    """The numbers of values and pixels of the image that reading it has changed, by what was done."""
    colours: Mapping[int, int] = field(default_factory=dict)
    """The pixels of every colour in the mask that `data.values` should name."""


def inspect(data: Data, workers: int, cache_folder: Path | None = None) -> tuple[Dataset, list[str], list[str]]:
    """Read every image and mask of a data set; return the data set, warnings and problems.

    With `data.annotations` no mask is read: a record names the annotation file if each image or folder has its own.
    With mask files for each class none is read, too.

    Warnings tell what is handled (grey-scale images, EXIF orientation, files passed over ...). Problems must be fixed
    by the user. workers: threads that read files. cache_folder: where `stpp.ingest.inspection_cache` keeps the results
    of unchanged files; None: read all files. Raises StppError if the data set cannot be listed.
    """
    known = layout(data)
    found, problems, passed = list_images(data, known)
    root = Path(data.root)
    fixed = f"the values of kind {data.kind} are fixed: correct the mask, or use data.kind: folder and data.values"
    remedy = "" if data.kind == "folder" else fixed
    notes: dict[str, list[Any]] = {}  # note -> [number of images with it, id of the first one]
    changed: Counter[str] = Counter()
    classes: set[int] = set()
    palettes = PaletteCheck(known, root)
    plain = data.annotations is None and not isinstance(data.masks, dict)
    masks = coloured = 0
    colours: Counter[int] = Counter()

    with_masks = any(pair.mask for pair in found.values())
    measured = (root / pair.image for pair in found.values() if pair.mask or not with_masks)
    reading, of_reading = reading_of(data, measured, workers)
    about: list[Any] = [len(known.classes), sorted(known.values.items()), data.variable]
    about += [as_json(reading)] if reading else []

    with InspectionCache(cache_folder, root, about) as cache:

        def items() -> Iterator[tuple[str, ImagePair, States, Inspected | None]]:
            for name, pair in found.items():
                one = pair if plain else replace(pair, mask="")
                states = state_of(root / one.image), state_of(root / one.mask) if one.mask else ""
                yield name, one, states, cache.get(name, one.image, one.mask, states)

        def look(item: tuple[str, ImagePair, States, Inspected | None]) -> tuple[Looked, States | None]:
            name, one, states, before = item
            if before:
                return Looked(before[0], [], *before[1:]), states
            start = time.time_ns()
            looked = _look(data, known, remedy, name, one, reading)
            after = state_of(root / one.image), state_of(root / one.mask) if one.mask else ""
            return looked, states if states == after and old_enough(states, start) else None

        def rows() -> Iterator[tuple[Any, ...]]:
            nonlocal masks, coloured
            for looked, states in progress(ordered_map(look, items(), workers), "prepare", len(found)):
                record = looked.record
                problems.extend(looked.problems)
                coloured += bool(looked.colours)
                colours.update(looked.colours if len(colours) < MOST else {})
                if record is None:
                    continue
                if states:
                    cache.put((record, looked.notes, looked.shown, looked.changed), states)
                listed = isinstance(data.masks, dict) and found[record.id].mask
                for note in [*looked.notes, *(["the mask in data.list is not used: see data.masks"] if listed else [])]:
                    notes.setdefault(note, [0, record.id])[0] += 1
                for what, count in looked.changed.items():
                    notes.setdefault(what, [0, record.id])[0] += 1
                    changed[what] += count
                classes.update(record.classes)
                problems.extend(palettes.compared(record.mask, looked.shown))
                masks += bool(record.mask)
                yield as_row(replace(record, mask=found[record.id].mask) if data.annotations else record)

        records = MappedTable(MappedRows.spooled(rows()), record_of)
    dataset = Dataset(
        *(data.name, known.classes, known.palette, known.values, records),
        variable=data.variable or "",
        reading=reading,
    )
    problems += _twice(dataset, root)
    if plain:
        problems += _absent(classes, palettes.values, masks, known, data, all_read=not problems)
    warnings = [
        f"{f'{changed[note]} ' if note in changed else ''}{note}: {count} image(s), such as {first}"
        for note, (count, first) in sorted(notes.items())
    ]
    return dataset, passed + of_reading + warnings + _section(colours, coloured, data), problems


def _look(data: Data, known: Layout, remedy: str, name: str, found: ImagePair, reading: Reading | None) -> Looked:
    """Read one image and its mask, and check them. remedy: the advice for a value without a class; "": the usual."""
    root = Path(data.root)
    changed: Mapping[str, int] = {}
    try:
        if reading:
            image, _, notes, changed = read_photo(root / found.image, reading)
        else:
            image, notes = read_image(root / found.image)
    except StppError as error:
        return Looked(None, [str(error)])
    height, width = image.shape[:2]
    mask_hash = ""
    classes: tuple[int, ...] = ()
    shown: MaskColours = {}
    if found.mask:
        path = root / found.mask
        try:
            values = read_mask(path, known.values, data.variable or "")
            to_classes(values, known.values)
            shown = shown_in(path, values_in(values), known.values)
        except KeyError:
            unknown, count = counts_in(values, known.values)
            of_colours = unknown if by_colour(known.values) and count <= MOST_COLOURS else {}
            return Looked(None, [f"{path}: {_unknown(unknown, count, known, remedy)}"], colours=of_colours)
        except MaskOfColoursError as error:
            return Looked(None, [str(error)], colours=error.pixels)
        except StppError as error:
            return Looked(None, [str(error)])
        if values.shape != (height, width):
            size = f"{values.shape[1]} x {values.shape[0]}"
            return Looked(None, [f"{path}: {size} pixels, but its image has {width} x {height}; make them equal"])
        mask_hash = sha256(path)
        classes = tuple(sorted({known.values[value] for value in shown} - {IGNORE}))
    image_hash = sha256(root / found.image)
    record = Record(name, found.image, found.mask, width, height, image_hash, mask_hash, classes)
    return Looked(record, [], notes, shown, changed)


def _unknown(pixels: Mapping[int, int], count: int, known: Layout, remedy: str) -> str:
    """Return the problem of a mask with `count` values or colours that have no meaning.

    pixels: the number of pixels of the most frequent ones. remedy: as for `_look`.
    """
    name = value_name if by_colour(known.values) else str
    listed = [f"{name(value)} ({number} pixels)" for value, number in pixels.items()][:LISTED]
    more = f" and {count - len(listed)} more" if count > len(listed) else ""
    one, example = count == 1, name(next(iter(pixels)))
    found, them = f"{'' if one else 's'} {', '.join(listed)}{more}", "it" if one else "them"
    if example.startswith("#"):
        soft = "; if they are soft edges, export the masks without antialiasing" if more else ""
        return f'colour{found}: not in data.values; add {them} there (`"{example}": ignore`, or a class){soft}'
    soft = f"; if they are soft edges, read them by ranges: {RANGES}" if len(pixels) > 8 and max(pixels) < 256 else ""
    binary = "`255: 1` for binary masks, or `255: ignore`" if {*pixels} == {IGNORE} else ""
    add = f"add {them} to data.values ({binary or f'`{example}: ignore`, or a class id'}){soft}"
    return f"value{found} {'is not one' if one else 'are not'} of the {len(known.classes)} classes; {remedy or add}"


def _section(pixels: Counter[int], masks: int, data: Data) -> list[str]:
    """Return a note that holds the colours without a meaning as a section to paste, if there are any.

    pixels: the number of pixels of each colour. masks: how many masks hold them.
    """
    if not pixels or data.kind != "folder":
        return []
    top = pixels.most_common(TO_PASTE)
    section = ", ".join(f'"{value_name(value)}": CLASS' for value, _ in top)
    shares = ", ".join(f"{100 * count / pixels.total():.1f}" for _, count in top)
    more = f"; {len(pixels) - len(top)} further colours are left out" if len(pixels) > len(top) else ""
    return [
        f"colours without a meaning in {masks} mask(s); to paste into data.values, with a class or `ignore` for each "
        f"CLASS: {{{section}}}; percent of their pixels, in this order: {shares}{more}"
    ]


def _twice(dataset: Dataset, root: Path) -> list[str]:
    """Return a problem for every image whose bytes equal those of an earlier one; it says which of both has a mask."""
    twice = repeated_hashes(record.image_sha256 for record in dataset.records.values())
    first: dict[str, Record] = {}
    problems = []
    for record in dataset.records.values() if twice else ():
        if hash(record.image_sha256) in twice:
            other = first.setdefault(record.image_sha256, record)
            if other.image != record.image:
                which = {(True, True): "both have", (True, False): "this one alone has", (False, True): "that one has"}
                masks = which.get((bool(record.mask), bool(other.mask)), "neither has")
                same = f"the same image as {quoted(f'{root / other.image}')}; {masks} a mask"
                problems.append(f"{root / record.image}: {same}: remove one, or leave it out with data.exclude")
    return problems


def _absent(occurring: set[int], values: set[int], masks: int, known: Layout, data: Data, all_read: bool) -> list[str]:
    """Return a problem for every class without a pixel in any mask, or one problem if there are no masks.

    occurring, values: class ids and values in the masks. masks: the number of masks. all_read: no file had a problem.
    """
    if not masks:
        remedy = "some are needed for training and validation: check data.masks"
        return [f"no image has a mask; {remedy}"] if all_read else []
    where = "mask" if all_read else "valid mask"
    absent = [
        f"class {label} ({c}) has no pixel in any {where}; check data.classes and data.values"
        for c, label in enumerate(known.classes)
        if c not in occurring
    ]
    if absent and values <= {0, 255} and known.values.get(255) == IGNORE and data.kind == "folder":
        found = "0 and 255" if 0 in values else "255"
        what = f"masks contain only {found}, and 255 is read as `ignore`"
        return [f"{what}; for binary masks set data.values: {{255: 1}} and data.ignore: null"]
    return absent
