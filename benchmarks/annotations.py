"""Measures masks drawn from polygons per second on one core: `python benchmarks annotations`.

Each image has 640 x 480 pixels and ten polygons of thirty points. The reference draws with pycocotools, object by
object, as its users do. CPU time is measured.
"""

import time

import numpy as np
from measure import Row, row, seconds
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from stpp.ingest.shapes import Shape, covered_each, paint

HEIGHT, WIDTH, IMAGES, OBJECTS = 480, 640, 100, 10


def run() -> list[Row]:
    images = _objects()
    ours, theirs = ([way(objects) for objects in images] for way in (_ours, _theirs))
    same = np.mean([(a == b).mean() for a, b in zip(ours, theirs, strict=True)])
    assert same > 0.99, "the masks differ in more than their edges"
    ways = {name: lambda way=way: [way(one) for one in images] for name, way in (("ours", _ours), ("theirs", _theirs))}
    times = seconds(ways, 5, time.process_time)
    note = f"{100 * (1 - same):.2f} % of the pixels differ, all on edges"
    return [row("masks from ten polygons", "images/s", IMAGES, times["theirs"], times["ours"], 3.0, note)]


def _objects() -> list[list[Shape]]:
    draws, angles = np.random.default_rng(0), np.linspace(0, 2 * np.pi, 30, endpoint=False)

    def polygon() -> NDArray[np.float64]:
        radii = draws.uniform(20, 60) * draws.uniform(0.8, 1.2, len(angles))
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points: NDArray[np.float64] = draws.uniform((0, 0), (WIDTH, HEIGHT)) + radii[:, None] * circle
        return points

    return [[Shape("", "", "", "polygon", (polygon(),)) for _ in range(OBJECTS)] for _ in range(IMAGES)]


def _ours(objects: list[Shape]) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, pixels in enumerate(covered_each(objects, HEIGHT, WIDTH), 1):
        paint(mask, pixels, value)
    return mask


def _theirs(objects: list[Shape]) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, one in enumerate(objects, 1):
        found = coco_masks.frPyObjects([one.numbers[0].reshape(-1).tolist()], HEIGHT, WIDTH)
        mask[coco_masks.decode(coco_masks.merge(found)) > 0] = value
    return mask
