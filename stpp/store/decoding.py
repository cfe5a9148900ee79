"""Fast decoders for PNG and JPEG of 8 bits per channel, the commonest image files.

`decode_png` and `decode_opencv` are faster than Pillow and return the same values. For a file that they cannot decode
they return None, and the caller uses Pillow.
"""

import zlib
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

try:
    from kornia_rs import __version__ as KORNIA
    from kornia_rs.io import ImageDecoder, decode_image_png_u8
except ImportError:  # it has no wheel for some platforms; OpenCV reads the same pixels in twice the time
    KORNIA, decode_image_png_u8, ImageDecoder = "", None, None

# Bytes 24 to 28 of a PNG by Pillow's mode: bits per channel, colour type, compression, filter, and 0: not interlaced.
HEADERS = {"RGB": b"\x08\x02\0\0\0", "L": b"\x08\0\0\0\0", "P": b"\x08\x03\0\0\0"}

# Chunks that do not make Pillow rotate an image or change its colours. A text chunk is harmless unless it holds EXIF.
PLAIN = {b"IHDR", b"IDAT", b"IEND", b"PLTE", *(b"gAMA cHRM sRGB iCCP sBIT bKGD hIST pHYs tIME".split())}
TEXT, OF_EXIF = (b"tEXt", b"zTXt", b"iTXt"), (b"Raw profile", b"XML:")


def versions() -> list[str]:
    """Return the versions of the decoders: with others, pixels may differ."""
    return [PIL.__version__, cv2.__version__, KORNIA]


def decode_png(data: bytes, header: Image.Image, strictly: bool = False) -> NDArray[np.uint8] | None:
    """Decode a PNG, or return None if it is damaged or of an unsupported kind.

    An RGB image gives uint8 (H, W, 3). A grey or palette image gives the values stored in the file, uint8 (H, W).
    header: `data` as opened by Pillow, which has already refused an image that is too large. strictly: check the
    checksum of the pixels too, not only those of the chunks.
    """
    if data[24:29] != HEADERS.get(header.mode) or not _chunks(data) <= PLAIN:
        return None
    if strictly and header.mode == "RGB":  # OpenCV alone checks all checksums, so no second pass is needed
        return decode_opencv(data, header.size)
    try:
        if strictly:
            check_png(BytesIO(data))
    except ValueError:
        return None
    if decode_image_png_u8 is None:
        return decode_opencv(data, header.size) if header.mode == "RGB" else None
    try:
        pixels = decode_image_png_u8(data, header.size[::-1], "rgb" if header.mode == "RGB" else "mono")
    except Exception:  # noqa: BLE001 - the file is damaged; Pillow will say how
        return None
    return np.asarray(pixels if header.mode == "RGB" else pixels[:, :, 0], dtype=np.uint8)


def decode_opencv(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Decode an image with OpenCV to RGB (H, W, 3), or return None if it cannot be read or is not of `size`, (W, H)."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return pixels if pixels is not None and pixels.shape == (*size[::-1], 3) else None  # type: ignore[return-value]


def jpeg_is_damaged(data: bytes) -> bool:
    """Return whether the data of a JPEG is cut or damaged, which other decoders fill with made-up pixels silently.

    Returns False without a check if kornia-rs is not installed.
    """
    try:
        if ImageDecoder is not None:
            ImageDecoder().decode(data)
    except Exception:  # noqa: BLE001 - the decoder raises plain Exception for all damage
        return True
    return False


def _chunks(data: bytes) -> set[bytes]:
    """Return the chunk types of a PNG, without text chunks that hold no EXIF.

    Returns {b""} if a checksum is wrong or the file does not end with IEND.
    """
    kinds, at, all_of = set(), 8, memoryview(data)
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind not in TEXT or data[at + 8 : at + 19].startswith(OF_EXIF):
            kinds.add(kind)
        if zlib.crc32(all_of[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return {b""}
        at = end + 4
    return kinds if at == len(data) and data[-8:-4] == b"IEND" else {b""}


def check_png(file: BinaryIO) -> None:
    """Check every checksum of a PNG and that no pixels are missing; Pillow checks neither.

    Raises ValueError that says what is wrong. Memory use is bounded for every file.
    """
    file.seek(8)
    missing, inflate, kind = 0, zlib.decompressobj(), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        total = zlib.crc32(kind)
        while length:
            if not (block := file.read(min(length, 2**20))):
                raise ValueError("the file ends early")
            length -= len(block)
            total = zlib.crc32(block, total)
            if kind == b"IHDR":
                missing = _inflated(block)
            try:
                while kind == b"IDAT" and missing >= 0 and block and not inflate.eof:
                    missing -= len(inflate.decompress(block, 2**20))
                    block = inflate.unconsumed_tail
                if kind == b"IDAT" and not length and missing >= 0:
                    missing -= len(inflate.flush())
            except zlib.error as error:
                raise ValueError(f"its pixel data is damaged: {error}") from None
        if len(check := file.read(4)) < 4:
            raise ValueError("the file ends early")
        if total != int.from_bytes(check, "big"):
            raise ValueError("wrong checksum: the file was changed after it was written")
    if missing > 0 or (missing == 0 and not inflate.eof):
        raise ValueError("fewer pixels than its header says")


def _inflated(header: bytes) -> int:
    """Return how many bytes the pixels of a PNG take before compression, computed from its IHDR chunk."""
    if len(header) < 13:
        return 0
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (0, 4))
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 0)
    passes = [(0, 0, 1, 1)]
    if header[12]:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
