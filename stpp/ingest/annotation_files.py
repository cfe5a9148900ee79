"""Readers of the annotation files of each tool; they do not trust what the files hold.

A reader yields images, objects, and the objects that it does not read. It raises StppError naming the file and the
place in it that is not as the tool writes it.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from stpp.ingest import run_lengths
from stpp.ingest.shapes import (
    Found,
    LabelName,
    Numbers,
    Picture,
    Shape,
    Unread,
    checked,
    rectangle,
    ring,
    runs,
    runs_of,
)
from stpp.ingest.streams import json_values, xml_tags
from stpp.store.files import MALFORMED, StppError, lines_of, open_regular, printable
from stpp.store.masks import DAMAGED, decode_mask

FEW = "polygon(s) of fewer than 3 points"
BOXES = "box(es) without a polygon"
LONGEST_TEXT = 4096


def _each(path: Path, items: Iterable[tuple[str, Any]], convert: Callable[[Any], Iterable[Found]]) -> Iterator[Found]:
    """Convert items of a file. Raises StppError naming the file and an item that is not as the tool writes it."""
    for where, item in items:
        try:
            found = [*convert(item)]
        except MALFORMED as error:
            why = str(error) if type(error) is ValueError else f"not as the tool writes it: {error!r}"
            raise StppError(f"{path}: {where}: {printable(why)[:200]}; correct it, or export it again") from None
        yield from found


def _text(value: Any) -> str:
    """Return a name or number as text. Raises ValueError for another value and a very long text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or len(str(value)) > LONGEST_TEXT:
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return str(value)


def _size(value: Any) -> int | None:
    """Return a width or height; None if it is missing or 0."""
    return int(value) if value is not None and 0 < int(value) <= 2**31 else None


def _polygon(image: str, key: str, label: str, rings: list[Numbers], z: int = 0, relative: bool = False) -> Found:
    whole = tuple(one for one in rings if len(one) > 2)
    if not whole:
        return Unread(image, key, FEW)
    return Shape(image, key, label, "polygon", whole, z=z, relative=relative)


def _ellipse(image: str, key: str, label: str, numbers: list[Any], z: int = 0) -> Shape:
    return Shape(image, key, label, "ellipse", (checked(numbers),), z=z)


# -- COCO -------------------------------------------------------------------------------------------------------------


def coco(path: Path) -> Iterator[Found]:
    """Read a COCO file: polygons and run lengths of `annotations`, crowd regions too, named by their ids."""
    seen: set[str] = set()

    def items() -> Iterator[tuple[str, Any]]:
        for key, at, item in json_values(path, ("images", "annotations", "categories")):
            seen.add(key)
            if at:
                yield f"{key}[{at}]", (key, item)

    yield from _each(path, items(), _coco)
    if missing := {"images", "annotations", "categories"} - seen:
        raise StppError(f"{path}: no COCO file: it has no `{min(missing)}`; is data.annotations.format right?")


def _coco(item: tuple[str, Any]) -> Iterator[Found]:
    key, value = item
    if key == "images":
        size = _size(value.get("width")), _size(value.get("height"))
        yield Picture(_text(value["id"]), (_text(value["file_name"]),), *size)
    elif key == "categories":
        yield LabelName(_text(value["id"]), _text(value["name"]))
    else:
        yield _of_coco(value)


def _of_coco(value: Any) -> Found:
    image, key, label = (_text(value[name]) for name in ("image_id", "id", "category_id"))
    area = value.get("segmentation")
    if not area:
        return Unread(image, key, BOXES if value.get("bbox") else "object(s) without an area")
    if isinstance(area, list):
        return _polygon(image, key, label, [ring(one) for one in area])
    height, width = (int(side) for side in area["size"])
    if min(height, width) < 1:
        raise ValueError(f"a mask of {width} x {height} pixels")
    counts = area["counts"]
    counts = run_lengths.from_text(counts) if isinstance(counts, str) else counts
    return Shape(image, key, label, "columns", (runs(counts, height * width),), (0, 0, width, height))


# -- LabelMe ----------------------------------------------------------------------------------------------------------


def labelme(path: Path) -> Iterator[Found]:
    """Read a LabelMe file, of one image; objects are named by their position."""
    about: dict[str, Any] = {}

    def items() -> Iterator[tuple[str, Any]]:
        for key, at, item in json_values(path, ("shapes",)):
            if key == "shapes" and at:
                yield f"shapes[{at}]", (at, item)
            else:
                about[key] = key == "shapes" or (item if key != "imageData" else "")

    yield from _each(path, items(), lambda item: [_of_labelme(*item)])
    if "imagePath" not in about:
        raise StppError(f"{path}: no LabelMe file: it has no `imagePath`; is data.annotations.format right?")
    yield from _each(path, [("image", about)], _labelme_image)


def _labelme_image(about: Any) -> Iterator[Found]:
    size = _size(about.get("imageWidth")), _size(about.get("imageHeight"))
    yield Picture("", (_text(about["imagePath"]),), *size, annotated=True)


def _of_labelme(key: str, value: Any) -> Found:
    label, form, points = _text(value["label"]), value.get("shape_type") or "polygon", ring(value["points"])
    if form == "polygon" or (form in ("rectangle", "oriented_rectangle") and len(points) == 4):
        return _polygon("", key, label, [points])
    if form == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return _polygon("", key, label, [rectangle(left, top, right - left, bottom - top)])
    if form == "circle" and len(points) == 2:
        radius = np.hypot(*(points[1] - points[0]))
        return _ellipse("", key, label, [*points[0], radius, radius, 0])
    if form == "mask" and value.get("mask"):
        try:
            bitmap = decode_mask(b64decode(value["mask"])) > 0
        except DAMAGED as error:
            raise ValueError(f"a mask that is no intact PNG ({error})") from None
        left, top = (int(at) for at in points.min(axis=0))
        box = (left, top, bitmap.shape[1], bitmap.shape[0])
        return Shape("", key, label, "rows", (runs_of(bitmap),), box)
    return Unread("", key, f"object(s) of the type {_text(form)}")


# -- VIA --------------------------------------------------------------------------------------------------------------

ATTRIBUTES = ("class", "label", "category", "name", "type")
"""Names of the attribute that is a region's label, if it has several."""


def via(path: Path) -> Iterator[Found]:
    """Read a project or the exported annotations of VIA 1 and 2; objects are named by their position."""

    def items() -> Iterator[tuple[str, Any]]:
        for key, inner, item in json_values(path, ("_via_img_metadata",)):
            if key in ("_via_img_metadata", "") and inner:
                yield inner, (inner, item)
            elif not key.startswith("_via_"):
                yield key, (key, item)

    yield from _each(path, items(), _via)


def _via(item: tuple[str, Any]) -> Iterator[Found]:
    image, value = item
    yield Picture(image, (_text(value["filename"]),))
    regions = value["regions"]
    for key, region in regions.items() if isinstance(regions, dict) else enumerate(regions):
        yield _of_via(image, str(key), region["shape_attributes"], region["region_attributes"])


def _of_via(image: str, key: str, area: Any, attributes: Any) -> Found:
    form = area["name"]
    if form not in ("polygon", "rect", "circle", "ellipse"):
        return Unread(image, key, f"object(s) of the type {_text(form)}")
    if not attributes:
        return Unread(image, key, "object(s) without a label")
    chosen = [*attributes] if len(attributes) == 1 else [one for one in attributes if one.lower() in ATTRIBUTES]
    if not chosen:
        what = f"region {key} has the attributes {', '.join(attributes)}, and none is called {' or '.join(ATTRIBUTES)}"
        raise ValueError(what)
    given = attributes[chosen[0]]
    labels = [name for name, on in given.items() if on] if isinstance(given, dict) else [given]
    if len(labels) != 1 or labels == [""]:
        return Unread(image, key, "object(s) with several labels" if len(labels) > 1 else "object(s) without a label")
    label = _text(labels[0])
    if form == "polygon":
        return _polygon(image, key, label, [ring([*zip(area["all_points_x"], area["all_points_y"], strict=True)])])
    if form == "rect":
        return _polygon(image, key, label, [rectangle(*(area[one] for one in ("x", "y", "width", "height")))])
    rx, ry = (area["r"], area["r"]) if form == "circle" else (area["rx"], area["ry"])
    return _ellipse(image, key, label, [area["cx"], area["cy"], rx, ry, area.get("theta", 0)])


# -- CVAT -------------------------------------------------------------------------------------------------------------


def cvat(path: Path) -> Iterator[Found]:
    """Read an XML file "CVAT for images 1.1"; objects are named by their position in the image.

    The author of an image is the assignee of its task or job, else the owner.
    """
    image, key, begun = "", 0, False
    task, people = "", dict[str, str]()

    def items() -> Iterator[tuple[str, Any]]:
        nonlocal image, key, begun, task
        for name, attributes in xml_tags(path):
            if "/" in name:
                *_, kind, last = name.split("/")
                if last == "id" and kind in ("task", "job"):
                    task = attributes[""]
                elif last == "username" and kind in ("owner", "assignee") and len(people) < MAX_TASKS:
                    people[task] = attributes[""][:LONGEST_TEXT]  # the assignee comes after the owner
                continue
            if not begun and name != "annotations":
                raise StppError(f"{path}: no CVAT file: it begins with <{name}>; is data.annotations.format right?")
            begun = True
            if name == "track":
                raise StppError(f"{path}: made for videos; export it as `CVAT for images`")
            if name == "image":
                image, key = attributes.get("id", ""), 0
                attributes[AUTHOR] = people.get(attributes.get("task_id", task), "")
            if name == "image" or name in ("polygon", "box", "ellipse", "mask", *WITHOUT_AREA):
                yield f"image {image}, {name} {key}", (name, image, str(key), attributes)
                key += name != "image"

    yield from _each(path, items(), lambda item: [_of_cvat(*item)])


MAX_TASKS = 10_000
"""The most tasks of a file whose people are kept in memory."""
AUTHOR = ""
"""The key of the author among the attributes of an image."""
WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")


def _of_cvat(name: str, image: str, key: str, given: dict[str, str]) -> Found:
    if name == "image":
        size = _size(given.get("width")), _size(given.get("height"))
        return Picture(given["id"], (_text(given["name"]),), *size, author=given[AUTHOR])
    if name in WITHOUT_AREA:
        return Unread(image, key, f"object(s) of the type {name}")
    label, z, turn = _text(given["label"]), int(given.get("z_order", 0)), float(given.get("rotation", 0))
    if name == "polygon":
        return _polygon(image, key, label, [ring(given["points"].replace(";", ",").split(","))], z)
    if name == "box":
        left, top, right, bottom = (float(given[one]) for one in ("xtl", "ytl", "xbr", "ybr"))
        return _polygon(image, key, label, [rectangle(left, top, right - left, bottom - top, turn)], z)
    if name == "ellipse":
        return _ellipse(
            image, key, label, [*(float(given[one]) for one in ("cx", "cy", "rx", "ry")), np.deg2rad(turn)], z
        )
    left, top, width, height = (int(given[one]) for one in ("left", "top", "width", "height"))
    if min(width, height) < 1:
        raise ValueError(f"a mask of {width} x {height} pixels")
    return Shape(
        image, key, label, "rows", (runs(given["rle"].split(","), width * height),), (left, top, width, height), z
    )


# -- Label Studio -----------------------------------------------------------------------------------------------------


def label_studio(path: Path) -> Iterator[Found]:
    """Read a JSON export of Label Studio: the newest annotation of every task; objects are named by their ids."""
    items = ((f"{key}[{at}]", item) for key, at, item in json_values(path))
    yield from _each(path, items, _task)


def _task(value: Any) -> Iterator[Found]:
    if "annotations" not in value or "data" not in value:
        raise ValueError("no task with `data` and `annotations`: export as JSON, not as JSON-MIN")
    image = _text(value["id"])
    data = sorted(value["data"].items(), key=lambda item: item[0] != "image")
    paths = [path for _, one in data if isinstance(one, str) and len(one) <= LONGEST_TEXT for path in _paths(one)]
    done = [one for one in value["annotations"] if not one.get("was_cancelled")]
    done.sort(key=lambda one: (str(one.get("updated_at") or one.get("created_at") or ""), int(one.get("id") or 0)))
    for older in done[:-1]:
        for result in older["result"]:
            yield Unread(image, _text(result["id"]), "object(s) of an annotation that is not its image's newest")
    results = done[-1]["result"] if done else []
    labels: dict[str, list[Any]] = {}
    areas: dict[str, Any] = {}
    size: tuple[int | None, int | None] = (None, None)
    for result in results:
        given, key = result.get("value") or {}, _text(result.get("id", ""))
        labels[key] = next((given[one] for one in given if one.endswith("labels")), labels.get(key, []))
        if not given.keys() <= {"choices", "text", "rating", "number", "taxonomy", "datetime"}:
            areas.setdefault(key, result)
            size = _size(result.get("original_width")), _size(result.get("original_height"))
    by = (done[-1].get("completed_by") if done else None) or ""
    by = (by.get("email") or by.get("id") or "") if isinstance(by, dict) else by
    author = f"user {by}" if isinstance(by, int) else _text(by)
    yield Picture(image, tuple(paths), *size, annotated=bool(done), author=author)
    for key, result in areas.items():
        yield _of_label_studio(image, key, labels[key], result)


def _paths(url: str) -> Iterator[str]:
    """Yield the paths that a task's image may have: without the server, and without the prefix of an upload."""
    _, question, local = url.partition("?d=")
    path = unquote(local if question else re.sub(r"^\w+://[^/]*/", "", url)).partition("?")[0]
    yield path
    folder, _, name = path.rpartition("/")
    if re.match(r"[0-9a-f]{8}-.", name):
        yield f"{folder}/{name[9:]}"


def _of_label_studio(image: str, key: str, labels: list[Any], result: Any) -> Found:
    why = f"object(s) with {'several labels' if labels else 'no label'}" if len(labels) != 1 else ""
    why = "object(s) on an image that was turned in the tool" if result.get("image_rotation") else why
    return Unread(image, key, why) if why else _area(image, key, _text(labels[0]), result)


def _area(image: str, key: str, label: str, result: Any) -> Found:
    """Return an object of Label Studio, whose coordinates are percentages of the image's width and height."""
    value, form = result["value"], result.get("type", "").removesuffix("labels")
    width, height = int(result["original_width"]), int(result["original_height"])
    x, y = (value.get(one, 0) * side / 100 for one, side in (("x", width), ("y", height)))
    turn = value.get("rotation", 0)
    if "points" in value:
        points = ring(value["points"]) * (width / 100, height / 100)
        return _polygon(image, key, label, [points.round(9)])  # the percentage of a whole pixel gives a whole pixel
    if "rle" in value:
        lengths = runs_of(run_lengths.from_brush(value["rle"], height, width))
        return Shape(image, key, label, "rows", (lengths,), (0, 0, width, height))
    if "radiusX" in value:
        radii = value["radiusX"] * width / 100, value["radiusY"] * height / 100
        return _ellipse(image, key, label, [x, y, *radii, np.deg2rad(turn)])
    if "height" in value and form != "keypoint":
        sides = value["width"] * width / 100, value["height"] * height / 100
        return _polygon(image, key, label, [rectangle(x, y, *sides, turn, "corner")])
    return Unread(image, key, f"object(s) of the type {_text(form or 'unknown')}")


# -- YOLO -------------------------------------------------------------------------------------------------------------


def yolo(path: Path) -> Iterator[Found]:
    """Read a segmentation text file of YOLO, of one image; objects are named by their lines, labels are numbers."""

    def items() -> Iterator[tuple[str, Any]]:
        try:
            with open_regular(path) as file:
                for number, line in enumerate(lines_of(file), 1):
                    if line.strip():
                        yield f"line {number}", (str(number), line.decode("utf-8-sig").split())
        except (OSError, ValueError) as error:
            raise StppError(f"{path}: not readable: {error}; export it again as UTF-8") from None

    yield Picture("", (), annotated=True)
    yield from _each(path, items(), lambda item: [_of_yolo(*item)])


def _of_yolo(key: str, words: list[str]) -> Found:
    label, numbers = int(words[0]), words[1:]
    if len(numbers) == 4:
        return Unread("", key, BOXES)
    if len(numbers) % 2:
        raise ValueError(f"{len(words)} values: expected a class number, then x and y of each point")
    return _polygon("", key, str(label), [ring(numbers)], relative=True)
