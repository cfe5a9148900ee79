"""Images of any number of bands and bits, as `data.bands`, `data.range` and `data.nodata` describe them.

The values of a file are read as they are stored, and mapped to pixels of 0 to 255.
"""

import logging
import struct
import zlib
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from tifffile import TiffFile, TiffFileError

from stpp.data import kinds
from stpp.data.arrays import decode_array, is_array
from stpp.data.images import (
    BYTES,
    BYTES_ELSE,
    DEEP,
    MAX_BYTES,
    check_header,
    check_sound,
    open_image,
    read_image,
    upright,
)
from stpp.store.files import StppError
from stpp.store.reading import Reading, Span

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is raised, too

Pixels = NDArray[np.uint8]
Stored = NDArray[Any]
"""The values of a file's bands as they are stored, (H, W, bands): integers or floating point numbers."""
Where = NDArray[np.bool_]
"""Pixels of an image, (H, W)."""
PLAIN = ("L", "LA", "RGB", "RGBA")
"""Pillow's modes of 8 bits whose values are those of the file."""
BELOW, ABOVE, NO_DATA = "values below data.range become 0", "values above data.range become 255", "pixels without data"


class Photo(NamedTuple):
    """An image as it was read."""

    pixels: Pixels
    """The channels, uint8 (H, W, C); 0 where there is no data."""
    nodata: Where | None
    """The pixels without data; None if the data set has no value for them."""
    notes: list[str]
    counts: Mapping[str, int]
    """The numbers of values and pixels that were changed, by what was done."""


def read_photo(path: Path, reading: Reading) -> Photo:
    """Return an image as `reading` says. Raises StppError that names the file, and what to do."""
    with open_image(path) as file:
        return decode_photo(file, path, reading)


def read_with(path: Path, reading: Reading | None) -> Photo:
    """Return an image as `reading` says; without a reading, as an ordinary picture."""
    if reading:
        return read_photo(path, reading)
    pixels, notes = read_image(path)
    return Photo(pixels, None, notes, {})


def decode_photo(file: BufferedReader, path: Path, reading: Reading) -> Photo:
    """Decode an image as `read_photo` does, from a file that `open_image` opened and that is at its start."""
    values, notes = decode_stored(file, path, reading.bands)
    nodata = nodata_of(values, reading)
    check_finite(values, nodata, path)
    if nodata is None and (declared := kinds.declared_nodata(file)):
        notes.append(f"declares {declared} as no data (GDAL_NODATA); to ignore such pixels, give data.nodata")
    if not reading.ranges and values.dtype != np.uint8:
        what = f"{kinds.bands(values.shape[2])} of type {values.dtype}"
        raise StppError(f"{path}: {what}; give data.range the values that are black and white, such as [0, 10000]")
    spans = reading.ranges or ((0.0, 255.0),)
    spans = spans * values.shape[2] if len(spans) == 1 else spans
    pixels = np.empty((*values.shape[:2], reading.channels), np.uint8)
    below = above = 0
    there = None if nodata is None else ~nodata
    for at in range(reading.channels):
        if at and values.shape[2] == 1:  # a grey picture is repeated, with a range for each channel or one for all
            band, span = values[..., 0], spans[at % len(spans)]
        else:
            band, span = values[..., at], spans[at]
        pixels[..., at] = scaled(band, span)
        if at < values.shape[2]:
            below += _count(band < span[0], there)
            above += _count(band > span[1], there)
    if nodata is not None:
        pixels[nodata] = 0
    counts = {BELOW: below, ABOVE: above, NO_DATA: 0 if nodata is None else int(nodata.sum())}
    return Photo(pixels, nodata, notes, {what: count for what, count in counts.items() if count})


class Described(NamedTuple):
    """What an image file holds."""

    bands: int
    colours: int
    """How many of the bands are grey or RGB; 0 if that is not known."""
    low: float
    high: float
    """The lowest and the highest finite value."""
    dtype: np.dtype[Any]
    declared: str
    """The value that a GeoTIFF declares as no data, as it is written; "" if there is none."""


def describe(path: Path) -> Described:
    """Return what an image file holds. Raises StppError that names the file if it cannot be read."""
    with open_image(path) as file:
        values, colours, _ = _whole(file, path)
        declared = kinds.declared_nodata(file)
    finite = values[np.isfinite(values)]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    return Described(values.shape[2], colours, *ends, values.dtype, declared)


def nodata_of(values: Stored, reading: Reading) -> Where | None:
    """Return the pixels without data; None if there is no value for them."""
    return None if reading.nodata is None else np.asarray((values == reading.nodata).all(2), dtype=np.bool_)


def _count(where: Where, there: Where | None) -> int:
    return int(np.count_nonzero(where if there is None else where & there))


def check_finite(values: Stored, nodata: Where | None, path: Path) -> None:
    """Raise StppError if a pixel with data has a NaN or infinite value."""
    if values.dtype.kind == "f":
        odd: Where = np.logical_not(np.isfinite(values).all(2))
        if count := _count(odd, None if nodata is None else ~nodata):
            raise StppError(
                f"{path}: {count} pixels are NaN or infinite; write a number there, and name it in data.nodata"
            )


def scaled(band: Stored, span: Span) -> Pixels:
    """Map values (H, W) linearly to 0..255, rounded (halves up) and clipped. span: what becomes 0 and 255."""
    low, high = span
    if band.dtype.itemsize <= 2 and band.dtype.kind in "iu":
        about = np.iinfo(band.dtype)
        table = _scaled(np.arange(about.min, about.max + 1, dtype=np.float64), low, high)
        return np.asarray(table[band.astype(np.int32) - about.min], dtype=np.uint8)
    return _scaled(band.astype(np.float64), low, high)


def _scaled(values: NDArray[np.float64], low: float, high: float) -> Pixels:
    with np.errstate(over="ignore", invalid="ignore"):
        levels = np.floor((values - low) * 255 / (high - low) + 0.5)
    return np.asarray(np.clip(np.nan_to_num(levels, nan=0.0), 0, 255), dtype=np.uint8)


def read_stored(path: Path, reading: Reading) -> Stored:
    """Return the values of the bands that are read, as they are stored. Raises StppError as `read_photo` does."""
    with open_image(path) as file:
        values, _ = decode_stored(file, path, reading.bands)
    check_finite(values, nodata_of(values, reading), path)
    return values


def decode_stored(file: BufferedReader, path: Path, bands: tuple[int, ...]) -> tuple[Stored, list[str]]:
    """Return the values of an open image's bands as they are stored, and notes on how it was read.

    bands: the numbers of the bands, from 1 on, in the order of the result; none: grey or RGB, without alpha. Raises
    StppError that names the file if it does not have these bands.
    """
    values, colours, notes = _whole(file, path)
    count = values.shape[2]
    if bands:
        if max(bands) > count:
            raise StppError(
                f"{path}: has {kinds.bands(count)}, but data.bands names band {max(bands)}; bands count from 1"
            )
        return values[..., [band - 1 for band in bands]], notes
    if not colours:
        raise StppError(f"{path}: has {kinds.bands(count)}; name those to read in data.bands, such as [1, 2, 3]")
    dropped = ["alpha channel: dropped"] if count > colours else []
    return values[..., :colours], [*notes, *dropped]


def _whole(file: BufferedReader, path: Path) -> tuple[Stored, int, list[str]]:
    """Return the values of all bands of an open image, how many of them are colours (0: not known), and notes."""
    start = file.read(kinds.HEAD)
    file.seek(0)
    if is_array(start):
        values, colours, notes = _array(file, path)
    elif kinds.kind_of(start) == "TIFF" and (page := kinds.stored_page(file)):
        values, colours, notes = _tiff(file, path, page)
    else:
        values, colours, notes = _picture(file, path, start)
    if values.dtype.kind not in "iuf" or not values.size:
        raise StppError(f"{path}: values of type {values.dtype} are not supported; save integers or floating point")
    return values, colours, notes


def _tiff(file: BufferedReader, path: Path, page: ImageFileDirectory_v2) -> tuple[Stored, int, list[str]]:
    """Return the same as `_whole` for a TIFF whose first page has these tags."""
    if why := kinds.why_not_stored(page, file):
        raise StppError(f"{path}: {why}")
    if (size := 4 * kinds.size_of(page)) > MAX_BYTES:
        raise StppError(f"{path}: needs {size / 2**30:.1f} GB to read; cut it into tiles")
    try:
        with TiffFile(file, name=path.name) as opened:
            first = opened.pages.first
            if not all(first.databytecounts):
                raise ValueError("parts of it are missing")
            values = first.asarray(maxworkers=1)
            axes = first.axes
    except (TiffFileError, ValueError, RuntimeError, LookupError, TypeError, struct.error, zlib.error) as error:
        what = " ".join(str(error).split())
        raise StppError(f"{path}: cannot be read: damaged ({what}); replace it with an intact copy") from None
    if axes not in ("YX", "YXS", "SYX"):
        raise StppError(f"{path}: has the axes {axes}; save it as rows x columns x bands")
    values = values[..., None] if axes == "YX" else np.moveaxis(values, 0, 2) if axes == "SYX" else values
    return values, kinds.colours_of(page), []


def _array(file: BufferedReader, path: Path) -> tuple[Stored, int, list[str]]:
    """Return the same as `_whole` for a .npy."""
    try:
        values = decode_array(file, "")
    except ValueError as error:
        raise StppError(f"{path}: cannot be read: {error}") from None
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3:
        shape = " x ".join(map(str, values.shape))
        raise StppError(f"{path}: holds {shape} values; an image is rows x columns x bands")
    return values, values.shape[2] if values.shape[2] in (1, 3) else 0, []


def _picture(file: BufferedReader, path: Path, start: bytes) -> tuple[Stored, int, list[str]]:
    """Return the same as `_whole` for a picture that Pillow or OpenCV decodes without changing its values."""
    with Image.open(file, formats=kinds.FORMATS) as header:
        check_header(header, file, path, BYTES.get(header.mode, BYTES_ELSE))
        if kinds.changes_grey_values(start, header):
            raise StppError(f"{path}: its values would be rescaled on reading; save it with 8 or 16 bits")
        check_sound(header, file)
        if (deep := kinds.bands_of_16_bits(header, file)) > 1:
            return _deep(header, file, path, deep)
        image, turned = upright(header)
    notes = ["EXIF orientation: turned upright"] if turned else []
    if image.mode in DEEP:
        return np.asarray(image)[..., None], 1, notes
    if image.mode not in PLAIN:
        if image.mode == "F":
            raise StppError(f"{path}: cannot be read as floating point; save it as TIFF or .npy")
        notes.append(f"{image.mode}: converted to RGB")
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    values = np.asarray(image, dtype=np.uint8)
    values = values[..., None] if values.ndim == 2 else values
    return values, 1 if image.mode in ("L", "LA") else 3, notes


def _deep(header: Image.Image, file: BufferedReader, path: Path, bands: int) -> tuple[Stored, int, list[str]]:
    """Return the same as `_whole` for a PNG or PPM of several bands of 16 bits, which Pillow would read as 8 bits."""
    check_upright(header.getexif().get(0x0112, 1), path)
    file.seek(0)
    try:
        values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or values.dtype != np.uint16 or values.shape[:2] != header.size[::-1]:
        raise StppError(f"{path}: cannot be read: damaged; replace it with an intact copy")
    order = {2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[bands]  # OpenCV gives blue first, and grey with alpha as four
    return values[..., order], 1 if bands == 2 else 3, []


def check_upright(orientation: Any, path: Path) -> None:
    if orientation not in (0, 1):
        raise StppError(f"{path}: is stored turned (orientation {orientation}); save it upright")


def as_rgb(pixels: Pixels) -> Pixels:
    """Return pixels (H, W, C) as RGB (H, W, 3), for people: the first three channels; of two, the first as grey."""
    return (
        pixels
        if pixels.shape[2] == 3
        else np.ascontiguousarray(pixels[..., [0, 1, 2] if pixels.shape[2] > 3 else [0, 0, 0]])
    )


def picture_of(path: Path) -> Pixels:
    """Return any image as RGB (H, W, 3), for people and for comparison with others, whatever its reading is.

    An image that is no ordinary picture is stretched from its lowest to its highest value. Raises StppError that names
    the file if it cannot be read.
    """
    try:
        return read_image(path)[0]
    except StppError:
        with open_image(path) as file:
            values = _whole(file, path)[0][..., :3]
    there = values[np.isfinite(values)]
    low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 0.0)
    return as_rgb(np.stack([scaled(band, (low, max(high, low + 1e-9))) for band in np.moveaxis(values, 2, 0)], axis=2))
