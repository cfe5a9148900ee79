"""Shapes of annotation files: polygons, ellipses and bitmaps, and which pixels each of them covers.

Coordinates are in pixels from the upper left corner of the image as it is shown, so the centre of the first pixel is
(0.5, 0.5). A shape covers a pixel if it holds the pixel's centre. Of two shapes with a common edge, the one to the
right or below has the centres on the edge, so no pixel belongs to both or to none.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Form = Literal["polygon", "ellipse", "rows", "columns"]
Box = tuple[int, int, int, int]
MAX_POINTS = 100_000
"""The most points of a polygon."""
FAR = 2.0**24
"""The largest coordinate, in pixels."""
MAX_PIXELS = 2**28
"""The most pixels of a bitmap; images have the same limit."""
CROSSINGS = 2**22
"""The most rows that the edges of a polygon cross, all together: this bounds the memory."""


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
    author: str = ""
    """Who annotated the image; empty if the file does not say it."""


@dataclass(frozen=True)
class LabelName:
    """The name of a label that the objects of the file refer to by a number."""

    label: str
    name: str


@dataclass(frozen=True)
class Unread:
    """An object that has no area, or one that is not read. why: what it is, as it follows a number."""

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


def as_row(found: Shape | Unread) -> list[str]:
    """Return an object as the columns of a table. No column needs quotes, which would make long rows slow to read."""
    if isinstance(found, Unread):
        return [quote(word) for word in (found.image, found.key, found.why)]
    words = [quote(word) for word in (found.image, found.key, found.label)]
    numbers = " ".join(b64encode(one.tobytes()).decode() for one in found.numbers)
    box = " ".join(map(str, found.box))
    return [*words, found.form, box, str(found.z), str(int(found.relative)), numbers]


def of_row(row: Sequence[str]) -> Shape | Unread:
    """Return the object of a row; the inverse of `as_row`."""
    image, key, text = map(unquote, row[:3])
    if len(row) == 3:
        return Unread(image, key, text)
    form, box, z, relative, numbers = row[3:]
    arrays = tuple(np.frombuffer(b64decode(one), np.float64) for one in numbers.split(" "))
    if form == "polygon":
        arrays = tuple(one.reshape(-1, 2) for one in arrays)
    left, top, width, height = map(int, box.split())
    place = left, top, width, height
    return Shape(image, key, text, form, arrays, place, int(z), relative == "1")  # type: ignore[arg-type]


def covered(shape: Shape, height: int, width: int) -> NDArray[np.int64]:
    """Return the pixels of an image of this size that a shape covers, as runs (N, 2): first pixel, one after the last.

    Pixels are counted row by row, so a run may go on in the next row. Raises ValueError for a bitmap that is not inside
    the image, and for a polygon with too many edges across many rows.
    """
    return covered_each([shape], height, width)[0]


def covered_each(shapes: Sequence[Shape], height: int, width: int) -> list[NDArray[np.int64]]:
    """Return what `covered` returns for each shape, sooner. Raises ValueError if all polygons cross too many rows."""
    scale = np.array([width, height])
    polygons = [one for one in shapes if one.form == "polygon"]
    rings = [points * scale if one.relative else points for one in polygons for points in one.numbers]
    runs = iter(_polygons(rings, height, width))
    found = []
    for one in shapes:
        if one.form == "polygon":
            parts = [next(runs) for _ in one.numbers]
            found.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        else:
            of_form = _ellipse if one.form == "ellipse" else _bitmap
            found.append(of_form(one, height, width))
    return found


def paint(mask: NDArray[np.uint8], pixels: NDArray[np.int64], value: int) -> None:
    """Set the pixels that `covered` returns to a value."""
    flat = memoryview(mask.reshape(-1).data)  # faster than slices of an array: most runs are short
    line = bytes([value]) * int((pixels[:, 1] - pixels[:, 0]).max(initial=0))
    for start, end in pixels.tolist():
        flat[start:end] = line[: end - start]


def beyond(shape: Shape, height: int, width: int) -> bool:
    """Return whether a polygon reaches more than a pixel beyond an image of this size."""
    half = np.array([1, 1] if shape.relative else [width, height]) / 2
    furthest = half + 2 * half / (width, height)
    return shape.form == "polygon" and any((np.abs(points - half) > furthest).any() for points in shape.numbers)


def _polygons(rings: Sequence[Numbers], height: int, width: int) -> list[NDArray[np.int64]]:
    """Return for each polygon the pixels whose centres are inside it by the even-odd rule.

    Where an edge crosses the line through the centres of a row, a run begins or ends.
    """
    if not rings:
        return []
    sizes = np.array([len(one) for one in rings])
    points = np.concatenate(rings)
    ends = np.concatenate([points[1:], points[:1]])
    last = np.cumsum(sizes) - 1
    ends[last] = points[last - sizes + 1]  # every ring is closed
    down = points[:, 1] <= ends[:, 1]  # a common edge of two polygons is computed once in the same way
    upper, lower = np.where(down[:, None], points, ends), np.where(down[:, None], ends, points)
    first, after = (np.ceil(one[:, 1] - 0.5).clip(0, height).astype(np.int64) for one in (upper, lower))
    count = after - first
    total = int(count.sum())
    if total > CROSSINGS:
        raise ValueError(f"a polygon whose edges cross {total} rows (limit: {CROSSINGS})")
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(total) + (first + count - np.cumsum(count))[edge]
    x, y, wide, high = (one[edge] for one in (*upper.T, *(lower - upper).T))
    at = np.ceil(x + (row + 0.5 - y) * wide / high - 0.5).clip(0, width).astype(np.int64)
    # Each ring counts on where the one before ends, so that all are sorted at once.
    stride = height * width
    start = np.repeat(np.arange(len(rings)) * stride, sizes)
    runs = _runs(start[edge] + row * width + at)
    cuts = np.searchsorted(runs[:, 0], np.arange(1, len(rings)) * stride)
    return [one - ring * stride for ring, one in enumerate(np.split(runs, cuts))]


def _runs(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the runs (N, 2) between pairs of ends, without empty ones. Each row has an even number of ends."""
    found = np.sort(ends).reshape(-1, 2)
    return found[found[:, 0] < found[:, 1]]


def _ellipse(shape: Shape, height: int, width: int) -> NDArray[np.int64]:
    x, y, rx, ry, turn = map(float, shape.numbers[0])
    reach = np.hypot(rx * np.sin(turn), ry * np.cos(turn))
    top, bottom = (int(np.clip(np.ceil(at - 0.5), 0, height)) for at in (y - reach, y + reach))
    if top >= bottom or rx <= 0 or ry <= 0:
        return np.zeros((0, 2), np.int64)
    rows = np.arange(top, bottom)
    # In a row at distance v from the centre, (u cos + v sin)^2 / rx^2 + (v cos - u sin)^2 / ry^2 < 1 is quadratic in u.
    cos, sin, v = np.cos(turn), np.sin(turn), rows + 0.5 - y
    a = (cos / rx) ** 2 + (sin / ry) ** 2
    half_b = v * cos * sin * (1 / rx**2 - 1 / ry**2)
    c = v**2 * ((sin / rx) ** 2 + (cos / ry) ** 2) - 1
    half = np.sqrt(np.maximum(half_b**2 - a * c, 0))
    ends = [np.clip(np.ceil(x + (-half_b + side * half) / a - 0.5), 0, width).astype(np.int64) for side in (-1, 1)]
    return _runs(np.stack([rows * width + one for one in ends], axis=1).reshape(-1))


def _bitmap(shape: Shape, height: int, width: int) -> NDArray[np.int64]:
    left, top, wide, high = shape.box
    if left < 0 or top < 0 or left + wide > width or top + high > height:
        raise ValueError(f"its mask ({wide} x {high} at {left}, {top}) is not inside the image ({width} x {height})")
    lengths = shape.numbers[0].astype(np.int64)
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    bitmap = np.zeros((high, wide + 1), np.bool_)  # the last column ends the runs of a row
    bitmap[:, :wide] = flat.reshape(high, wide) if shape.form == "rows" else flat.reshape(wide, high).T
    rows, columns = np.divmod(np.flatnonzero(np.diff(bitmap.reshape(-1), prepend=False)), wide + 1)
    return _runs((top + rows) * width + left + columns)
