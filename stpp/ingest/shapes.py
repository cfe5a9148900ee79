"""Shapes of annotation files: polygons, ellipses and bitmaps, and which pixels each of them covers.

Coordinates are in pixels from the upper left corner of the image as it is shown, so the centre of the first pixel is
(0.5, 0.5). A shape covers a pixel if it holds the pixel's centre. Of two shapes with a common edge, the one to the
right or below has the centres on the edge, so no pixel belongs to both or to none.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Form = Literal["polygon", "ellipse", "rows", "columns"]
Box = tuple[int, int, int, int]
Part = tuple[slice, slice, NDArray[np.bool_]]
"""The rows, the columns and the covered pixels of one part of a shape."""
MAX_POINTS = 100_000
"""The most points of a polygon."""
FAR = 2.0**24
"""The largest coordinate, in pixels."""
MAX_PIXELS = 2**28
"""The most pixels of a bitmap; images have the same limit."""
TOGETHER = 2**22
"""The most crossings of edges and rows that are computed at a time: this bounds the memory."""


@dataclass(frozen=True)
class Picture:
    """An image as an annotation file names it. width, height: its size in pixels, or None if the file has none."""

    image: str
    """How the objects of the file refer to the image."""
    paths: tuple[str, ...]
    """Paths that the image may have, the best one first."""
    width: int | None = None
    height: int | None = None
    annotated: bool = False
    """Whether the file says that a person has annotated the image, also if it has no object."""


@dataclass(frozen=True)
class LabelName:
    """The name of a label that the objects of the file refer to by a number."""

    label: str
    name: str


@dataclass(frozen=True)
class Unread:
    """An object that has no area, or one that is not read. why: what it is, in the plural."""

    image: str
    key: str
    why: str


@dataclass(frozen=True)
class Shape:
    """An object of an image: its label, and the area that it covers."""

    image: str
    key: str
    """How the annotation file names the object."""
    label: str
    form: Form
    numbers: tuple[Numbers, ...]
    """polygon: for each ring, its points (N, 2); the shape is all that any ring holds by the even-odd rule. ellipse:
    centre x, y, radii and clockwise turn in radians (5). rows, columns: lengths of runs without and with the object, in
    turn, row by row or column by column."""
    box: Box = (0, 0, 0, 0)
    """rows, columns: left, top, width and height of the bitmap."""
    z: int = 0
    """What has a larger z lies on top; with equal z, what comes later."""
    relative: bool = False
    """Whether coordinates are parts of the image's width and height."""


Found = Picture | LabelName | Unread | Shape
"""What a reader of annotation files yields, in any order."""


def ring(points: Any) -> Numbers:
    """Return the points of a polygon, float64 (N, 2), from pairs or from a flat list of x and y.

    Raises ValueError for too many points, and for coordinates that are no numbers or lie far outside.
    """
    count = len(points) if np.ndim(points[:1]) == 2 else len(points) // 2
    if count > MAX_POINTS:
        raise ValueError(f"a polygon of {count} points (limit: {MAX_POINTS})")
    return checked(points).reshape(-1, 2)


def checked(numbers: Any) -> Numbers:
    """Return numbers as float64. Raises ValueError unless all are finite and at most FAR from 0."""
    found = np.asarray(numbers, dtype=np.float64)
    if not (np.abs(found) <= FAR).all():  # also false for NaN
        raise ValueError("a coordinate that is no number, or far outside the image")
    return found


def rectangle(x: float, y: float, width: float, height: float, turn: float = 0, about: str = "centre") -> Numbers:
    """Return the corners (4, 2) of a rectangle. turn: clockwise, in degrees, about its `centre` or its upper left
    `corner` (x, y)."""
    x, y, width, height, turn = checked([x, y, width, height, np.deg2rad(turn)])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    pivot = np.array([width, height]) / 2 if about == "centre" else np.zeros(2)
    cos, sin = (np.cos(turn), np.sin(turn)) if turn else (1.0, 0.0)
    turned: Numbers = (corners - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot + (x, y)
    return turned


def runs(lengths: Any, pixels: int) -> Numbers:
    """Return the lengths of runs. Raises ValueError unless they are whole numbers that sum up to `pixels`."""
    if pixels > MAX_PIXELS:
        raise ValueError(f"a mask of {pixels} pixels (limit: {MAX_PIXELS})")
    if len(lengths) > 2 * pixels + 2:
        raise ValueError(f"run lengths beyond the {pixels} pixels of the mask")
    found = checked_runs(np.asarray(lengths, dtype=np.float64))
    if found.sum() != pixels:
        raise ValueError(f"run lengths of {found.sum():.0f} pixels for a mask of {pixels}")
    return found


def checked_runs(lengths: Numbers) -> Numbers:
    """Return the lengths of runs. Raises ValueError unless they are whole numbers from 0 on."""
    if not ((lengths >= 0) & (lengths <= MAX_PIXELS) & (lengths == np.floor(lengths))).all():
        raise ValueError("run lengths that are no whole numbers from 0 on")
    return lengths


def runs_of(bitmap: NDArray[np.bool_]) -> Numbers:
    """Return the lengths of the runs of a bitmap, row by row; the first run is without the object."""
    flat = bitmap.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]])).astype(np.float64)
    return np.concatenate([[0.0], lengths]) if flat.size and flat[0] else lengths


def as_row(found: Shape | Unread) -> tuple[Any, ...]:
    """Return an object as the columns of a table."""
    if isinstance(found, Unread):
        return found.image, found.key, found.why
    numbers = " ".join(b64encode(one.tobytes()).decode() for one in found.numbers)
    box = " ".join(map(str, found.box))
    return found.image, found.key, found.label, found.form, box, found.z, int(found.relative), numbers


def of_row(row: Sequence[str]) -> Shape | Unread:
    """Return the object of a row; the inverse of `as_row`."""
    if len(row) == 3:
        return Unread(*row)
    image, key, label, form, box, z, relative, numbers = row
    arrays = tuple(np.frombuffer(b64decode(one), np.float64) for one in numbers.split(" "))
    if form == "polygon":
        arrays = tuple(one.reshape(-1, 2) for one in arrays)
    left, top, width, height = map(int, box.split())
    return Shape(image, key, label, form, arrays, (left, top, width, height), int(z), relative == "1")  # type: ignore[arg-type]


def covered(shape: Shape, height: int, width: int) -> Iterator[Part]:
    """Yield the parts of an image of this size that a shape covers; parts that cover no pixel are left out.

    Raises ValueError for a bitmap that is not of this image.
    """
    if shape.form in ("rows", "columns"):
        yield from _bitmap(shape, height, width)
    elif shape.form == "ellipse":
        yield from _ellipse(shape.numbers[0], height, width)
    else:
        for points in shape.numbers:
            yield from _polygon(points * (width, height) if shape.relative else points, height, width)


def beyond(shape: Shape, height: int, width: int) -> bool:
    """Return whether a polygon reaches more than a pixel beyond an image of this size."""
    size = np.array([1, 1] if shape.relative else [width, height])
    slack = size / (width, height)
    return shape.form == "polygon" and any(
        ((points < -slack) | (points > size + slack)).any() for points in shape.numbers
    )


def _polygon(points: Numbers, height: int, width: int) -> Iterator[Part]:
    """Yield the pixels whose centres are inside a polygon by the even-odd rule.

    Every edge toggles, in each row whose centre line it crosses, the pixels from the crossing to the right.
    """
    x, y = points[:, 0], points[:, 1]
    x_end, y_end = np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(y, y_end) - 0.5), 0, height).astype(np.int64)
    count = np.clip(np.ceil(np.maximum(y, y_end) - 0.5), 0, height).astype(np.int64) - first
    left, right = (int(np.clip(np.ceil(one - 0.5), 0, width)) for one in (x.min(), x.max()))
    edges = np.flatnonzero(count)
    if not len(edges) or left == right:
        return
    top, bottom = int(first[edges].min()), int((first + count)[edges].max())
    toggled = np.zeros((bottom - top, right - left + 1), np.uint8)
    ends = np.cumsum(count[edges])
    for some in np.split(edges, np.searchsorted(ends, np.arange(TOGETHER, ends[-1], TOGETHER))):
        rows_each = count[some]
        edge = np.repeat(some, rows_each)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows_each) - rows_each - first[some], rows_each)
        crossing = (x_end - x)[edge] * (row + 0.5 - y[edge]) / (y_end - y)[edge] + x[edge]
        start = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64)
        np.add.at(toggled.reshape(-1), (row - top) * (right - left + 1) + start - left, np.uint8(1))
    np.add.accumulate(toggled, axis=1, out=toggled)
    yield slice(top, bottom), slice(left, right), (toggled[:, :-1] & 1).view(np.bool_)


def _ellipse(numbers: Numbers, height: int, width: int) -> Iterator[Part]:
    x, y, rx, ry, turn = map(float, numbers)
    cos, sin = np.cos(turn), np.sin(turn)
    reach_x, reach_y = np.hypot(rx * cos, ry * sin), np.hypot(rx * sin, ry * cos)
    left, right = (int(np.clip(np.ceil(at - 0.5), 0, width)) for at in (x - reach_x, x + reach_x))
    top, bottom = (int(np.clip(np.ceil(at - 0.5), 0, height)) for at in (y - reach_y, y + reach_y))
    if left < right and top < bottom and rx > 0 and ry > 0:
        dy, dx = np.ogrid[top:bottom, left:right]
        dy, dx = dy + 0.5 - y, dx + 0.5 - x
        inside = ((dx * cos + dy * sin) / rx) ** 2 + ((dy * cos - dx * sin) / ry) ** 2 < 1
        yield slice(top, bottom), slice(left, right), inside


def _bitmap(shape: Shape, height: int, width: int) -> Iterator[Part]:
    left, top, wide, high = shape.box
    if left < 0 or top < 0 or left + wide > width or top + high > height:
        raise ValueError(f"its mask ({wide} x {high} at {left}, {top}) is not inside the image ({width} x {height})")
    lengths = shape.numbers[0].astype(np.int64)
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    bitmap = flat.reshape(high, wide) if shape.form == "rows" else flat.reshape(wide, high).T
    yield slice(top, top + high), slice(left, left + wide), bitmap
