"""Decoders of run-length encoded masks: the text of COCO, and the brush strokes of Label Studio."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpp.ingest.shapes import MAX_PIXELS, Numbers


def from_text(text: str) -> Numbers:
    """Return the run lengths in COCO's compressed text.

    A number is a series of characters of 5 bits, the lowest first; a sixth bit says that another character follows.
    From the fourth on, a number is the difference to the one two before it. Raises ValueError for other text.
    """
    code = np.frombuffer(text.encode("latin-1", errors="replace"), np.uint8).astype(np.int64) - 48
    if not len(code) or code.min() < 0 or code.max() > 63 or code[-1] & 32:
        raise ValueError("run lengths that are no text of COCO")
    last = np.flatnonzero(code & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:
        raise ValueError("run lengths beyond 32 bits")
    place = np.arange(len(code)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((code & 31) << (5 * place), first)
    numbers -= np.where(code[last] & 16, np.int64(1) << (5 * (last - first + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers.astype(np.float64)


def from_brush(data: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the bitmap (H, W) of a brush of Label Studio: the pixels that it covers at least half.

    data: the bytes of the encoding, which packs RGBA values bit by bit: the number of values (32 bits), bits of a value
    less 1 (5), four widths of a run's length less 1 (4 each); then runs, each with a bit that says whether one value is
    repeated, the number of its width (2), its length less 1, and its value or values. Raises ValueError for other data,
    and for a mask of another size.
    """
    bits = _Bits(data)
    values = bits.read(32)
    if values != 4 * height * width or height * width > MAX_PIXELS:
        raise ValueError(f"a brush of {values} values for an image of {width} x {height} pixels")
    size = bits.read(5) + 1
    widths = [bits.read(4) + 1 for _ in range(4)]
    found = np.zeros(values, np.uint8)
    at = 0
    while at < values:
        repeated = bits.read(1)
        end = at + 1 + bits.read(widths[bits.read(2)])
        if end > values:
            raise ValueError(f"a brush longer than its image of {width} x {height} pixels")
        found[at:end] = min(bits.read(size), 255) if repeated else bits.several(size, end - at)
        at = end
    return found.reshape(height, width, 4)[:, :, 3] > 127


class _Bits:
    """A sequence of bits, which is read from its start; the highest bit of a byte is the first."""

    def __init__(self, data: Any) -> None:
        self._data = np.asarray(data, np.float64).astype(np.uint8).tobytes()
        self._at = 0

    def read(self, count: int) -> int:
        """Return the next bits as a number. Raises ValueError at the end of the data."""
        end = self._at + count
        some = self._data[self._at >> 3 : (end + 7) >> 3]
        if end > 8 * len(self._data):
            raise ValueError("a brush that ends too soon")
        self._at = end
        return int.from_bytes(some) >> (-end & 7) & ((1 << count) - 1)

    def several(self, size: int, count: int) -> NDArray[np.uint8]:
        """Return the next `count` numbers of `size` bits each, at most 255."""
        first, end = self._at, self._at + size * count
        if end > 8 * len(self._data):
            raise ValueError("a brush that ends too soon")
        some = np.unpackbits(np.frombuffer(self._data[first >> 3 : (end + 7) >> 3], np.uint8))
        numbers = some[first & 7 :][: size * count].reshape(count, size) @ (1 << np.arange(size - 1, -1, -1))
        self._at = end
        return np.minimum(numbers, 255).astype(np.uint8)
