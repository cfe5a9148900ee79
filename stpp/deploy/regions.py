"""The regions of a mask as polygons: connected pixels of one class, with holes.

Coordinates are in pixels from the upper left corner of the image, so an exact polygon runs along the edges of pixels.
Neighbours stay neighbours when they are simplified: their common border is cut where a third region meets it, and each
piece is simplified once for both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from stpp.ingest.shapes import Shape, covered, paint, ring
from stpp.store.masks import IGNORE, Mask

Points = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """Connected pixels of one class. Pixels that touch at a corner are connected."""

    label: int
    """The class id."""
    rings: tuple[Points, ...]
    """The points (N, 2) of the outline, x and y, then those of every hole. No ring repeats its first point."""
    box: tuple[int, int, int, int]
    """Left, top, width and height of `bitmap` in the image."""
    bitmap: NDArray[np.bool_]
    """The pixels (H, W) whose centres are inside the outline and in no hole."""


def regions(mask: Mask, left_out: int | None, tolerance: float) -> list[Region]:
    """Return the regions of a mask of class ids (H, W), the largest first.

    left_out: a class without regions: the background. Ignored pixels have none either. tolerance: a border moves by at
    most so many pixels; with 0 the regions are exact.
    """
    corners = _corners(mask)
    found = [
        _region(label, rings, corners, tolerance)
        for label in np.unique(mask).tolist()
        if label not in (left_out, IGNORE)
        for rings in _outlines(mask == label)
    ]
    return sorted(found, key=lambda one: -int(one.bitmap.sum()))


def without_specks(mask: Mask, least: int) -> tuple[Mask, int]:
    """Return a mask without regions of fewer than `least` pixels, and the number of those regions.

    Their pixels take the class of the nearest pixel of a larger region. A mask of nothing else stays as it is.
    """
    specks, count = np.zeros(mask.shape, np.bool_), 0
    for label in np.unique(mask).tolist():
        _, numbers, about, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8), connectivity=8)
        small = about[:, cv2.CC_STAT_AREA] < least
        small[0] = False  # the pixels of other classes
        specks |= small[numbers]
        count += int(small.sum())
    if not count or specks.all():
        return mask, 0
    rows, columns = distance_transform_edt(specks, return_distances=False, return_indices=True)
    return mask[rows, columns], count


def _outlines(inside: NDArray[np.bool_]) -> Iterator[list[Points]]:
    """Yield for each region its outline and its holes, each a ring (N, 2) of all corners of pixels that it passes.

    OpenCV goes through the centres of the outermost pixels. In an image of twice the size, a pixel has a pixel at each
    of its corners, which stands for that corner.
    """
    ys, xs = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    left, top = int(xs[0]), int(ys[0])
    part = inside[top : ys[-1] + 1, left : xs[-1] + 1].astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [(contour[:, 0].astype(np.int64) + 1) // 2 + (left, top) for contour in contours]
    rings = [one[(one != np.roll(one, 1, axis=0)).any(axis=1)] for one in rings]
    for at, (_, _, _, parent) in enumerate(tree[0].tolist()):
        if parent == -1:
            yield [rings[at], *(rings[hole] for hole in np.flatnonzero(tree[0, :, 3] == at).tolist())]


def _corners(mask: Mask) -> NDArray[np.bool_]:
    """Return which corners of pixels (H + 1, W + 1) are kept: those where borders meet, and those of the image."""
    padded = np.pad(mask.astype(np.int16), 1, constant_values=-1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, 1:], padded[1:, :-1]
    changes = sum((one != other).astype(np.uint8) for one, other in ((a, b), (b, c), (c, d), (d, a)))
    found: NDArray[np.bool_] = changes > 2
    found[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return found


def _region(label: int, rings: list[Points], corners: NDArray[np.bool_], tolerance: float) -> Region:
    """Return a region with simplified rings; exact ones if it would cover no pixel."""
    simple = [_simplified(one, corners, tolerance) for one in rings]
    left, top = (int(at) for at in rings[0].min(axis=0))
    width, height = (int(at) for at in rings[0].max(axis=0) - (left, top))
    inside = np.zeros((height, width), np.uint8)
    for at, one in enumerate(simple):
        paint(inside, covered(Shape("", "", "", "polygon", (ring(one - (left, top)),)), height, width), int(at == 0))
    if tolerance and not inside.any():
        return _region(label, rings, corners, 0)
    return Region(label, tuple(simple), (left, top, width, height), inside.astype(np.bool_))


def _simplified(outline: Points, corners: NDArray[np.bool_], tolerance: float) -> Points:
    """Return a ring with fewer points, which has the same pieces as the rings of its neighbours.

    A ring that would enclose nothing stays exact.
    """
    cuts = np.flatnonzero(corners[outline[:, 1], outline[:, 0]])
    start = int(cuts[0]) if len(cuts) else int(np.lexsort(outline.T)[0])
    closed = np.roll(outline, -start, axis=0)
    closed = np.concatenate([closed, closed[:1]])
    ends = [0, *(cuts[1:] - start).tolist(), len(outline)]
    pieces = [_piece(closed[a : b + 1], tolerance)[:-1] for a, b in pairwise(ends)]
    found = np.concatenate(pieces)
    if tolerance and not cv2.contourArea(found.astype(np.int32)):
        return _simplified(outline, corners, 0)
    return found


def _piece(points: Points, tolerance: float) -> Points:
    """Return a piece of a border with fewer points: the same ones in both directions. A loop is cut at its far end."""
    backwards = points.tolist() > points[::-1].tolist()
    line = points[::-1] if backwards else points
    loop = bool((line[0] == line[-1]).all())
    far = int(((line - line[0]) ** 2).sum(axis=1).argmax()) if loop else len(line) - 1
    parts = [part for part in (line[: far + 1], line[far:]) if len(part) > 1]
    kept = [cv2.approxPolyDP(part[:, None].astype(np.int32), tolerance, False)[:, 0] for part in parts]
    found = np.concatenate([kept[0], *(one[1:] for one in kept[1:])]).astype(np.int64)
    return found[::-1] if backwards else found
