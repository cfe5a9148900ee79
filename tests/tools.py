"""Reads tasks, and writes exports, with the code of annotation tools, in an environment that has it (`make tools`).

`python tests/tools.py read TOOL TASK OUT` writes OUT/IMAGE.npz for every image of a task: `label`, the place of a
pixel's class among the task's classes plus 1, or 0. `python tests/tools.py write FORMAT TASK OUT` writes the proposed
masks of a task as the export of a tool into the folder OUT. Nothing of stpp is imported.
"""

import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

Found = Iterator[tuple[str, str, Any]]
"""Name of the image, class, and mask (H, W) of bool, of every object."""


def labelme(task: Path) -> Found:
    """Read with LabelMe's LabelFile and its drawing of shapes."""
    from labelme._label_file import LabelFile
    from labelme.utils import img_data_to_arr, shape_to_mask

    for path in sorted((task / "images").rglob("*.json")):
        one = LabelFile(str(path))
        size = img_data_to_arr(one.imageData).shape[:2]
        for shape in one.shapes:
            if shape["shape_type"] == "mask":
                mask = np.zeros(size, bool)
                (left, top), (right, bottom) = np.array(shape["points"], int)
                mask[top : bottom + 1, left : right + 1] = shape["mask"]
            else:
                mask = shape_to_mask(size, shape["points"], shape["shape_type"])
            yield (path.parent / one.imagePath).name, shape["label"], mask


def label_studio(task: Path) -> Found:
    """Read with Label Studio's converter, after a person has submitted the proposals unchanged."""
    from label_studio_sdk.converter import Converter, brush
    from PIL import Image, ImageDraw

    tasks = json.loads((task / "tasks.json").read_text())
    export = task / "submitted.json"
    submitted = [
        {"id": at, "data": one["data"], "annotations": [{"id": at, "result": one["predictions"][0]["result"]}]}
        for at, one in enumerate(tasks)
    ]
    export.write_text(json.dumps(submitted))
    converter = Converter((task / "labels.xml").read_text(), str(task))
    for item in converter.iter_from_json_file(str(export)):
        name = unquote(item["input"]["image"]).rpartition("/")[2]
        for values in item["output"].values():
            for one in values:
                size = one["original_height"], one["original_width"]
                if "rle" in one:
                    mask = brush.decode_rle(one["rle"]).reshape(*size, 4)[..., 3] > 0
                    [label] = one["brushlabels"]
                else:
                    drawn = Image.new("1", size[::-1])
                    points = np.array(one["points"]) * size[::-1] / 100
                    ImageDraw.Draw(drawn).polygon([tuple(p) for p in points.tolist()], fill=1)
                    mask, [label] = np.asarray(drawn), one["polygonlabels"]
                yield name, label, mask


def datumaro(path: Path, kind: str) -> Found:
    """Read with Datumaro, the library of CVAT's makers."""
    import datumaro as dm
    from pycocotools import mask as rles

    dataset = dm.Dataset.import_from(str(path), kind)
    names = [label.name for label in dataset.categories()[dm.AnnotationType.label]]
    for item in dataset:
        size = item.media.size or np.asarray(item.media.data).shape[:2]
        for one in item.annotations:
            if one.type == dm.AnnotationType.polygon:
                [drawn] = rles.frPyObjects([list(one.points)], *size)
                yield f"{item.id}.png", names[one.label], rles.decode(drawn).astype(bool)
            elif one.type == dm.AnnotationType.mask:
                yield f"{item.id}.png", names[one.label], np.asarray(one.image).astype(bool)


def coco(task: Path) -> Found:
    """Read with Datumaro, in the folders of the COCO data set, which it asks for."""
    (task / "annotations").mkdir()
    shutil.copy(task / "instances.json", task / "annotations/instances.json")
    return datumaro(task / "annotations/instances.json", "coco_instances")


READERS: dict[str, Callable[[Path], Found]] = {
    "coco": coco,
    "cvat": lambda task: datumaro(task / "annotations.xml", "cvat"),
    "label-studio": label_studio,
    "labelme": labelme,
}


def read(tool: str, task: Path, out: Path) -> None:
    """Read a task, and write what was found."""
    classes = json.loads((task / "task.json").read_text())["classes"]
    found: dict[str, Any] = {}
    for name, label, mask in READERS[tool](task):
        found.setdefault(name, np.zeros(mask.shape, np.uint8))[mask] = 1 + classes.index(label)
    out.mkdir()
    for name, label in found.items():
        np.savez(out / f"{name}.npz", label=label)


def labelme_export(masks: dict[str, Any], classes: list[str], task: Path, out: Path) -> None:
    """Write a file for each image with LabelMe's LabelFile, each class as a mask."""
    from labelme._label_file import LabelFile
    from PIL import Image

    out.mkdir()
    for name, mask in masks.items():
        shapes = []
        for c in np.unique(mask[mask > 0]).tolist():
            rows, columns = (np.flatnonzero((mask == c).any(axis)) for axis in (1, 0))
            ends = [[columns[0].item(), rows[0].item()], [columns[-1].item(), rows[-1].item()]]
            inside = (mask == c)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            png = BytesIO()
            Image.fromarray(inside.astype(np.uint8)).save(png, format="PNG")
            shape = {"label": classes[c], "points": ends, "shape_type": "mask", "group_id": None, "flags": {}}
            shapes.append(shape | {"description": "", "mask": b64encode(png.getvalue()).decode()})
        shutil.copy(task / "images" / name, out / name)
        LabelFile().save(str((out / name).with_suffix(".json")), shapes, name, *mask.shape, imageData=None)


def datumaro_export(form: str, masks: dict[str, Any], classes: list[str], task: Path, out: Path) -> None:
    """Write a format of Datumaro, with which CVAT exports, each class as a mask."""
    import datumaro as dm

    items = [
        dm.DatasetItem(
            Path(name).stem,
            subset="train",
            media=dm.Image.from_file(path=str(task / "images" / name)),
            annotations=[dm.Mask(mask == c, label=c, id=c, group=c) for c in np.unique(mask[mask > 0]).tolist()],
        )
        for name, mask in masks.items()
    ]
    colours = {c: (40 * c, 0, 200 - 40 * c) if c else (0, 0, 0) for c in range(len(classes))}
    categories = {
        dm.AnnotationType.label: dm.LabelCategories.from_iterable(classes),
        dm.AnnotationType.mask: dm.MaskCategories(colours),
    }
    dm.Dataset.from_iterable(items, categories=categories).export(str(out), form, save_media=True)


def write(form: str, task: Path, out: Path) -> None:
    """Write the masks of a task as LabelMe's export, or as the format `form` of Datumaro."""
    from PIL import Image

    about = json.loads((task / "task.json").read_text())
    masks = {one["name"]: np.asarray(Image.open(task / f"proposed/{one['id']}.png")) for one in about["images"]}
    to = labelme_export if form == "labelme" else partial(datumaro_export, form)
    to(masks, about["classes"], task, out)


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
