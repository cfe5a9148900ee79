"""Reading images and masks of any common kind, without trust in what they hold."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from stpp.files import StppError
from stpp.masks import Mask

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
MAX_PIXELS = 2**28
"""A file that decodes to more is refused: 268 megapixels, 0.8 GB as RGB."""

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


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise StppError(f"{path}: {image.width} x {image.height} pixels are too many; cut it into tiles")
        image.load()
    except FileNotFoundError:
        raise StppError(f"{path}: no such file; is data.root right, and is the data complete?") from None
    except UnidentifiedImageError:
        raise StppError(f"{path}: not an image ({', '.join(FORMATS)}); replace or remove it") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise StppError(f"{path}: unreadable or truncated ({error}); replace or remove it") from None
    return image


def read_image(path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """RGB (H, W, 3) upright, and what had to be done for that.

    Raises StppError naming the file if it is missing, truncated, no image, or of a kind without a fixed range.
    """
    image = _open(path)
    notes = []
    if image.getexif().get(0x0112, 1) != 1:
        notes.append("EXIF orientation: turned upright")
        image = ImageOps.exif_transpose(image)
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
    return np.asarray(image.convert("RGB"), dtype=np.uint8), notes


def read_mask(path: Path) -> NDArray[np.int32]:
    """The values of a mask as they stand in the file (H, W), upright like its image.

    Raises StppError naming the file if it is missing, truncated, or has colours in place of values.
    """
    image = ImageOps.exif_transpose(_open(path))
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
        raise StppError(
            f"{path}: a mask has one channel of class ids, this is {image.mode}; convert its colours to ids"
        )
    return np.asarray(image).astype(np.int32)


def to_classes(values: NDArray[np.int32], meaning: dict[int, int]) -> Mask:
    """Mask values -> class ids, 255 to be ignored (H, W). Raises KeyError with the first value that has no meaning."""
    table = np.full(max(int(values.max(initial=0)), *meaning) + 1, -1, dtype=np.int16)
    for value, label in meaning.items():
        table[value] = label
    if values.min(initial=0) < 0:
        raise KeyError(int(values.min()))
    labels = table[values]
    if (labels < 0).any():
        raise KeyError(int(values[labels < 0][0]))
    return labels.astype(np.uint8)
