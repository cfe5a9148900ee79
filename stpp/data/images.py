"""Readers of images in the common formats; they do not trust what the files hold."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from stpp.data import kinds
from stpp.store import decoding
from stpp.store.files import StppError, open_regular

MAX_PIXELS = 2**28
"""Images of more pixels are refused: 268 megapixels, 0.8 GB as RGB."""
MAX_BYTES = 2**31
"""Bytes of memory that the decoding of one file may take at most."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns above this value, and refuses above twice this value
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Bytes per pixel while an image is decoded, by Pillow mode: Pillow's image, its RGB copy, and the NumPy array.
BYTES = {"RGB": 7, "L": 8, "1": 8, "P": 8, "I;16": 8, "I;16B": 8, "I;16L": 8}
BYTES_ELSE = 11

# EXIF orientation -> the transpose that turns the image upright. ImageOps.exif_transpose is not used: it also writes
# the EXIF data anew, and fails where that is malformed.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow modes other than RGB that are read, and the note on their conversion.
HANDLED = {
    "L": "grey-scale: repeated in three channels",
    "LA": "grey-scale with alpha: alpha dropped",
    "1": "black and white: repeated in three channels",
    "P": "palette: converted to RGB",
    "PA": "palette: converted to RGB",
    "RGBA": "alpha channel: dropped",
    "CMYK": "CMYK: converted to RGB",
    "YCbCr": "YCbCr: converted to RGB",
}
DEEP = ("I", "I;16", "I;16B", "I;16L")
LEVELS = 128
"""A 16-bit image is refused if it keeps fewer than this many of the 256 levels of 8 bits.

An image whose own range is below 256 values only has to keep half of them.
"""


@contextmanager
def open_image(path: Path) -> Iterator[BufferedReader]:
    """Open an image file for reading; errors inside the `with` block become a StppError that names the file."""
    try:
        with open_regular(path) as file:
            try:
                yield file
            except UnidentifiedImageError:
                raise StppError(f"{path}: {kinds.unidentified(file)}") from None
    except FileNotFoundError:
        raise StppError(f"{path}: no such file; is data.root right, and is the data complete?") from None
    except Image.DecompressionBombError:
        raise StppError(f"{path}: more than {MAX_PIXELS} pixels; cut it into tiles") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise StppError(
            f"{path}: cannot be read: damaged or truncated ({error}); replace it with an intact copy"
        ) from None


def check_header(
    header: Image.Image, file: BufferedReader, path: Path, each: int, page: ImageFileDirectory_v2 | None = None
) -> None:
    """Raise StppError if decoding takes too much memory, or if the file is not one ordinary picture.

    each: bytes per pixel while the file is decoded. page: the tags of the page that is read, of several in a TIFF.
    """
    pixels = header.width * header.height
    if pixels * each > MAX_BYTES:
        takes = f"{pixels} need {pixels * each / 2**30:.1f} GB to read"
        raise StppError(
            f"{path}: too many pixels ({takes}; the limit is {MAX_BYTES / 2**30:.0f} GB); cut it into tiles"
        )
    if odd := kinds.why_not_one_picture(header, file) if page is None else kinds.odd_page(page, 0):
        raise StppError(f"{path}: {odd}")


def check_sound(header: Image.Image, file: BufferedReader) -> None:
    """Raise ValueError if a PNG is damaged: Pillow would silently read wrong pixels."""
    if header.format == "PNG":
        at = file.tell()
        decoding.check_png(file)
        file.seek(at)


def upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Decode an image and turn it upright. Return the image, and whether it had to be turned."""
    image.load()
    turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
    return (image if turn is None else image.transpose(turn)), turn is not None


def read_image(path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """Return an image as RGB uint8 (H, W, 3), upright, and notes on how it was converted.

    The notes also say whether a JPEG's data is damaged. Raises StppError that names the file if the file is missing,
    damaged, not an image, or of a kind whose values have no fixed range.
    """
    with open_image(path) as file:
        return decode_image(file, path, strictly=True)


def decode_image(file: BufferedReader, path: Path, strictly: bool = False) -> tuple[NDArray[np.uint8], list[str]]:
    """Decode an image as `read_image` does, from a file that `open_image` opened and that is at its start.

    path: the file's name in errors. strictly: also make the checks that cost extra time: a PNG's second checksum of
    the same bytes, and whether a JPEG's data is damaged.
    """
    with Image.open(file, formats=kinds.FORMATS) as header:
        check_header(header, file, path, BYTES.get(header.mode, BYTES_ELSE))
        notes = _doubts(header, file) if strictly else []
        pixels = decode_fast(header, file, strictly) if header.mode == "RGB" else None
        if pixels is not None:
            return pixels, notes
        deep = kinds.bands_of_16_bits(header, file)
        check_sound(header, file)
        image, turned = upright(header)
    notes += ["EXIF orientation: turned upright"] if turned else []
    if header.format == "MPO" and getattr(header, "n_frames", 1) > 1:
        notes.append("several pictures in one JPEG (MPO): the first is used, as in image viewers")
    if image.mode in DEEP:
        grey, note = _to_8_bits(image, path)
        return np.repeat(grey[:, :, None], 3, axis=2), [*notes, note]
    if image.mode != "RGB" and image.mode not in HANDLED:
        what = (
            "floating point values have no fixed range"
            if image.mode == "F"
            else f"pixel format {image.mode} is not supported"
        )
        raise StppError(f"{path}: {what}; save it as 8-bit, or give data.range")
    if image.mode != "RGB":
        notes.append(HANDLED[image.mode])
    if image.has_transparency_data and _alpha(image) < 255:
        notes.append("transparent pixels: alpha dropped, the colours below it are used")
    if image.mode == "LA":
        image = image.convert("L")
    image.info.pop("transparency", None)  # alpha of a palette: Pillow would warn that it is dropped
    rgb = np.asarray(image.convert("RGB"), dtype=np.uint8)
    if deep:
        notes.append(_kept(rgb, deep, file, path))
    return rgb, notes


def _doubts(header: Image.Image, file: BufferedReader) -> list[str]:
    """Return a note if a JPEG's data is damaged or cut, else no note. A JPEG has no checksum that would show it."""
    if header.format not in ("JPEG", "MPO") or header.mode not in ("RGB", "L"):
        return []
    data = _whole(header, file)
    doubtful = bool(data) and decoding.jpeg_is_damaged(data)
    return ["damaged or truncated JPEG data: the decoder made up the missing pixels"] if doubtful else []


def _alpha(image: Image.Image) -> int:
    """Return the lowest alpha value of an image with transparency, 0 to 255."""
    low, _ = (image if image.mode in ("LA", "PA", "RGBA") else image.convert("RGBA")).getchannel("A").getextrema()
    return int(low)  # type: ignore[arg-type]


def _to_8_bits(image: Image.Image, path: Path) -> tuple[NDArray[np.uint8], str]:
    """Scale a grey image of more than 8 bits to uint8 (H, W), with 65535 as white. Return it with a note.

    Raises StppError if values lie outside 16 bits, or if too little of the range is left (see `_left`).
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise StppError(f"{path}: values beyond 16 bits have no fixed range; save it as 8- or 16-bit")
    table = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
    left = int(table[high]) - int(table[low]) + 1
    return table[values], _left(path, 1, left, high - low + 1)


def _kept(rgb: NDArray[np.uint8], bands: int, file: BufferedReader, path: Path) -> str:
    """Return a note on an image of several 16-bit bands that was decoded to the 8-bit array `rgb`.

    Raises StppError as `_left` does.
    """
    left = int(rgb.max()) - int(rgb.min()) + 1
    had = 65536
    if left < LEVELS:
        file.seek(0)
        try:
            whole = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            whole = None
        had = had if whole is None else int(np.ptp(whole[..., :3])) + 1
    return _left(path, bands, left, had)


def _left(path: Path, bands: int, left: int, had: int) -> str:
    """Return a note on a 16-bit image. Raise StppError if too little of its range is left in 8 bits.

    left: how many of the 256 levels the image spans in 8 bits. had: how many values it spans in the file.
    """
    what = f"{kinds.bands(bands)} of 16 bits"
    if left < min(LEVELS, had / 2):
        dark = f"{what}, but only {left} of 256 levels would be left in 8 bits"
        raise StppError(f"{path}: {dark}; save it as 8-bit, with its range stretched, or give data.range")
    return f"{what}: scaled to 8 bits, with at least half of the levels left"


def decode_fast(image: Image.Image, file: BufferedReader, strictly: bool) -> NDArray[np.uint8] | None:
    """Decode the most common kinds of files faster than Pillow, to the same pixels: (H, W, 3) or (H, W).

    Pillow has already read the header, and images that are too large are already refused. Returns None if the file is
    of another kind or damaged.
    """
    if image.format not in ("JPEG", "PNG"):
        return None
    data = _whole(image, file)
    if image.format == "PNG":
        return decoding.decode_png(data, image, strictly)
    upright = UPRIGHT.get(image.getexif().get(0x0112, 1)) is None
    # A JPEG must have its end marker: OpenCV would make up the missing part of a truncated file.
    plain = image.mode == "RGB" and upright and data.endswith(b"\xff\xd9")
    return decoding.decode_opencv(data, image.size) if plain else None


def _whole(image: Image.Image, file: BufferedReader) -> bytes:
    """Return the bytes of a file, or b"" if it is so large that it must hold more than this picture.

    The file's position, which Pillow relies on, stays as it is.
    """
    at, size = file.tell(), file.seek(0, 2)
    file.seek(0)
    data = file.read() if size <= 4 * image.width * image.height + 2**20 else b""
    file.seek(at)
    return data
