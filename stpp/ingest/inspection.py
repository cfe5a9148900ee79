"""Inspection of a data set: read every image and mask once, record what is there and collect all problems."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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


@dataclass
class _Found:
    """What was found in all images so far."""

    problems: list[str]
    palettes: PaletteCheck
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Note -> the number of images with it, and the id of the first one."""
    changed: Counter[str] = field(default_factory=Counter)
    classes: set[int] = field(default_factory=set)
    masks: int = 0
    colours: Counter[int] = field(default_factory=Counter)
    of_colours: int = 0
    """The number of masks with such colours."""

    def add(self, looked: Looked, more: Sequence[str] = ()) -> None:
        """Count the result of an image. more: notes about it besides its own."""
        self.problems.extend(looked.problems)
        self.of_colours += bool(looked.colours)
        self.colours.update(looked.colours if len(self.colours) < MOST else {})
        record = looked.record
        if record is None:
            return
        for note in (*looked.notes, *more, *looked.changed):
            count, first = self.notes.get(note, (0, record.id))
            self.notes[note] = count + 1, first
        self.changed.update(looked.changed)
        self.classes.update(record.classes)
        self.problems.extend(self.palettes.compared(record.mask, looked.shown))
        self.masks += bool(record.mask)

    def warnings(self) -> list[str]:
        return [
            f"{f'{self.changed[note]} ' if note in self.changed else ''}{note}: {count} image(s), such as {first}"
            for note, (count, first) in sorted(self.notes.items())
        ]


def inspect(data: Data, workers: int, cache_folder: Path | None = None) -> tuple[Dataset, list[str], list[str]]:
    """Read every image and mask of a data set; return the data set, warnings and problems.

    With `data.annotations` no mask is read: a record names the annotation file if each image or folder has its own.
    With mask files for each class none is read, too.

    Warnings tell what is handled (grey-scale images, EXIF orientation, files passed over ...). Problems must be fixed
    by the user. workers: threads that read files. cache_folder: where `stpp.ingest.inspection_cache` keeps the results
    of unchanged files; None: read all files. Raises StppError if the data set cannot be listed.
    """
    known = layout(data)
    pairs, problems, passed = list_images(data, known)
    root = Path(data.root)
    found = _Found(problems, PaletteCheck(known, root))
    of_classes = isinstance(data.masks, dict)
    plain = data.annotations is None and not of_classes
    with_masks = any(pair.mask for pair in pairs.values())
    measured = (root / pair.image for pair in pairs.values() if pair.mask or not with_masks)
    reading, of_reading = reading_of(data, measured, workers)

    def rows() -> Iterator[tuple[Any, ...]]:
        looked = _look_at_all(data, known, pairs, plain, reading, workers, cache_folder)
        for one in progress(looked, "prepare", len(pairs)):
            record = one.record
            listed = record is not None and of_classes and pairs[record.id].mask
            found.add(one, ["the mask in data.list is not used: see data.masks"] if listed else [])
            if record is not None:
                yield as_row(replace(record, mask=pairs[record.id].mask) if data.annotations else record)

    dataset = Dataset(
        *(data.name, known.classes, known.palette, known.values),
        MappedTable(MappedRows.spooled(rows()), record_of),
        variable=data.variable or "",
        reading=reading,
    )
    problems += _twice(dataset, root)
    if plain:
        problems += _absent(found.classes, found.palettes.values, found.masks, known, data, all_read=not problems)
    warnings = [*passed, *of_reading, *found.warnings(), *_section(found.colours, found.of_colours, data)]
    return dataset, warnings, problems


def _look_at_all(
    data: Data,
    known: Layout,
    pairs: Mapping[str, ImagePair],
    masks: bool,
    reading: Reading | None,
    workers: int,
    cache_folder: Path | None,
) -> Iterator[Looked]:
    """Yield the result of every image in order; from the cache if its files are unchanged. masks: look at them, too."""
    root = Path(data.root)
    about: list[Any] = [len(known.classes), sorted(known.values.items()), data.variable]
    about += [as_json(reading)] if reading else []

    def states_of(one: ImagePair) -> States:
        return state_of(root / one.image), state_of(root / one.mask) if one.mask else ""

    def look(item: tuple[str, ImagePair, States, Inspected | None]) -> tuple[Looked, States | None]:
        name, one, states, before = item
        if before:
            return Looked(before[0], [], *before[1:]), states
        start = time.time_ns()
        looked = _look(data, known, name, one, reading)
        return looked, states if states == states_of(one) and old_enough(states, start) else None

    with InspectionCache(cache_folder, root, about) as cache:

        def items() -> Iterator[tuple[str, ImagePair, States, Inspected | None]]:
            for name, pair in pairs.items():
                one = pair if masks else replace(pair, mask="")
                states = states_of(one)
                yield name, one, states, cache.get(name, one.image, one.mask, states)

        for looked, states in ordered_map(look, items(), workers):
            if states and looked.record:
                cache.put((looked.record, looked.notes, looked.shown, looked.changed), states)
            yield looked


def _look(data: Data, known: Layout, name: str, found: ImagePair, reading: Reading | None) -> Looked:
    """Read one image and its mask, and check them."""
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
            return Looked(None, [f"{path}: {_unknown(unknown, count, known, data)}"], colours=of_colours)
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


def _unknown(pixels: Mapping[int, int], count: int, known: Layout, data: Data) -> str:
    """Return the problem of a mask with `count` values or colours that have no meaning.

    pixels: the number of pixels of the most frequent ones.
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
    remedy = f"add {them} to data.values ({binary or f'`{example}: ignore`, or a class id'}){soft}"
    if data.kind != "folder":
        remedy = f"the values of kind {data.kind} are fixed: correct the mask, or use data.kind: folder and data.values"
    return f"value{found} {'is not one' if one else 'are not'} of the {len(known.classes)} classes; {remedy}"


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
