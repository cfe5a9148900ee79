"""Layouts: how a data set names its files and classes, for public data sets and by the user's patterns."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from stpp.ingest import toy
from stpp.ingest.class_files import with_classes
from stpp.ingest.colours import class_palette
from stpp.ingest.layouts import LAYOUTS
from stpp.params.data import Data
from stpp.store.manifest import Rgb, rgb_of
from stpp.store.masks import IGNORE


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
    parts: tuple[str, ...] = ()
    """Patterns of the other files that masks are made of: for each class, with `*`, for what is outside, and added."""
    others: bool = False
    """Whether the data set is expected to hold other files, such as bounding boxes and lists."""


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
    """Return the layout that params.yaml describes. Raises StppError if `classes` names a file that cannot be used."""
    data = with_classes(data)
    classes, given, palette = tuple(data.classes or ()), data.meanings(), data.palette
    values = given if data.by_colour else _own(len(classes), data.ignore) | given
    if palette is None and data.by_colour:
        first = {label: rgb_of(value) for value, label in reversed([*given.items()])}
        palette = tuple(first[label] for label in range(len(classes)))
    files = data.annotations.file if data.annotations and "{" in data.annotations.file else data.masks
    masks = (files,) if isinstance(files, str) else ()
    others = data.outside, data.annotations and data.annotations.added
    parts = (*(files.values() if isinstance(files, dict) else ()), *filter(None, others))
    colours = palette or class_palette(classes)
    return Layout(data.images or "", masks, classes, colours, values, palette is not None, parts)


def layout(data: Data) -> Layout:
    """Return the layout for `data.kind`."""
    found: Layout = resolve_name(LAYOUTS[data.kind])(data)
    return found
