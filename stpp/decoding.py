"""The commonest image files, PNG and JPEG of 8 bits a channel, decoded sooner than by Pillow and to the same values."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    from kornia_rs.io import decode_image_png_u8
except ImportError:  # not built for every platform; OpenCV reads the same pixels in twice the time
    decode_image_png_u8 = None

# Of a PNG's header: bits of a channel, kind of colour, and that nothing is interlaced; by Pillow's mode.
HEADERS = {"RGB": b"\x08\x02\0\0\0", "L": b"\x08\0\0\0\0", "P": b"\x08\x03\0\0\0"}

# Chunks by which Pillow neither turns a picture nor changes its colours; of text, some kinds may hold EXIF.
PLAIN = {b"IHDR", b"IDAT", b"IEND", b"PLTE", *(b"gAMA cHRM sRGB iCCP sBIT bKGD hIST pHYs tIME".split())}
TEXT, OF_EXIF = (b"tEXt", b"zTXt", b"iTXt"), (b"Raw profile", b"XML:")


def png(data: bytes, header: Image.Image) -> NDArray[np.uint8] | None:
    """RGB (H, W, 3), or of a grey or a palette picture the values that stand in the file, (H, W).

    header: what Pillow has read of `data`, having refused what is too large. None: the file is another, or damaged.
    """
    if data[24:29] != HEADERS.get(header.mode) or not _chunks(data) <= PLAIN:
        return None
    if decode_image_png_u8 is None:
        return opencv(data, header.size) if header.mode == "RGB" else None
    try:
        pixels = decode_image_png_u8(data, header.size[::-1], "rgb" if header.mode == "RGB" else "mono")
    except Exception:  # noqa: BLE001 - of any damage; Pillow will say what it is
        return None
    return np.asarray(pixels if header.mode == "RGB" else pixels[:, :, 0], dtype=np.uint8)


def opencv(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """RGB (H, W, 3) of any file that OpenCV reads as one of `size`, (W, H)."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return pixels if pixels is not None and pixels.shape == (*size[::-1], 3) else None  # type: ignore[return-value]


def _chunks(data: bytes) -> set[bytes]:
    """The kinds of chunks of a PNG; an empty one among them if the file does not end as it should."""
    kinds, at = set(), 8
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind not in TEXT or data[at + 8 : at + 19].startswith(OF_EXIF):
            kinds.add(kind)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return kinds if at == len(data) and data[-8:-4] == b"IEND" else {b""}
