"""Readers of masks in the common formats, and the meaning of their values; they do not trust what the files hold."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from stpp.data import kinds
from stpp.data.arrays import decode_array, is_array
from stpp.data.images import DEEP, check_header, check_sound, decode_fast, open_image, upright
from stpp.store.files import StppError
from stpp.store.manifest import COLOUR, Rgb, by_colour
from stpp.store.masks import Mask

Values = NDArray[np.uint8] | NDArray[np.int32]
"""The values of a mask as stored in its file, (H, W)."""
Layer = NDArray[np.bool_]
"""The pixels of one class, or of one object of it, (H, W)."""
NOTHING: Mapping[int, int] = MappingProxyType({})

# Bytes per pixel while a mask is decoded.
BYTES_OF_MASK, BYTES_OF_DEEP_MASK = 4, 20


class MaskOfColoursError(StppError):
    """A mask holds colours where class ids are expected; `pixels` counts them, colour -> pixels, unless too many."""

    def __init__(self, message: str, pixels: Mapping[int, int]) -> None:
        super().__init__(message)
        self.pixels = pixels


def read_mask(path: Path, meaning: Mapping[int, int] = NOTHING, variable: str = "") -> Values:
    """Return the values of a mask as stored in the file, (H, W), upright like its image.

    meaning: mask value -> class id. If it holds colours, the mask is read by colour: each value is `COLOUR` + 0xRRGGBB.
    If it is made of ranges, lossy compression is accepted (see `of_ranges`). variable: which variable of a .mat holds
    the mask (see `read_mat`). The array is uint8 where the file has at most 8 bits, else int32.

    Raises StppError that names the file if the file is missing, damaged, compressed with loss, or holds colours instead
    of values.
    """
    with open_image(path) as file:
        return decode_mask(file, path, meaning, variable, strictly=True)


def decode_mask(
    file: BufferedReader,
    path: Path,
    meaning: Mapping[int, int] = NOTHING,
    variable: str = "",
    strictly: bool = False,
) -> Values:
    """Decode a mask as `read_mask` does, from a file that `open_image` opened and that is at its start.

    path, strictly: as for `decode_image`.
    """
    start = file.read(26)
    file.seek(0)
    if is_array(start):
        return _values(_array(file, path, variable), None, "", meaning, path)
    with Image.open(file, formats=kinds.FORMATS) as header:
        pixels, palette, lossy = _picture(header, file, path, start, meaning, strictly)
    return _values(pixels, palette, lossy, meaning, path)


def _values(
    pixels: Values, palette: Sequence[Rgb] | None, lossy: str, meaning: Mapping[int, int], path: Path
) -> Values:
    """Return the values (H, W) of a decoded mask. pixels, palette, lossy: as `_picture` returns them."""
    if by_colour(meaning):
        return _packed(pixels, palette, path)
    if pixels.ndim == 3:
        reds, greens, blues = (pixels[:, :, band] for band in range(3))
        if lossy and max(np.mean(cv2.absdiff(reds, greens)), np.mean(cv2.absdiff(blues, greens))) < GREY_ENOUGH:
            return pixels[:, :, 1].copy()
        if not (np.array_equal(reds, greens) and np.array_equal(reds, blues)):
            raise _of_colours(pixels, path)
        return pixels[:, :, 0].copy()
    return pixels


def _picture(
    header: Image.Image,
    file: BufferedReader,
    path: Path,
    start: bytes,
    meaning: Mapping[int, int],
    strictly: bool,
    page: ImageFileDirectory_v2 | None = None,
) -> tuple[Values, list[Rgb] | None, str]:
    """Decode a mask that is a picture; return its values (H, W) or RGB (H, W, 3), its palette and lossy compression.

    start: the file's first bytes. page: the tags of the page that is read, of several in a TIFF. The palette is None
    unless colours are needed. The compression is "" if it is exact.
    """
    colours = by_colour(meaning)
    check_header(header, file, path, BYTES_OF_MASK if header.mode in ("L", "P", "1") else BYTES_OF_DEEP_MASK, page)
    if (lossy := kinds.lossy_compression(header, file)) and not of_ranges(meaning):
        raise StppError(f"{path}: stored as {lossy}, which changes mask values; {_instead_of_lossy(header)}")
    scaled = kinds.changes_grey_values(start, header)
    palette = _palette(header) if colours and header.mode == "P" else None
    deep = kinds.bands_of_16_bits(header, file) if header.mode not in ("L", "P", "1", *DEEP) else 0
    fast = header.mode in ("L", "P", "RGB") and not deep
    pixels: Values | None = decode_fast(header, file, strictly) if fast else None
    if pixels is None:
        check_sound(header, file)
        pixels = _channels(upright(header)[0], path, deep, scaled, colours)
    return pixels, palette, lossy


HALVES: Mapping[int, int] = MappingProxyType({value: value // 128 for value in range(256)})
"""The meaning of a mask of one class with lossy compression: from 128 on, a pixel belongs to the class."""


def read_layers(path: Path, variable: str = "") -> Iterator[tuple[Layer, str]]:
    """Yield the pixels of a mask file of one class, bool (H, W), upright: for each page of a TIFF, else once.

    A pixel belongs to the class if its value is not 0. With lossy compression, whose name comes second, it belongs from
    128 on. variable: as for `read_mask`. Raises StppError that names the file if it is missing, damaged or no mask, if
    it holds colours, or if it is not clear which of its values is 0.
    """
    with open_image(path) as file:
        start = file.read(26)
        file.seek(0)
        if is_array(start):
            yield _values(_array(file, path, variable), None, "", NOTHING, path) != 0, ""
            return
        with Image.open(file, formats=kinds.FORMATS) as header:
            pages = kinds.whole_pages(file) if header.format == "TIFF" else []
            if len(pages) > kinds.PAGES:
                raise StppError(f"{path}: more than {kinds.PAGES} pages; split it into several files")
            for number in pages if len(pages) > 1 else [0]:
                try:
                    yield _layer(header, file, path, start, number if len(pages) > 1 else None)
                except MaskOfColoursError as error:
                    what = "a mask file of one class is grey, with 0 outside; convert it"
                    raise StppError(f"{path}: holds {len(error.pixels) or 'many'} colours, but {what}") from None
                except (EOFError, KeyError, TypeError) as error:
                    raise ValueError(f"page {number + 1}: {error}") from None


def _layer(
    header: Image.Image, file: BufferedReader, path: Path, start: bytes, number: int | None
) -> tuple[Layer, str]:
    """Return what `read_layers` yields for a picture. number: which page of a TIFF, if it has several."""
    if number is not None:
        header.seek(number)
    palette = _palette(header)
    lossy = kinds.lossy_compression(header, file)
    page = header.tag_v2 if number is not None else None  # type: ignore[attr-defined]
    decoded = _picture(header, file, path, start, HALVES if lossy else NOTHING, True, page)
    values = _values(*decoded, NOTHING, path)
    if lossy and not two_peaks(values):
        remedy = "export the mask as PNG from its lossless original"
        raise StppError(f"{path}: stored as {lossy}, and most values are neither almost 0 nor 255; {remedy}")
    return (values >= 128 if lossy else _not_0(values, palette, path)), lossy


def _not_0(values: Values, palette: Sequence[Rgb], path: Path) -> Layer:
    """Return the pixels of a mask that are not 0, as a value or, with a palette of greys, as a colour.

    Tools that write GIF give a picture of one value the index 0. Raises StppError if value and colour disagree.
    """
    shown = {value: palette[value] for value in values_in(values) if value < len(palette)} if palette else {}
    black = {value for value, colour in shown.items() if colour == (0, 0, 0)}
    by_value: Layer = values != 0
    if black == {0} & {*shown}:
        return by_value
    if black == {*shown} or any(len({*colour}) > 1 for colour in shown.values()):
        what = (
            f"its palette shows {', '.join('{} as #{:02x}{:02x}{:02x}'.format(v, *c) for v, c in [*shown.items()][:3])}"
        )
        raise StppError(f"{path}: {what}, so it is not clear which value is outside; save it as grey, with 0 outside")
    coloured: Layer = np.isin(values, [*black], invert=True)
    return coloured


def _array(file: BufferedReader, path: Path, variable: str) -> Values:
    """Decode a mask that is an array: return whole numbers (H, W), uint8 or int32, or RGB, uint8 (H, W, 3)."""
    try:
        values = decode_array(file, variable)
    except ValueError as error:
        raise StppError(f"{path}: cannot be read: {error}") from None
    rgb = values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8
    if (values.ndim != 2 and not rgb) or values.dtype.kind not in "biuf" or not values.size:
        shape = " x ".join(map(str, values.shape))
        raise StppError(f"{path}: holds {shape} values of type {values.dtype}; a mask is rows x columns of numbers")
    if values.dtype in (np.uint8, np.bool_):
        return np.ascontiguousarray(values, dtype=np.uint8)
    if not (
        np.isfinite(values).all()
        and ((values > -COLOUR) & (values < COLOUR)).all()
        and (values == np.trunc(values)).all()
    ):
        raise StppError(f"{path}: holds values that are no class ids: fractions, or beyond 24 bits")
    return np.ascontiguousarray(values, dtype=np.int32)


GREY_ENOUGH = 4
"""Lossy compression changes the bands of a grey mask by less than this, on average."""


def _channels(image: Image.Image, path: Path, deep: int, scaled: bool, colours: bool) -> Values:
    """Return the values of a decoded mask, (H, W), or the colours of an RGB mask, (H, W, 3).

    deep: the number of 16-bit bands if it has several, else 0. scaled: Pillow has changed its grey values. colours:
    whether colours are needed. Raises StppError if the values are not those of the file, or if pixels are transparent.
    """
    if image.mode != "P" and scaled:
        raise StppError(f"{path}: its grey values would be rescaled on reading; save the mask as 8-bit PNG")
    if deep or image.mode not in ("L", "P", "1", "RGB", "RGBA", "LA", *DEEP):
        what = kinds.bands(deep) + " of 16 bits" if deep else image.mode
        remedy = "save it with integer values" if image.mode == "F" else "convert its colours to ids"
        raise StppError(f"{path}: a mask must have one channel of class ids, but this is {what}; {remedy}")
    if image.mode in ("RGBA", "LA") or (colours and image.has_transparency_data):
        alpha = np.asarray((image if image.mode in ("LA", "RGBA") else image.convert("RGBA")).getchannel("A"))
        if clear := int((alpha < 255).sum()):
            raise StppError(f"{path}: {clear} pixels are transparent, so they have no colour; save it without alpha")
    if image.mode in ("L", "P") or (image.mode == "1" and not colours):
        return np.asarray(image).astype(np.uint8, copy=False)
    if image.mode in DEEP:
        return np.asarray(image).astype(np.int32)
    return np.asarray(image.convert("L" if image.mode == "LA" else "RGB"), dtype=np.uint8)


def _instead_of_lossy(image: Image.Image) -> str:
    """Return what to do about a mask with lossy compression: by ranges if it has two peaks."""
    remedy = "export the mask as PNG from its lossless original"
    if image.format == "TIFF" or not two_peaks(np.asarray(image.convert("L"))):
        return remedy
    return f"{remedy}, or read it by ranges, as most values are almost 0 or 255: {RANGES}"


def two_peaks(values: Values) -> bool:
    """Return whether four fifths of a mask's values are almost 0 or 255, so that it shows two classes."""
    return bool(((values < 5) | (values > 250)).mean() >= 0.8)


RANGES = 'data.values: {"0-127": 0, "128-255": 1}'


def of_ranges(meaning: Mapping[int, int]) -> bool:
    """Return whether every value from 0 to 255 has a meaning, which a neighbour of it shares.

    The small changes by lossy compression or antialiasing then matter at the borders of objects only.
    """
    if len(meaning) < 256 or not all(value in meaning for value in range(256)):
        return False
    labels = np.array([meaning[value] for value in range(256)])
    same = np.concatenate([[False], labels[1:] == labels[:-1], [False]])
    return bool((same[1:] | same[:-1]).all())


def _packed(pixels: Values, palette: Sequence[Rgb] | None, path: Path) -> Values:
    """Return the colours of a mask as values (H, W). pixels: RGB (H, W, 3), or grey or indices of `palette` (H, W)."""
    if pixels.dtype != np.uint8:
        raise StppError(f"{path}: holds values of 16 bits, but data.values names colours; name its values there")
    if pixels.ndim == 3:
        packed = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)).view(np.int32)[:, :, 0]
        return np.bitwise_and(packed, 2 * COLOUR - 1, out=packed)  # alpha, 255, becomes COLOUR
    colours = [(v, v, v) for v in range(256)] if palette is None else palette
    table = np.zeros(256, np.int32)
    table[: len(colours)] = [COLOUR + (r << 16) + (g << 8) + b for r, g, b in colours]
    found = table[pixels]
    if not found.all():
        raise StppError(f"{path}: value {int(pixels.max())} has no colour in its palette of {len(colours)} colours")
    return found


def _of_colours(pixels: Values, path: Path) -> MaskOfColoursError:
    """Return the error for an RGB mask (H, W, 3) where class ids are expected."""
    pixels_of, count = counts_in(_packed(pixels, None, path))
    what = f"a mask must have one channel of class ids, but this is RGB with {count} colours"
    if count > MOST_COLOURS:
        return MaskOfColoursError(f"{path}: {what}, like a photo; is it a mask?", {})
    return MaskOfColoursError(f"{path}: {what}; name them in data.values, or convert its colours to ids", pixels_of)


MOST_COLOURS = 1000
"""The most colours that are counted; a mask of more is no mask of classes."""


def palette_of(path: Path) -> list[Rgb]:
    """Return the palette of a mask's file: a colour for each value from 0 on; empty if the file has no palette."""
    with open_image(path) as file:
        start = file.read(26)
        file.seek(0)
        if is_array(start):
            return []
        with Image.open(file, formats=kinds.FORMATS) as header:
            return _palette(header)


def _palette(header: Image.Image) -> list[Rgb]:
    """Return the same as `palette_of` for an open file that is not decoded yet."""
    if header.mode != "P" or header.palette is None:
        return []
    plain = header.palette.rawmode == "RGB"  # an RGB palette can be read without decoding the image
    numbers = list(header.palette.palette if plain else header.getpalette("RGB") or ())
    return [(r, g, b) for r, g, b in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False)]


def values_in(values: Values) -> list[int]:
    """Return the values that occur in a mask, in ascending order."""
    if values.dtype != np.uint8:
        return sorted({value for band in _bands(values) for value in np.unique(band[_starts(band)]).tolist()})
    counts = cv2.calcHist([values], [0], None, [256], [0, 256])
    return [int(value) for value in np.flatnonzero(counts)]


def counts_in(values: Values, known: Mapping[int, int] = NOTHING) -> tuple[dict[int, int], int]:
    """Return the pixels of the values in a mask that are not among `known`, and the number of such values.

    Only the MOST_COLOURS most frequent ones are returned, the most frequent first: a photo holds millions of colours.
    """
    low, high = int(values.min()), int(values.max())
    if high - low < min(COLOUR, max(2**16, 4 * values.size)):  # else the table is larger than the mask
        total = np.zeros(high - low + 1, np.int64)
        for band in _bands(values):
            total += np.bincount(band.astype(np.int64) - low, minlength=total.size)
        found = np.flatnonzero(total)
        pixels, found = total[found], found + low
    else:
        found, pixels = np.unique(values, return_counts=True)
    unknown = np.isin(found, [*known], invert=True)
    found, pixels = found[unknown], pixels[unknown]
    top = np.argsort(-pixels, kind="stable")[:MOST_COLOURS]
    return dict(zip(found[top].tolist(), pixels[top].tolist(), strict=True)), found.size


def _bands(values: Values) -> list[Values]:
    """Return a mask's values in parts of some 16 megapixels, so that counting takes little memory."""
    flat = values.ravel()
    return [flat[at : at + 2**24] for at in range(0, flat.size, 2**24)]


def _starts(flat: Values) -> NDArray[np.intp]:
    """Return where the runs of equal values start. Masks have few, so it is faster to sort these than all pixels."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, flat.size), np.bool_), flat[1:] != flat[:-1]]))


def to_classes(values: Values, meaning: Mapping[int, int]) -> Mask:
    """Map mask values to class ids, uint8 (H, W), 255 = ignored.

    Raises KeyError with the first value that `meaning` does not contain.
    """
    if values.dtype == np.uint8:
        few, nothing = _few(tuple(meaning.items()))
        if nothing is not None:
            classes = np.asarray(cv2.LUT(values, few), dtype=np.uint8)
            if (classes == nothing).any():
                raise KeyError(int(values[classes == nothing][0]))
            return classes
    if by_colour(meaning):
        return _of_colour(values, tuple(meaning.items()))
    top = max(meaning)
    table = np.full(top + 2, -1, dtype=np.int16)  # last entry, also index -1: all values outside 0..top
    for value, label in meaning.items():
        table[value] = label
    labels = table[np.clip(values.astype(np.int32, copy=False), -1, top + 1)]
    if (labels < 0).any():
        raise KeyError(int(values[labels < 0][0]))
    return np.asarray(labels, dtype=np.uint8)


@lru_cache(maxsize=8)
def _few(meaning: tuple[tuple[int, int], ...]) -> tuple[Mask, int | None]:
    """Return a table from 8-bit values to classes, and the number that marks values without a meaning.

    No class has that number. It is None if the classes use all 256 numbers: then the table has no mark.
    """
    nothing = min(set(range(256)).difference(label for _, label in meaning), default=None)
    few = np.full(256, nothing or 0, dtype=np.uint8)
    for value, label in meaning:
        if value < len(few):
            few[value] = label
    return few, nothing


def _of_colour(values: Values, meaning: tuple[tuple[int, int], ...]) -> Mask:
    """Do the same as `to_classes` for colours."""
    table, nothing = _colour_table(meaning)
    classes = table[values & COLOUR - 1]
    if (classes == nothing).any():
        raise KeyError(int(values[classes == nothing][0]))
    return np.asarray(classes, dtype=np.uint8)


@lru_cache(maxsize=2)
def _colour_table(meaning: tuple[tuple[int, int], ...]) -> tuple[Mask, int]:
    """Return a table from 0xRRGGBB to classes, 16 MiB, and the number that marks colours without a meaning."""
    nothing = min(set(range(256)).difference(label for _, label in meaning))
    table = np.full(COLOUR, nothing, dtype=np.uint8)
    for value, label in meaning:
        table[value - COLOUR] = label
    return table, nothing
