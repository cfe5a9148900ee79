"""Annotation files as each tool exports them, written from drawn objects."""

import base64
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Points = list[tuple[float, float]]


@dataclass
class Drawn:
    """An object: a polygon of points, a box (x, y, width, height), an ellipse (cx, cy, rx, ry), or a bitmap (H, W)."""

    label: str
    form: str
    numbers: Any

    def inside(self, x: float, y: float) -> bool:
        """Return whether a point is in the object, by plain Python."""
        if self.form == "bitmap":
            return bool(self.numbers[int(y), int(x)])
        if self.form == "ellipse":
            cx, cy, rx, ry = self.numbers
            return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        crossed = False
        points = corners(self.numbers) if self.form == "box" else self.numbers
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
            if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
                crossed = not crossed
        return crossed


@dataclass
class Photo:
    """An image of a data set, with its objects; a later object lies on top."""

    name: str
    width: int
    height: int
    objects: list[Drawn] = field(default_factory=list)

    def mask(self, classes: list[str], rest: int) -> NDArray[np.uint8]:
        """Return the mask by the centre of every pixel, in plain Python."""
        mask = np.full((self.height, self.width), rest, np.uint8)
        for one in self.objects:
            for row in range(self.height):
                for column in range(self.width):
                    if one.inside(column + 0.5, row + 0.5):
                        mask[row, column] = classes.index(one.label)
        return mask


def corners(box: tuple[float, float, float, float]) -> Points:
    x, y, width, height = box
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def lengths(flat: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of the runs without and with the object, in turn, as COCO and CVAT write them."""
    found, last = [0], False
    for value in flat.tolist():
        if value != last:
            found.append(0)
            last = value
        found[-1] += 1
    return found


def coco(photos: list[Photo], root: Path) -> str:
    """Write polygons, and bitmaps as uncompressed run lengths of a crowd region."""
    names = sorted({one.label for photo in photos for one in photo.objects})
    annotations = []
    for at, photo in enumerate(photos):
        for one in photo.objects:
            points = corners(one.numbers) if one.form == "box" else one.numbers
            area: Any = [[number for point in points for number in point]] if one.form != "bitmap" else None
            if one.form == "bitmap":
                area = {"size": [photo.height, photo.width], "counts": lengths(one.numbers.T.reshape(-1))}
            about = {"image_id": 70 + at, "category_id": 5 + names.index(one.label), "id": 1000 + len(annotations)}
            annotations.append(
                {**about, "segmentation": area, "iscrowd": int(one.form == "bitmap"), "bbox": [0, 0, 1, 1]}
            )
    images = [
        {"id": 70 + at, "file_name": f"{photo.name}.png", "width": photo.width, "height": photo.height, "license": 1}
        for at, photo in enumerate(photos)
    ]
    categories = [{"id": 5 + at, "name": name, "supercategory": ""} for at, name in enumerate(names)]
    whole = {"info": {"year": 2024}, "images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(whole))
    return "annotations.json"


def labelme(photos: list[Photo], root: Path) -> str:
    """Write polygons, rectangles, circles and masks, each image into a file of its own."""
    (root / "labels").mkdir()
    for photo in photos:
        shapes = [
            {"label": one.label, **_labelme(one), "group_id": None, "description": "", "flags": {}}
            for one in photo.objects
        ]
        about = {"imagePath": f"..\\images\\{photo.name}.png", "imageData": None}
        about |= {"imageHeight": photo.height, "imageWidth": photo.width}
        whole = {"version": "5.4.1", "flags": {}, "shapes": shapes, **about}
        (root / f"labels/{photo.name}.json").write_text(json.dumps(whole, indent=2))
    return "labels/{name}.json"


def _labelme(one: Drawn) -> dict[str, Any]:
    if one.form == "bitmap":
        png = io.BytesIO()
        Image.fromarray(one.numbers.astype(np.uint8)).save(png, format="PNG")
        height, width = one.numbers.shape
        mask = base64.b64encode(png.getvalue()).decode()
        return {"shape_type": "mask", "points": [[0, 0], [width - 1, height - 1]], "mask": mask}
    if one.form == "box":
        x, y, width, height = one.numbers
        return {"shape_type": "rectangle", "points": [[x + width, y], [x, y + height]]}
    if one.form == "ellipse":
        cx, cy, r, _ = one.numbers
        return {"shape_type": "circle", "points": [[cx, cy], [cx, cy - r]]}
    return {"shape_type": "polygon", "points": one.numbers}


def via(photos: list[Photo], root: Path) -> str:
    """Write a project with polygons, rectangles and ellipses."""

    def area(one: Drawn) -> dict[str, Any]:
        if one.form == "box":
            return {"name": "rect", **dict(zip(("x", "y", "width", "height"), one.numbers, strict=True))}
        if one.form == "ellipse":
            return {"name": "ellipse", **dict(zip(("cx", "cy", "rx", "ry"), one.numbers, strict=True)), "theta": 0}
        xs, ys = zip(*one.numbers, strict=True)
        return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}

    images = {
        f"{photo.name}.png1234": {
            "filename": f"{photo.name}.png",
            "size": 1234,
            "regions": [
                {"shape_attributes": area(one), "region_attributes": {"class": one.label, "note": "x"}}
                for one in photo.objects
            ],
            "file_attributes": {},
        }
        for photo in photos
    }
    whole = {"_via_settings": {"ui": {}}, "_via_img_metadata": images, "_via_attributes": {"region": {}}}
    (root / "project.json").write_text(json.dumps(whole))
    return "project.json"


def cvat(photos: list[Photo], root: Path) -> str:
    """Write polygons, boxes, ellipses and masks; the file lists the objects on top first, with their z-order."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    lines.append("<meta><task><labels><label><name>car</name></label></labels></task></meta>")
    for at, photo in enumerate(photos):
        lines.append(f'<image id="{at}" name="{photo.name}.png" width="{photo.width}" height="{photo.height}">')
        for z, one in reversed([*enumerate(photo.objects)]):
            name, given = _cvat(one)
            words = {"label": one.label, "source": "manual", "occluded": "0", **given, "z_order": str(z)}
            written = " ".join(f"{key}={quoteattr(value)}" for key, value in words.items())
            lines.append(f'<{name} {written}><attribute name="a">b</attribute></{name}>')
        lines.append("</image>")
    (root / "annotations.xml").write_text("\n".join([*lines, "</annotations>"]))
    return "annotations.xml"


def _cvat(one: Drawn) -> tuple[str, dict[str, str]]:
    if one.form == "box":
        (left, top), _, (right, bottom), _ = corners(one.numbers)
        return "box", {"xtl": repr(left), "ytl": repr(top), "xbr": repr(right), "ybr": repr(bottom)}
    if one.form == "ellipse":
        return "ellipse", dict(zip(("cx", "cy", "rx", "ry"), map(repr, one.numbers), strict=True))
    if one.form == "bitmap":
        rows, columns = (np.flatnonzero(one.numbers.any(axis=axis)) for axis in (1, 0))
        part = one.numbers[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        place = {"left": columns[0], "top": rows[0], "width": part.shape[1], "height": part.shape[0]}
        runs = ", ".join(map(str, lengths(part.reshape(-1))))
        return "mask", {"rle": runs} | {key: str(value) for key, value in place.items()}
    return "polygon", {"points": ";".join(f"{x!r},{y!r}" for x, y in one.numbers)}


def label_studio(photos: list[Photo], root: Path) -> str:
    """Write polygons, rectangles, ellipses and brushes; every task also has an older annotation and a cancelled one."""
    tasks = []
    for at, photo in enumerate(photos):
        result = [_label_studio(f"r{at}-{z}", one, photo) for z, one in enumerate(photo.objects)]
        older = {"id": 3 * at, "was_cancelled": False, "updated_at": "2023-01-01T00:00:00Z", "result": result[:1]}
        newest = {"id": 3 * at + 1, "was_cancelled": False, "updated_at": "2024-01-01T00:00:00Z", "result": result}
        cancelled = {"id": 3 * at + 2, "was_cancelled": True, "updated_at": "2025-01-01T00:00:00Z", "result": []}
        data = {"image": f"/data/upload/1/0a1b2c3d-{photo.name}.png"}
        tasks.append({"id": 500 + at, "annotations": [newest, older, cancelled], "predictions": [], "data": data})
    (root / "project.json").write_text(json.dumps(tasks))
    return "project.json"


def _label_studio(key: str, one: Drawn, photo: Photo) -> dict[str, Any]:
    scale = (100 / photo.width, 100 / photo.height)
    kind = {"polygon": "polygon", "box": "rectangle", "ellipse": "ellipse", "bitmap": "brush"}[one.form]
    value: dict[str, Any] = {f"{kind}labels": [one.label]}
    if one.form == "polygon":
        value |= {"points": [[x * scale[0], y * scale[1]] for x, y in one.numbers], "closed": True}
    elif one.form == "bitmap":
        value |= {"format": "rle", "rle": brush(one.numbers)}
    else:
        names = ("x", "y", "width", "height") if one.form == "box" else ("x", "y", "radiusX", "radiusY")
        value |= {
            name: number * scale[at % 2] for at, (name, number) in enumerate(zip(names, one.numbers, strict=True))
        }
        value |= {"rotation": 0}
    about = {"original_width": photo.width, "original_height": photo.height, "image_rotation": 0}
    return {"id": key, "type": f"{kind}labels", "from_name": "l", "to_name": "image", "value": value, **about}


def brush(bitmap: NDArray[np.bool_]) -> list[int]:
    """Encode a bitmap as Label Studio's brush does: RGBA values, as runs and single values in turn."""
    values = np.repeat(bitmap.reshape(-1).astype(np.uint8) * 255, 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < 2**16:
            end += 1
        if end - at < 3:  # two values as they are
            end = min(at + 2, len(values))
            bits += f"000{end - at - 1:03b}" + "".join(f"{value:08b}" for value in values[at:end])
        else:
            width, code = (8, 2) if end - at <= 2**8 else (16, 3)
            bits += f"1{code:02b}{end - at - 1:0{width}b}{values[at]:08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def yolo(photos: list[Photo], root: Path) -> str:
    """Write polygons with the numbers of their classes, each image into a file of its own."""
    (root / "labels").mkdir()
    for photo in photos:
        lines = []
        for one in photo.objects:
            points = corners(one.numbers) if one.form == "box" else one.numbers
            words = [repr(number) for x, y in points for number in (x / photo.width, y / photo.height)]
            lines.append(" ".join([str(YOLO.index(one.label)), *words]))
        (root / f"labels/{photo.name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return "labels/{name}.txt"


YOLO = ["cat", "car"]
"""The names of a YOLO data set's data.yaml: the position is the number in the files."""
EXPORTS = {"coco": coco, "labelme": labelme, "via": via, "cvat": cvat, "label-studio": label_studio, "yolo": yolo}
FORMS = {
    "coco": ("polygon", "box", "bitmap"),
    "labelme": ("polygon", "box", "circle", "bitmap"),
    "via": ("polygon", "box", "ellipse"),
    "cvat": ("polygon", "box", "ellipse", "bitmap"),
    "label-studio": ("polygon", "box", "ellipse", "bitmap"),
    "yolo": ("polygon", "box"),
}
"""The forms that each tool exports."""


def drawn(rng: np.random.Generator, label: str, form: str, width: int, height: int) -> Drawn:
    """Return a random object, which may reach beyond the image and cross itself."""
    if form == "polygon":
        count = int(rng.integers(3, 9))
        points = rng.uniform((-4, -4), (width + 4, height + 4), (count, 2))
        return Drawn(label, form, [(float(x), float(y)) for x, y in points])
    if form == "bitmap":
        bitmap = rng.random((height, width)) < 0.3
        bitmap[: height // 3] = False
        bitmap[-1, 0] = True
        return Drawn(label, form, bitmap)
    x, y, a, b = map(float, [*rng.uniform((0, 0), (width, height)), *rng.uniform(2, width / 2, 2)])
    if form == "circle":
        return Drawn(label, "ellipse", (x, y, a, a))
    return Drawn(label, form, (x, y, a, b))
