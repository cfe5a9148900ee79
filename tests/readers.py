"""Reads a task with the tool's own code, in an environment that has it: python tests/readers.py TOOL TASK OUT.

Writes OUT/IMAGE.npz for every image: `label`, the place of a pixel's class among the task's classes plus 1, or 0.
It imports nothing of stpp. `make readers` makes the environment.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
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


def main(tool: str, task: Path, out: Path) -> None:
    classes = json.loads((task / "task.json").read_text())["classes"]
    found: dict[str, Any] = {}
    for name, label, mask in READERS[tool](task):
        found.setdefault(name, np.zeros(mask.shape, np.uint8))[mask] = 1 + classes.index(label)
    out.mkdir()
    for name, label in found.items():
        np.savez(out / f"{name}.npz", label=label)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
