"""Reading images and masks of any common kind, without trust in what they hold."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stpp import decoding
from stpp.files import StppError, open_regular
from stpp.masks import Mask

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
MAX_PIXELS = 2**28
"""A file that decodes to more is refused: 268 megapixels, 0.8 GB as RGB."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns above it, and refuses more than twice as many

# EXIF orientation -> what turns it upright. ImageOps.exif_transpose writes the EXIF anew, and fails where it is odd.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Modes that are not plain RGB, and what is done with them.
HANDLED = {
    "L": "grey-scale: repeated in three channels",
    "LA": "grey-scale with alpha: alpha dropped",
    "1": "black and white: repeated in three channels",
    "P": "palette: converted to RGB",
    "RGBA": "alpha channel: dropped",
    "CMYK": "CMYK: converted to RGB",
    "YCbCr": "YCbCr: converted to RGB",
    "I": "more than 8 bits: scaled to 8",
    "I;16": "16-bit: scaled to 8",
    "I;16B": "16-bit: scaled to 8",
    "I;16L": "16-bit: scaled to 8",
}


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """An image's file; what goes wrong with it there is an StppError that names it."""
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise StppError(f"{path}: no such file; is data.root right, and is the data complete?") from None
    except UnidentifiedImageError:
        raise StppError(f"{path}: not an image ({', '.join(FORMATS)}); replace or remove it") from None
    except Image.DecompressionBombError:
        raise StppError(f"{path}: more than {MAX_PIXELS} pixels are too many; cut it into tiles") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise StppError(f"{path}: unreadable or truncated ({error}); replace or remove it") from None


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image decoded and upright, and whether it had to be turned."""
    image.load()
    turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
    return (image if turn is None else image.transpose(turn)), turn is not None


def read_image(path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """RGB (H, W, 3) upright, and what had to be done for that.

    Raises StppError naming the file if it is missing, truncated, no image, or of a kind without a fixed range.
    """
    with opened(path) as file:
        return decode_image(file, path)


def decode_image(file: BufferedReader, path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """As `read_image`, from a file `opened` and at its start; `path` is its name in errors."""
    with Image.open(file, formats=FORMATS) as header:
        pixels = _fast(header, file) if header.mode == "RGB" else None
        if pixels is not None:
            return pixels, []
        image, turned = _upright(header)
    notes = ["EXIF orientation: turned upright"] if turned else []
    if image.mode == "RGB":
        return np.asarray(image, dtype=np.uint8), notes
    if image.mode not in HANDLED:
        raise StppError(f"{path}: images of mode {image.mode} have no fixed range; save it as 8- or 16-bit")
    notes.append(HANDLED[image.mode])
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise StppError(f"{path}: values beyond 16 bits have no fixed range; save it as 8- or 16-bit")
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), notes
    if image.mode == "LA":
        image = image.convert("L")
    image.info.pop("transparency", None)  # alpha of a palette: Pillow would warn that it is dropped
    return np.asarray(image.convert("RGB"), dtype=np.uint8), notes


def _fast(image: Image.Image, file: BufferedReader) -> NDArray[np.uint8] | None:
    """The pixels of the plainest and commonest files, equal to Pillow's but sooner there: (H, W, 3) or (H, W).

    Pillow has read the header, and refused what is too large. None: the file is another, or is not right.
    """
    if image.format not in ("JPEG", "PNG"):
        return None
    data = _whole(image, file)
    if image.format == "PNG":
        return decoding.png(data, image)
    upright = UPRIGHT.get(image.getexif().get(0x0112, 1)) is None
    # Of a truncated file OpenCV would make up the rest.
    plain = image.mode == "RGB" and upright and data.endswith(b"\xff\xd9")
    return decoding.opencv(data, image.size) if plain else None


def _whole(image: Image.Image, file: BufferedReader) -> bytes:
    """The file, or nothing of one that holds more than this picture; where Pillow is in it, it stays."""
    at, size = file.tell(), file.seek(0, 2)
    file.seek(0)
    data = file.read() if size <= 4 * image.width * image.height + 2**20 else b""
    file.seek(at)
    return data


def read_mask(path: Path) -> NDArray[np.uint8] | NDArray[np.int32]:
    """The values of a mask as they stand in the file (H, W), upright like its image; uint8 where 8 bits hold them.

    Raises StppError naming the file if it is missing, truncated, or has colours in place of values.
    """
    with opened(path) as file:
        return decode_mask(file, path)


def decode_mask(file: BufferedReader, path: Path) -> NDArray[np.uint8] | NDArray[np.int32]:
    """As `read_mask`, from a file `opened` and at its start; `path` is its name in errors."""
    start = file.read(26)
    file.seek(0)
    with Image.open(file, formats=FORMATS) as header:
        scaled = _scaled(start, header)
        pixels = _fast(header, file) if header.mode in ("L", "P") else None
        if pixels is not None:
            return pixels
        image, _ = _upright(header)
    if image.mode != "P" and scaled:
        raise StppError(f"{path}: its grey values are read scaled to 8 or 16 bits; save the mask as PNG with 8 bits")
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
        raise StppError(
            f"{path}: a mask has one channel of class ids, this is {image.mode}; convert its colours to ids"
        )
    if image.mode in ("L", "P", "1"):
        return np.asarray(image).astype(np.uint8, copy=False)
    return np.asarray(image).astype(np.int32)


def _scaled(start: bytes, image: Image.Image) -> bool:
    """Whether Pillow stretches the values of a grey file to the range of its mode, or turns them round."""
    if start.startswith(b"\x89PNG"):
        return start[24] in (2, 4) and start[25] == 0
    if image.format == "PPM":
        args = image.tile[0].args  # type: ignore[attr-defined]
        return image.mode == "1" or (isinstance(args, tuple) and args[1] not in (255, 65535))
    if image.format == "TIFF":
        bits, photometric = (image.tag_v2.get(tag) for tag in (258, 262))  # type: ignore[attr-defined]
        return bits in ((2,), (4,)) or photometric == 0
    return False


def to_classes(values: NDArray[np.uint8] | NDArray[np.int32], meaning: dict[int, int]) -> Mask:
    """Mask values -> class ids, 255 to be ignored (H, W). Raises KeyError with the first value that has no meaning."""
    few, nothing = _few(tuple(meaning.items()))
    if values.dtype == np.uint8 and nothing is not None:
        classes = np.asarray(cv2.LUT(values, few), dtype=np.uint8)
        if (classes == nothing).any():
            raise KeyError(int(values[classes == nothing][0]))
        return classes
    top = max(meaning)
    table = np.full(top + 2, -1, dtype=np.int16)  # its last entry, at -1 too, is that of all values beyond
    for value, label in meaning.items():
        table[value] = label
    labels = table[np.clip(values.astype(np.int32, copy=False), -1, top + 1)]
    if (labels < 0).any():
        raise KeyError(int(values[labels < 0][0]))
    return np.asarray(labels, dtype=np.uint8)


@lru_cache(maxsize=8)
def _few(meaning: tuple[tuple[int, int], ...]) -> tuple[Mask, int | None]:
    """The class of every value of 8 bits, and what stands for one without a meaning; None: all 256 are classes."""
    nothing = min(set(range(256)).difference(label for _, label in meaning), default=None)
    few = np.full(256, nothing or 0, dtype=np.uint8)
    for value, label in meaning:
        if value < len(few):
            few[value] = label
    return few, nothing
