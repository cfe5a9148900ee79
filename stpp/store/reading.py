"""How the values in image files become pixels: the bands that are read, their ranges, and the value of no data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

Span = tuple[float, float]
"""The values that become 0 and 255."""


@dataclass(frozen=True)
class Reading:
    """How the values in image files become pixels of 0 to 255; it is the same for all images of a data set.

    Where there is no Reading, images are ordinary pictures: grey or RGB, with 8 bits or the whole range of 16.
    Raises ValueError for bands below 1, a range whose first value is not below its second, or lengths that differ.
    """

    bands: tuple[int, ...] = ()
    """The numbers of the bands that are read, from 1 on. Empty: the colours of a picture, or its grey band."""
    ranges: tuple[Span, ...] = ()
    """The range of every channel, or one for all. Empty: files of 8 bits, whose values stay as they are."""
    nodata: float | None = None
    """A pixel that has this value in all bands that are read has no data."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Mean and standard deviation of every channel, in pixels / 255, if the images are not of three channels."""

    def __post_init__(self) -> None:
        if any(band < 1 for band in self.bands) or any(not low < high for low, high in self.ranges):
            raise ValueError("bands count from 1, and the first value of a range is below the second")
        lengths = {len(self.ranges)} - {0, 1} | {len(self.mean), len(self.std)} - {0}
        if lengths - {self.channels} or any(not value > 0 for value in self.std):
            raise ValueError(f"ranges, mean and deviation must be of {self.channels} channels")

    @property
    def channels(self) -> int:
        """The number of channels of the pixels; a single band is repeated in three, as in a grey picture."""
        return len(self.bands) if len(self.bands) > 1 else 3


def as_json(reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON data, without what it leaves open."""
    found: dict[str, Any] = TypeAdapter(Reading).dump_python(reading, mode="json", exclude_defaults=True)
    return found


def from_json(raw: Mapping[str, Any] | None) -> Reading | None:
    """Return the reading that `as_json` wrote. Raises ValueError if it is malformed."""
    return None if raw is None else TypeAdapter(Reading).validate_python(raw)
