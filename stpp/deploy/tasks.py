"""Tasks for annotation tools: images with masks as proposals, in the format that the tool imports.

Each writer gets the regions of one image after another. A format without holes in polygons gets a bitmap for a region
that has holes.
"""

import json
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpp.deploy.regions import Region, regions, without_specks
from stpp.deploy.task_formats import TASKS
from stpp.ingest.colours import background
from stpp.ingest.shapes import runs_of
from stpp.store.files import write_json, write_text
from stpp.store.manifest import Rgb
from stpp.store.masks import IGNORE, Mask, encode_mask

IMAGES, PROPOSED, TASK = "images", "proposed", "task.json"
"""Names in the folder of a task: images as the tool gets them, masks as it shows them, and which image is which."""


@dataclass(frozen=True)
class Labels:
    """The classes that a person can choose in the tool."""

    names: dict[int, str]
    """Name by class id, without the background."""
    colours: dict[int, str]
    """Colour by class id, such as #ff0000."""


@dataclass(frozen=True)
class Proposal:
    """An image of a task with its proposed mask."""

    id: str
    name: str
    """Path of the image below the task's images, unique in the task."""
    source: Path
    mask: Callable[[], Mask]
    """Returns the class ids (H, W)."""
    reason: str = ""
    score: float | None = None
    """How certain the mask is, in [0, 1]."""


@dataclass(frozen=True)
class Picture:
    """An image of a task with the regions that a writer writes."""

    proposal: Proposal
    width: int
    height: int
    regions: Sequence[Region]

    @property
    def name(self) -> str:
        return self.proposal.name


Writer = Callable[[Path, Labels, Iterable[Picture]], Sequence[str]]


def write_task(
    folder: Path,
    tool: str,
    classes: Sequence[str],
    palette: Sequence[Rgb],
    proposals: Iterable[Proposal],
    tolerance: float,
    least: int,
) -> tuple[list[str], list[str]]:
    """Write a task into a folder; return notes on what the tool does not show, and what to do next.

    A first class named background, bg or void gets no regions: it is what stays unpainted. tolerance: the pixels by
    which a border may move; 0 for exact ones. least: smaller regions, in pixels, become part of those around them.
    """
    left_out = background(classes)
    names = {c: name for c, name in enumerate(classes) if c != left_out}
    labels = Labels(names, {c: "#{:02x}{:02x}{:02x}".format(*palette[c]) for c in names})
    images: list[dict[str, Any]] = []
    specks = ignored = 0

    def pictures() -> Iterator[Picture]:
        nonlocal specks, ignored
        for one in proposals:
            mask, small = without_specks(one.mask(), least)
            specks += small
            ignored += bool((mask == IGNORE).any())
            found = regions(mask, left_out, tolerance)
            (folder / IMAGES / one.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.source, folder / IMAGES / one.name)
            shown = folder / PROPOSED / f"{one.id}.png"
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.write_bytes(encode_mask(_drawn(found, mask, left_out), palette))
            images.append({"name": one.name, "id": one.id, "reason": one.reason})
            yield Picture(one, mask.shape[1], mask.shape[0], found)

    write: Writer = resolve_name(TASKS[tool])
    steps = write(folder, labels, pictures())
    lines = [f"{number}. {step.format(folder='.')}\n" for number, step in enumerate(steps, 1)]
    write_text(folder / "README.md", "".join(lines))
    write_json(folder / TASK, {"tool": tool, "classes": [*classes], "images": images})
    notes = [f"{specks} regions of fewer than {least} pixels became part of those around them"] if specks else []
    if ignored:
        notes.append(f"{ignored} images have pixels without a class, which the tool shows as unpainted")
    return notes, [*steps]


def _drawn(found: Sequence[Region], mask: Mask, left_out: int | None) -> Mask:
    """Return the mask that the tool shows: only the regions, on background or on ignored pixels."""
    shown = np.full_like(mask, IGNORE if left_out is None else left_out)
    for one in found:
        left, top, width, height = one.box
        shown[top : top + height, left : left + width][one.bitmap] = one.label
    return shown


def _write_list(path: Path, items: Iterable[Any], before: str = "", after: str = "") -> None:
    """Write a JSON list item by item, so that a large one takes little memory. before, after: text around it."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{before}[")
        for at, item in enumerate(items):
            file.write(f"{',' if at else ''}\n{json.dumps(item, ensure_ascii=False)}")
        file.write(f"\n]{after}\n")


def _lengths(bitmap: NDArray[np.bool_]) -> list[int]:
    return [int(length) for length in runs_of(bitmap)]


# -- COCO -------------------------------------------------------------------------------------------------------------


def coco(folder: Path, labels: Labels, pictures: Iterable[Picture]) -> list[str]:
    """Write instances.json, one object for each region. A region with holes is a bitmap of run lengths."""
    first = int(0 in labels.names)  # a category has no number 0
    images = []

    def annotations() -> Iterator[dict[str, Any]]:
        count = 0
        for at, one in enumerate(pictures, 1):
            about = {"id": at, "file_name": one.name, "width": one.width, "height": one.height}
            images.append(about | ({"reason": one.proposal.reason} if one.proposal.reason else {}))
            for region in one.regions:
                count += 1
                numbers = {"id": count, "image_id": at, "category_id": region.label + first, "iscrowd": 0}
                area = {"area": int(region.bitmap.sum()), "bbox": [*region.box]}
                yield numbers | {"segmentation": _segmentation(region, one)} | area

    path = folder / "instances.json"
    _write_list(path, annotations(), '{"annotations": ')
    categories = [{"id": c + first, "name": name, "color": labels.colours[c]} for c, name in labels.names.items()]
    with path.open("a", encoding="utf-8") as file:
        file.write(f', "categories": {json.dumps(categories, ensure_ascii=False)}')
        file.write(f', "images": {json.dumps(images, ensure_ascii=False)}}}\n')
    return ["import instances.json with the files of images/ into your tool", "export as COCO instances"]


def _segmentation(region: Region, picture: Picture) -> Any:
    if len(region.rings) == 1:
        return [region.rings[0].reshape(-1).tolist()]
    whole = np.zeros((picture.height, picture.width), np.bool_)
    left, top, width, height = region.box
    whole[top : top + height, left : left + width] = region.bitmap
    return {"size": [picture.height, picture.width], "counts": _lengths(whole.T)}


# -- CVAT -------------------------------------------------------------------------------------------------------------


def cvat(folder: Path, labels: Labels, pictures: Iterable[Picture]) -> list[str]:
    """Write annotations.xml (CVAT for images 1.1), and labels.json for the raw editor of a task's labels.

    The reason is the attribute of a tag of the image.
    """
    tag = "suggestion"
    while tag in labels.names.values():
        tag = f"_{tag}"
    chosen = [
        {"name": name, "color": labels.colours[c], "type": "any", "attributes": []} for c, name in labels.names.items()
    ]
    reason = {"name": "reason", "input_type": "text", "mutable": False, "default_value": "", "values": [""]}
    write_json(folder / "labels.json", [*chosen, {"name": tag, "type": "tag", "attributes": [reason]}])
    meta = ElementTree.Element("meta")
    of_task = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
    for name in [*labels.names.values(), tag]:
        ElementTree.SubElement(ElementTree.SubElement(of_task, "label"), "name").text = name
    with (folder / "annotations.xml").open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(ElementTree.tostring(meta, encoding="unicode") + "\n")
        for at, one in enumerate(pictures):
            size = {"width": str(one.width), "height": str(one.height)}
            image = ElementTree.Element("image", {"id": str(at), "name": one.name, **size})
            if one.proposal.reason:
                about = ElementTree.SubElement(image, "tag", {"label": tag, "source": "auto"})
                ElementTree.SubElement(about, "attribute", {"name": "reason"}).text = one.proposal.reason
            for region in one.regions:
                form, where = _of_cvat(region)
                given = {"label": labels.names[region.label], "source": "auto", "occluded": "0", "z_order": "0"}
                ElementTree.SubElement(image, form, given | where)
            file.write(ElementTree.tostring(image, encoding="unicode") + "\n")
        file.write("</annotations>\n")
    return [
        "create a task: paste labels.json into Labels > Raw, and add the files of images/",
        "in the task: Actions > Upload annotations > CVAT 1.1, annotations.xml",
        "correct it; then Actions > Export task dataset > CVAT for images 1.1",
    ]


def _of_cvat(region: Region) -> tuple[str, dict[str, str]]:
    if len(region.rings) == 1:
        return "polygon", {"points": ";".join(f"{x},{y}" for x, y in region.rings[0].tolist())}
    place = dict(zip(("left", "top", "width", "height"), map(str, region.box), strict=True))
    return "mask", {"rle": ", ".join(map(str, _lengths(region.bitmap)))} | place


# -- Label Studio -----------------------------------------------------------------------------------------------------


FORMS = {"polygon": "PolygonLabels", "brush": "BrushLabels"}


def label_studio(folder: Path, labels: Labels, pictures: Iterable[Picture]) -> list[str]:
    """Write tasks.json with predictions, and labels.xml, the labelling interface.

    A region with holes is a brush. Label Studio serves the images from the task's folder.
    """
    _write_list(folder / "tasks.json", (_of_label_studio(at, one, labels) for at, one in enumerate(pictures, 1)))
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", {"value": "$reason"})
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image", "zoom": "true", "zoomControl": "true"})
    for name, tag in FORMS.items():
        choices = ElementTree.SubElement(view, tag, {"name": name, "toName": "image", "opacity": "0.5"})
        for c, label in labels.names.items():
            ElementTree.SubElement(choices, "Label", {"value": label, "background": labels.colours[c]})
    ElementTree.indent(view)
    write_text(folder / "labels.xml", ElementTree.tostring(view, encoding="unicode") + "\n")
    served = "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=$PWD"
    return [
        f"cd {{folder}} && {served} label-studio start",
        "create a project: paste labels.xml into Labeling Setup > Custom template > Code",
        "Settings > Cloud Storage > Add Source Storage > Local files: the absolute path of images/; save, do not sync",
        "import tasks.json, correct and submit; then Export > JSON",
    ]


def _of_label_studio(number: int, picture: Picture, labels: Labels) -> dict[str, Any]:
    size = {"original_width": picture.width, "original_height": picture.height, "image_rotation": 0}
    result = []
    for at, region in enumerate(picture.regions):
        form, value = "polygon", dict[str, Any]()
        if len(region.rings) == 1:
            percent = region.rings[0] * (100 / picture.width, 100 / picture.height)
            value = {"points": percent.tolist(), "closed": True}
        else:
            form, value = "brush", {"format": "rle", "rle": brush(region, picture.height, picture.width)}
        value[f"{form}labels"] = [labels.names[region.label]]
        about = {"id": f"{number}-{at}", "type": f"{form}labels", "from_name": form, "to_name": "image"}
        result.append(about | size | {"value": value})
    one = picture.proposal
    prediction = {"model_version": "stpp", "result": result} | ({} if one.score is None else {"score": one.score})
    url = f"/data/local-files/?d={quote(f'{IMAGES}/{picture.name}')}"
    return {"data": {"image": url, "id": one.id, "reason": one.reason}, "predictions": [prediction]}


WIDTHS = np.array([4, 8, 12, 16])
"""The bits of a run's length in a brush, by the number that chooses one of them."""


def brush(region: Region, height: int, width: int) -> list[int]:
    """Return the bytes of a region in an image of this size as Label Studio encodes a brush.

    Its pixels are four equal values of 8 bits. Bits are packed: the number of values (32), 8 - 1 (5), the WIDTHS less 1
    (4 each); then for each run 1, the number of its width (2), its length less 1, and its value (8).
    """
    whole = np.zeros((height, width), np.bool_)
    left, top, wide, high = region.box
    whole[top : top + high, left : left + wide] = region.bitmap
    lengths = runs_of(whole).astype(np.int64) * 4
    parts = -(-lengths // 2**16)  # of at most 2^16 values
    values = np.repeat(np.arange(len(lengths)) % 2 * 255, parts)
    last = np.cumsum(parts)[parts > 0] - 1
    sizes = np.full(len(values), 2**16)
    sizes[last] = (lengths - (parts - 1) * 2**16)[parts > 0]
    code = np.searchsorted(2**WIDTHS, sizes)
    numbers = [4 * height * width, 7, *(WIDTHS - 1)]
    bits = [32, 5, 4, 4, 4, 4]
    numbers += np.stack([np.ones_like(code), code, sizes - 1, values], axis=1).reshape(-1).tolist()
    bits += (
        np.stack([np.ones_like(code), np.full_like(code, 2), WIDTHS[code], np.full_like(code, 8)], axis=1)
        .reshape(-1)
        .tolist()
    )
    return _packed(np.array(numbers), np.array(bits))


def _packed(numbers: NDArray[np.int64], bits: NDArray[np.int64]) -> list[int]:
    """Return bytes that hold each number in so many bits, at most 32, the highest bit first."""
    table = np.unpackbits(numbers.astype(">u4")[:, None].view(np.uint8), axis=1)
    return np.packbits(table[np.arange(32) >= 32 - bits[:, None]]).tolist()


# -- LabelMe ----------------------------------------------------------------------------------------------------------


def labelme(folder: Path, labels: Labels, pictures: Iterable[Picture]) -> list[str]:
    """Write a file beside each image, and labels.txt. The reason is a flag of the image; a region with holes a mask."""
    for one in pictures:
        path = folder / IMAGES / one.name
        about = {"imagePath": path.name, "imageData": None, "imageHeight": one.height, "imageWidth": one.width}
        flags = {one.proposal.reason: True} if one.proposal.reason else {}
        shapes = [{"label": labels.names[region.label], **_of_labelme(region)} for region in one.regions]
        write_json(path.with_suffix(".json"), {"version": "5.5.0", "flags": flags, "shapes": shapes, **about})
    write_text(folder / "labels.txt", "".join(f"{name}\n" for name in labels.names.values()))
    return [
        "labelme {folder}/images --labels {folder}/labels.txt",
        "correct and save each image; its file lies beside it",
    ]


def _of_labelme(region: Region) -> dict[str, Any]:
    about: dict[str, Any] = {"group_id": None, "description": "", "flags": {}, "mask": None}
    if len(region.rings) == 1:
        return about | {"shape_type": "polygon", "points": region.rings[0].tolist()}
    left, top, width, height = region.box
    png = BytesIO()
    Image.fromarray(region.bitmap.astype(np.uint8)).save(png, format="PNG")
    ends = [[left, top], [left + width - 1, top + height - 1]]
    return about | {"shape_type": "mask", "points": ends, "mask": b64encode(png.getvalue()).decode()}
