"""Listing of a data set's images and masks: by a layout known by name, by the user's patterns, or by a list."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from pkgutil import resolve_name

from stpp.ingest import toy
from stpp.ingest.layouts import LAYOUTS
from stpp.ingest.names import READ, UNREAD, ending, is_stray
from stpp.params.models import Data
from stpp.store.files import ID, StppError, printable, read_text
from stpp.store.manifest import Rgb
from stpp.store.masks import IGNORE
from stpp.store.packed import MappedRows, MappedTable, RowWriter

LINK = "a symbolic link, which DVC does not follow; copy the folder, or set data.root to the link's target"


@dataclass(frozen=True)
class Layout:
    """How a data set names its files and classes, and what its mask values mean.

    images: the pattern of image paths below the data set's root, such as `{set}/{name}.jpg`. palette: a colour for each
    class.
    """

    images: str
    masks: tuple[str, ...]
    """Patterns of mask paths; the first path that exists is the image's mask."""
    classes: tuple[str, ...]
    palette: tuple[Rgb, ...]
    values: dict[int, int]
    """Mask value -> class id or 255."""
    colours_known: bool = True
    """Whether `palette` also holds the colours of the mask files; if not, it was chosen for figures only."""
    others: bool = False
    """Whether the data set is expected to hold other files, such as bounding boxes and lists."""


@dataclass(frozen=True)
class ImagePair:
    """The paths of an image and its mask below the data set's root; the mask is empty if there is none."""

    image: str
    mask: str


def _own(classes: int, ignore: int | None = IGNORE) -> dict[int, int]:
    """Return the mapping in which each mask value is its own class id and `ignore`, if not None, means 255."""
    return {i: i for i in range(classes)} | ({} if ignore is None else {ignore: IGNORE})


def voc_palette(classes: int) -> tuple[Rgb, ...]:
    """Return the colours of Pascal VOC: the bits of a class id are spread over red, green and blue."""
    colours = []
    for index in range(classes):
        r = g = b = 0
        for bit in range(8):
            value = index >> (3 * bit)
            r |= (value & 1) << (7 - bit)
            g |= (value >> 1 & 1) << (7 - bit)
            b |= (value >> 2 & 1) << (7 - bit)
        colours.append((r, g, b))
    return tuple(colours)


PASCAL = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]

# name: (value in *_labelIds.png, colour), in the order of trainIds
CITYSCAPES: dict[str, tuple[int, Rgb]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}


def toy_layout(data: Data) -> Layout:
    """Return the layout of the embedded data set."""
    values = _own(len(toy.CLASSES))
    return Layout("images/{name}.png", ("masks/{name}.png",), toy.CLASSES, toy.PALETTE, values, others=True)


def pascal(data: Data) -> Layout:
    """Return the layout of Pascal VOC 2012 with its own masks and those of SBD."""
    # If an image has a mask in VOC, SBD's mask of it is not used.
    masks = ("SegmentationClass/{name}.png", "SegmentationClassAug/{name}.png")
    return Layout("JPEGImages/{name}.jpg", masks, tuple(PASCAL), voc_palette(21), _own(21), others=True)


def cityscapes(data: Data) -> Layout:
    """Return the layout of Cityscapes: all masks are labelIds if the root has any of these, else trainIds."""
    root = Path(data.root)
    of_labels = "gtFine/{set}/{city}/{name}_gtFine_labelIds.png"
    of_train = "gtFine/{set}/{city}/{name}_gtFine_labelTrainIds.png"
    palette = tuple(colour for _, colour in CITYSCAPES.values())
    if next(root.glob("gtFine/*/*/*_gtFine_labelIds.png"), None) is not None:
        # 0..33 are defined, and -1 (licence plate) is stored as 255. All but the values of the 19 classes are ignored.
        values = dict.fromkeys([*range(34), 255], IGNORE)
        values |= {value: i for i, (value, _) in enumerate(CITYSCAPES.values())}
        masks = of_labels
    else:
        values, masks = _own(19), of_train
    images = "leftImg8bit/{set}/{city}/{name}_leftImg8bit.png"
    return Layout(images, (masks,), tuple(CITYSCAPES), palette, values, others=True)


def folder(data: Data) -> Layout:
    """Return the layout that params.yaml describes. Raises StppError if `data.ignore` is also the id of a class."""
    classes = data.classes or ()
    values = _own(len(classes), data.ignore)
    if data.ignore is not None and data.ignore < len(classes):
        raise StppError(
            f"data.ignore: {data.ignore} is also the id of class {classes[data.ignore]}; "
            "if no mask value is to be ignored, set it to null"
        )
    for value, meaning in (data.values or {}).items():
        values[int(value)] = IGNORE if meaning == "ignore" else meaning
    palette = data.palette or voc_palette(len(classes))
    masks = (data.masks,) if data.masks else ()
    return Layout(data.images or "", masks, classes, palette, values, colours_known=data.palette is not None)


def layout(data: Data) -> Layout:
    """Return the layout for `data.kind`."""
    found: Layout = resolve_name(LAYOUTS[data.kind])(data)
    return found


def list_images(data: Data, known: Layout) -> tuple[MappedTable[ImagePair], list[str], list[str]]:
    """List all images of a data set; return them by id in ascending order, problems, and notes on files passed over.

    With a pattern, an id joins the values of the placeholders: `{set}/{name}.jpg` gives `train/0001` (`{ext}` is left
    out). With a list only, the id is the image's path without its suffix. With both, the list selects from the images
    that the pattern finds. Raises StppError if data.root is no folder, or if a pattern or the list cannot be used.
    """
    root = Path(data.root)
    if not root.is_dir():
        raise StppError(f"data.root: {data.root} is not a folder; is the path right, and is the data there?")
    problems: list[str] = []
    others = PassedOver(known, {"imported.json", *([data.list] if data.list else [])})
    pairs = _matched(root, known, others, problems) if known.images else []
    if data.list:
        pairs = _listed(root, data.list, pairs if known.images else None, problems)

    def named() -> Iterator[Sequence[str]]:
        for name, image, mask in pairs:
            if ID.match(name) and image.isprintable() and mask.isprintable():
                yield name, image, mask
            else:
                what = f"`{name}` cannot be an id: rename it without spaces, commas or quotes"
                problems.append(f"{root / image}: {what}")

    def once(rows: MappedRows) -> Iterator[Sequence[str]]:
        before = ["", "", ""]
        for row in rows:
            if row[0] != before[0]:
                before = row
                yield row
            elif row[1] == before[1]:
                problems.append(f"{root / row[1]}: listed twice in {data.list}; remove one line")
            else:
                problems.append(f"{root / row[1]}: has the same id {row[0]} as {root / before[1]}; rename one")

    found = MappedRows.spooled(named()).ordered()
    if any(one == other for one, other in pairwise(found.keys())):
        found = MappedRows.spooled(once(found))
    if not len(pairs) and not problems:
        where = f"the list {data.list}" if data.list else f"the pattern {known.images}"
        problems.append(f"{root}: no image found with {where}; compare it with the file names there")
    return MappedTable(found, _found), problems, others.said()


def _found(row: list[str]) -> ImagePair:
    return ImagePair(*row[1:])


def mask_of(image: str, known: Layout) -> str:
    """Return the path below the root where the mask of an image belongs, whether or not it exists.

    Raises StppError if there is no pattern for masks, or if the image does not match the pattern for images.
    """
    match = _compile(known.images, "data.images")[0].fullmatch(image) if known.images and known.masks else None
    if match is None:
        raise StppError(f"{image}: no pattern for the path of its mask; set data.images and data.masks")
    return _fill(known.masks[0], match.groupdict())


class PassedOver:
    """Counts of the files that the listing passes over, by folder and by ending.

    The memory it takes is bounded: it keeps FOLDERS folders by name, and EXAMPLES file names of each.
    """

    FOLDERS, EXAMPLES = 10, 3

    def __init__(self, known: Layout, ours: set[str]) -> None:
        """ours: paths of the project's own files in the data set, which are never reported."""
        self._known, self._ours = known, ours
        self._inside = _before_names(known.images) if known.others else ""
        stem, dot, ending_ = known.images.rpartition(".")
        self._wider = f"{stem}.{{ext}}" if dot and "{" not in ending_ and "{ext}" not in stem else ""
        self._of_any_kind = _compile(self._wider, "data.images")[0] if self._wider else None
        self._found: dict[tuple[str, str], tuple[list[int], list[str], list[bool]]] = {}
        self._kinds: Counter[str] = Counter()
        self._strays = 0
        self._stray = ""

    def stray(self, path: str) -> None:
        """Count a hidden file or folder, or one that an operating system leaves behind."""
        self._strays += 1
        self._stray = self._stray or path

    def unmatched(self, path: str) -> None:
        """Count a file that no pattern matches."""
        if path in self._ours or not path.startswith(self._inside):
            return
        if ending(path) in (*READ, *UNREAD):
            likely = self._of_any_kind is not None and self._of_any_kind.fullmatch(path) is not None
            self._add("match no pattern", path, likely)
        elif not self._known.others:
            self._kinds[ending(path) or "no ending"] += 1

    def orphan(self, path: str) -> None:
        """Count a file that is named as a mask but belongs to no image."""
        self._add("are named like masks, but belong to no image", path, False)

    def _add(self, what: str, path: str, likely: bool) -> None:
        folder, _, name = path.rpartition("/")
        key = (what, folder)
        if key not in self._found and len(self._found) >= self.FOLDERS:
            key = (what, "*")
        count, examples, hints = self._found.setdefault(key, ([0], [], []))
        count[0] += 1
        if len(examples) < self.EXAMPLES:
            examples.append(name if key[1] != "*" else path)
        if likely and not hints:
            hints.append(True)

    def said(self) -> list[str]:
        """Return the notes for the user: one for each folder and reason, one for other files, one for stray files."""
        said = []
        for (what, folder), ((count,), examples, hints) in sorted(self._found.items()):
            where = {"": "data.root", "*": "other folders"}.get(folder, f"{folder}/")
            remedy = f"; did you mean data.images: {self._wider}?" if hints else ""
            said.append(f"{count} file(s) in {where} {what}, such as {', '.join(examples)}{remedy}")
        if self._kinds:
            kinds = [f"{count} {kind}" for kind, count in self._kinds.most_common(5)]
            more = "" if len(self._kinds) <= len(kinds) else ", ..."
            said.append(f"{self._kinds.total()} file(s) without the extension of an image ({', '.join(kinds)}{more})")
        if self._strays:
            said.append(f"{self._strays} hidden file(s) or folder(s), or system files, such as {self._stray}")
        return [printable(f"skipped: {line}") for line in said]


def _before_names(pattern: str) -> str:
    """Return the folders at the start of a pattern that hold no placeholder."""
    return pattern[: pattern.find("{")].rpartition("/")[0]


def _matched(root: Path, known: Layout, others: PassedOver, problems: list[str]) -> Sequence[Sequence[str]]:
    """Return id, image and mask of every image that the patterns find, in the order of folders and names.

    Broken links become problems. Raises StppError for a pattern that leads out of the root, has no placeholder, or
    is for masks and has a placeholder that the images' pattern lacks.
    """
    pattern, names = _compile(known.images, "data.images")
    _inside(known.images, "data.images")
    of_masks = []
    for masks in known.masks:
        _inside(masks, "data.masks")
        of_mask, parts = _compile(masks, "data.masks")
        if unknown := set(parts) - set(names):
            raise StppError(f"data.masks: {{{unknown.pop()}}} does not occur in the images' pattern {known.images}")
        of_masks.append((masks, of_mask))
    hidden_meant = any(part.startswith(".") for one in (known.images, *known.masks) for part in one.split("/"))
    masks_too: set[str] = set()
    named = _Masks()
    doubtful = False

    def images() -> Iterator[Sequence[str]]:
        nonlocal doubtful
        for image in _files(root, None if hidden_meant else others.stray):
            match = pattern.fullmatch(image)
            as_mask = next((of for of in of_masks if of[1].fullmatch(image)), None)
            if as_mask:
                named.add(image, as_mask[0])
            if not match:
                if not as_mask:
                    others.unmatched(image)
                continue
            if not os.path.isfile(f"{root}/{image}"):  # noqa: PTH113 - a Path costs more than the check
                problems.append(f"{root}/{image}: a broken link; restore its target, or remove it")
                continue
            parts = match.groupdict()
            candidates = (_fill(m, parts) for m in known.masks)
            mask = next((m for m in candidates if os.path.isfile(f"{root}/{m}")), "")  # noqa: PTH113
            # `{set}/{name}.png` also matches the mask `trainannot/1.png`. The mask of an image is not an image itself.
            if mask and pattern.fullmatch(mask):
                masks_too.add(mask)
            doubtful = doubtful or as_mask is not None
            yield "/".join(parts[n] for n in names if n != "ext"), image, mask

    def settled(pairs: MappedRows) -> Iterator[Sequence[str]]:
        """Add masks whose endings differ from the pattern in case, and drop the images that are masks themselves.

        A file that also matches a pattern for masks stays only if it has another file as its mask and is no mask of
        an image.
        """
        spelled = named.spelled()
        for name, image, plainly in pairs:
            mask = plainly
            if spelled and not mask:
                parts = pattern.fullmatch(image).groupdict()  # type: ignore[union-attr]
                mask = next(filter(None, (spelled.get(_fill(m, parts)) for m in known.masks)), "")
            of_image = image not in masks_too and mask not in ("", image)
            if of_image or not any(of.fullmatch(image) for _, of in of_masks):
                yield name, image, mask

    pairs = MappedRows.spooled(images())
    if doubtful or named.spelled_otherwise:
        pairs = MappedRows.spooled(settled(pairs))
    for mask in named.without(row[2] for row in pairs if row[2]):
        others.orphan(mask)
    return pairs


class _Masks:
    """The files that match a pattern for masks, kept on disk: there may be as many masks as images."""

    def __init__(self) -> None:
        self._spool = RowWriter()
        self._otherwise = RowWriter()
        self.spelled_otherwise = 0

    def add(self, path: str, pattern: str) -> None:
        """Add a file and the pattern that it matches."""
        self._spool.add([path, ""])
        _, dot, written = pattern.rpartition(".")
        if dot and "}" not in written and not path.endswith(f".{written}"):
            self.spelled_otherwise += 1
            self._otherwise.add([f"{path[: -len(written)]}{written}", path])

    def spelled(self) -> MappedTable[str] | None:
        """Return the files whose endings differ from the pattern in case, by their name with the pattern's ending.

        Returns None if there are no such files.
        """
        rows = self._otherwise.rows().ordered()
        first = (row for at, row in enumerate(rows) if not at or rows.key(at - 1) != rows.key(at))
        return MappedTable(MappedRows.spooled(first), itemgetter(1)) if len(rows) else None

    def without(self, used: Iterable[str]) -> Iterator[str]:
        """Yield the files that are not among `used`."""
        there, taken = self._spool.rows().ordered(), MappedRows.spooled([one, ""] for one in used).ordered()
        keys = taken.keys()
        key = next(keys, None)
        for row, own in zip(there, there.keys(), strict=True):
            while key is not None and key < own:
                key = next(keys, None)
            if key != own:
                yield row[0]


def _files(root: Path, stray: Callable[[str], None] | None = None) -> Iterator[str]:
    """Yield the relative paths of all files below `root`, folder by folder, each folder's files sorted by name.

    stray: called with every stray file or folder (see `stpp.ingest.names`), which is then not yielded; None: yield
    these files, too. Raises StppError for a link to a folder, and for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise StppError(f"{error.filename}: not readable: {error.strerror}") from None

    for folder, folders, files in os.walk(root, onerror=refuse):
        inside = folder.removeprefix(str(root)).strip("/")
        inside = f"{inside}/" if inside else ""
        if stray:
            for name in filter(is_stray, folders):
                stray(f"{inside}{name}")
            folders[:] = [name for name in folders if not is_stray(name)]
        for link in (Path(folder) / name for name in folders if (Path(folder) / name).is_symlink()):
            raise StppError(f"{link}: {LINK}")
        folders.sort()
        for file in sorted(files):
            if stray and is_stray(file):
                stray(f"{inside}{file}")
            else:
                yield f"{inside}{file}"


def _compile(pattern: str, key: str) -> tuple[re.Pattern[str], list[str]]:
    """Compile a path pattern; return a regex with a group for each placeholder, and the placeholders' names.

    The regex ignores the case of the file ending. key: the parameter to name in errors. Raises StppError for a pattern
    without a placeholder, or with a placeholder that is no name.
    """
    names = re.findall(r"\{(\w+)\}", pattern)
    odd = [name for name in names if not name.isidentifier()]
    if odd or not names:
        what = f"holds {{{odd[0]}}}, which is not a valid name" if odd else "matches only one file"
        raise StppError(f"{key}: {pattern} {what}; use a placeholder such as {{name}} for the part that changes")
    regex, seen = "", set()
    for literal, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", pattern):
        regex += re.escape(literal)
        if name:
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
    if literal_ending := re.search(r"\\\.[A-Za-z0-9]+\Z", regex):
        regex = f"{regex[: literal_ending.start()]}(?i:{literal_ending[0]})"
    return re.compile(regex), list(dict.fromkeys(names))


def _fill(pattern: str, parts: dict[str, str]) -> str:
    """Return the pattern with the values of its placeholders."""
    return re.sub(r"\{(\w+)\}", lambda m: parts[m[1]], pattern)


def _listed(
    root: Path, name: str, matched: Sequence[Sequence[str]] | None, problems: list[str]
) -> Sequence[Sequence[str]]:
    """Return id, image and mask for every valid line of a list; the other lines become problems.

    matched: id, image and mask of what the patterns find; None if there are no patterns. Raises StppError if the list
    cannot be read.
    """
    path = root / name
    _inside(name, "data.list")
    try:
        lines = read_text(path, encoding="utf-8-sig").splitlines()
    except StppError as error:
        raise StppError(f"data.list: {error}") from None
    except (OSError, ValueError) as error:
        raise StppError(f"data.list: {path}: not readable: {error}") from None

    @cache
    def linked(folder: str) -> str:
        """Return the first folder of a path below the root that is a link, or an empty text."""
        above = folder.rpartition("/")[0]
        return (linked(above) if above else "") or (folder if folder and (root / folder).is_symlink() else "")

    words = {line.split()[0] for line in lines if line.strip()}
    known = {key: pair for pair in matched or () for key in pair[:2] if key in words}
    pairs = []
    for number, line in enumerate(lines, 1):
        columns = line.split()
        if not columns:
            continue
        first, mask = columns[0], columns[1] if len(columns) == 2 else ""
        if len(columns) > 2:
            problems.append(
                f"{path}:{number}: expected an image, or an image and a mask, without spaces in their names"
            )
        elif any(_leads_out(column) for column in columns):
            problems.append(f"{path}:{number}: points outside data.root; give a path below it")
        elif link := next(filter(None, (linked(os.path.dirname(column)) for column in columns)), ""):  # noqa: PTH120
            problems.append(f"{root / link}: {LINK}")
        elif first in known:
            id_, image, own = known[first]
            pairs.append((id_, image, mask or own))
        elif matched is not None:
            problems.append(f"{path}:{number}: {first} is neither an id nor an image that data.images finds")
        elif not Path(first).suffix:
            problems.append(f"{path}:{number}: {first} is not the path of an image; to list ids, set data.images too")
        else:
            pairs.append((str(Path(first).with_suffix("")), first, mask))
    return pairs


def _leads_out(name: str) -> bool:
    """Return whether a path can lead out of its root: it is absolute, holds `..`, or is empty."""
    return Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name


def _inside(name: str, where: str) -> None:
    """Raise StppError, naming the parameter `where`, if a path leads out of the root."""
    if _leads_out(name):
        raise StppError(f"{where}: {name} points outside data.root; give a path below it")
