"""Which images a data set has: the layouts known by name, and any other by patterns or a list."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stpp.data import toy
from stpp.files import ID, StppError, read_text
from stpp.manifest import Rgb
from stpp.packed import Rows, Table
from stpp.params import IGNORE, Data


@dataclass(frozen=True)
class Layout:
    """How a data set names its files and its classes."""

    images: str
    masks: tuple[str, ...]
    """Patterns of mask paths, the first that exists is taken."""
    classes: tuple[str, ...]
    palette: tuple[Rgb, ...]
    values: dict[int, int]
    """Mask value -> class id or 255."""


@dataclass(frozen=True)
class Found:
    """Paths of an image and its mask below the data set's root; the mask is empty where there is none."""

    image: str
    mask: str


def _own(classes: int, ignore: int | None = IGNORE) -> dict[int, int]:
    """Values that mean themselves, and one to ignore."""
    return {i: i for i in range(classes)} | ({} if ignore is None else {ignore: IGNORE})


def voc_palette(classes: int) -> tuple[Rgb, ...]:
    """The colours of Pascal VOC: the bits of the class id spread over red, green and blue."""
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


def _toy(data: Data) -> Layout:
    return Layout("images/{name}.png", ("masks/{name}.png",), toy.CLASSES, toy.PALETTE, _own(len(toy.CLASSES)))


def _pascal(data: Data) -> Layout:
    # Where VOC has a mask of its own, SBD's of the same image is not used.
    masks = ("SegmentationClass/{name}.png", "SegmentationClassAug/{name}.png")
    return Layout("JPEGImages/{name}.jpg", masks, tuple(PASCAL), voc_palette(21), _own(21))


def _cityscapes(data: Data) -> Layout:
    """labelIds where they are, else trainIds; which of the two a root holds is one fact for all its masks."""
    root = Path(data.root)
    of_labels = "gtFine/{set}/{city}/{name}_gtFine_labelIds.png"
    of_train = "gtFine/{set}/{city}/{name}_gtFine_labelTrainIds.png"
    palette = tuple(colour for _, colour in CITYSCAPES.values())
    if next(root.glob("gtFine/*/*/*_gtFine_labelIds.png"), None) is not None:
        # 0..33 are defined, -1 (licence plate) is stored as 255; all but the 19 are ignored.
        values = dict.fromkeys([*range(34), 255], IGNORE)
        values |= {value: i for i, (value, _) in enumerate(CITYSCAPES.values())}
        masks = of_labels
    else:
        values, masks = _own(19), of_train
    return Layout("leftImg8bit/{set}/{city}/{name}_leftImg8bit.png", (masks,), tuple(CITYSCAPES), palette, values)


def _folder(data: Data) -> Layout:
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
    return Layout(data.images or "", (data.masks,) if data.masks else (), classes, palette, values)


LAYOUTS: dict[str, Callable[[Data], Layout]] = {
    "toy": _toy,
    "pascal": _pascal,
    "cityscapes": _cityscapes,
    "folder": _folder,
}


def layout(data: Data) -> Layout:
    return LAYOUTS[data.kind](data)


def discover(data: Data, known: Layout) -> tuple[Table[Found], list[str]]:
    """Every image by id, in the order of ids, and the problems found on the way.

    By patterns, an id joins the parts that the placeholders stand for: `{set}/{name}.jpg` makes `train/0001`
    (`{ext}` is left out). By a list alone, it is the image's path without its suffix; with a pattern, a list picks
    from what the pattern finds.
    """
    root = Path(data.root)
    if not root.is_dir():
        raise StppError(f"data.root: {data.root} is no folder; is the path right, and is the data there?")
    problems: list[str] = []
    pairs = _matched(root, known) if known.images else []
    if data.list:
        pairs = _listed(root, data.list, pairs if known.images else None, problems)

    def named() -> Iterator[Sequence[str]]:
        for name, image, mask in pairs:
            if ID.match(name) and image.isprintable() and mask.isprintable():
                yield name, image, mask
            else:
                what = f"`{name}` cannot be an id: rename it without spaces, commas and quotes"
                problems.append(f"{root / image}: {what}")

    def once(rows: Rows) -> Iterator[Sequence[str]]:
        before = ["", "", ""]
        for row in rows:
            if row[0] != before[0]:
                before = row
                yield row
            elif row[1] == before[1]:
                problems.append(f"{root / row[1]}: listed twice in {data.list}; remove one line")
            else:
                problems.append(f"{root / row[1]}: id {row[0]} stands also for {root / before[1]}: rename one")

    found = Rows.spooled(named()).ordered()
    if any(one == other for one, other in pairwise(found.keys())):
        found = Rows.spooled(once(found))
    if not len(pairs) and not problems:
        where = f"the list {data.list}" if data.list else f"the pattern {known.images}"
        problems.append(f"{root}: no image found by {where}; compare it with the names of the files there")
    return Table(found, _found), problems


def _found(row: list[str]) -> Found:
    return Found(*row[1:])


def mask_of(image: str, known: Layout) -> str:
    """The path below the root that the mask of an image has, or would have. Raises StppError if no pattern says it."""
    match = _compile(known.images, "data.images")[0].fullmatch(image) if known.images and known.masks else None
    if match is None:
        raise StppError(f"{image}: no pattern says where its mask belongs; set data.images and data.masks")
    return _fill(known.masks[0], match.groupdict())


def _matched(root: Path, known: Layout) -> Sequence[Sequence[str]]:
    """Id, image and mask of every image that is there, in the order of its folders and names."""
    pattern, names = _compile(known.images, "data.images")
    _inside(known.images, "data.images")
    for masks in known.masks:
        _inside(masks, "data.masks")
        _compile(masks, "data.masks")
        unknown = set(re.findall(r"\{(\w+)\}", masks)) - set(names)
        if unknown:
            raise StppError(f"data.masks: {{{unknown.pop()}}} does not occur in the images' pattern {known.images}")
    masks_too: set[str] = set()

    def images() -> Iterator[Sequence[str]]:
        for image in _files(root):
            match = pattern.fullmatch(image)
            if not match or not os.path.isfile(f"{root}/{image}"):  # noqa: PTH113 - a Path costs more than the look
                continue
            parts = match.groupdict()
            candidates = (_fill(m, parts) for m in known.masks)
            mask = next((m for m in candidates if os.path.isfile(f"{root}/{m}")), "")  # noqa: PTH113
            # `{set}/{name}.png` matches `trainannot/1.png`, too: what is a mask of an image is no image.
            if mask and pattern.fullmatch(mask):
                masks_too.add(mask)
            yield "/".join(parts[n] for n in names if n != "ext"), image, mask

    pairs = Rows.spooled(images())
    return Rows.spooled(pair for pair in pairs if pair[1] not in masks_too) if masks_too else pairs


def _files(root: Path) -> Iterator[str]:
    """Files below a folder by relative names, folder by folder. Raises StppError at a link to a folder."""
    for folder, folders, files in os.walk(root):
        inside = folder.removeprefix(str(root)).strip("/")
        inside = f"{inside}/" if inside else ""
        for link in (Path(folder) / name for name in folders if (Path(folder) / name).is_symlink()):
            raise StppError(
                f"{link}: a link, behind which DVC does not look; copy the folder, or make data.root its target"
            )
        folders.sort()
        yield from (f"{inside}{file}" for file in sorted(files))


def _compile(pattern: str, key: str) -> tuple[re.Pattern[str], list[str]]:
    names = re.findall(r"\{(\w+)\}", pattern)
    odd = [name for name in names if not name.isidentifier()]
    if odd or not names:
        what = f"holds {{{odd[0]}}}, which is no name" if odd else "names one file only"
        raise StppError(f"{key}: {pattern} {what}; put a placeholder for the part that changes: {{name}}")
    regex, seen = "", set()
    for literal, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", pattern):
        regex += re.escape(literal)
        if name:
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
    return re.compile(regex), list(dict.fromkeys(names))


def _fill(pattern: str, parts: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: parts[m[1]], pattern)


def _listed(
    root: Path, name: str, matched: Sequence[Sequence[str]] | None, problems: list[str]
) -> Sequence[Sequence[str]]:
    """Id, image and mask of every line that is right; the others become problems.

    matched: what the patterns find, where there are any.
    """
    path = root / name
    _inside(name, "data.list")
    try:
        lines = read_text(path, encoding="utf-8-sig").splitlines()
    except StppError as error:
        raise StppError(f"data.list: {error}") from None
    except (OSError, ValueError) as error:
        raise StppError(f"data.list: {path}: not readable: {error}") from None
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
            problems.append(f"{path}:{number}: leads out of data.root; give paths below it")
        elif first in known:
            id_, image, own = known[first]
            pairs.append((id_, image, mask or own))
        elif matched is not None:
            problems.append(f"{path}:{number}: {first} is neither an id nor an image that data.images finds")
        elif not Path(first).suffix:
            problems.append(f"{path}:{number}: {first} is no image's path; for ids, give data.images, too")
        else:
            pairs.append((str(Path(first).with_suffix("")), first, mask))
    return pairs


def _leads_out(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name


def _inside(name: str, where: str) -> None:
    if _leads_out(name):
        raise StppError(f"{where}: {name} leads out of data.root; give paths below it")
