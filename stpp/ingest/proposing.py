"""A proposal of how images that are no ordinary pictures are read: their bands, range and value of no data."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from stpp.data.bands import describe, read_with
from stpp.params.data import NoData
from stpp.store.files import StppError

NODATA = TypeAdapter[float](NoData)
SAMPLE = 10
"""About so many images are read, evenly spaced by name."""


def proposed_reading(images: Sequence[Path]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return values for `data.bands`, `data.range` and `data.nodata`, and a reason for each, by key.

    Both are empty if one of the images that were read is an ordinary picture, or none can be read. `prepare` checks all
    of them.
    """
    found = []
    for path in images[:: max(1, len(images) // SAMPLE)]:
        with suppress(StppError):
            read_with(path, None)
            return {}, {}
        with suppress(StppError):
            found.append(describe(path))
    if not found:
        return {}, {}
    values: dict[str, Any] = {}
    why, first = dict[str, str](), found[0]
    if not first.colours:
        values["bands"] = list(range(1, first.bands + 1))
        three = "read as red, green and blue" if first.bands == 3 else "three, such as [3, 2, 1], would count as RGB"
        why["bands"] = f"all {first.bands}; {three}"
    if first.dtype != "uint8":
        low, high = min(one.low for one in found), max(one.high for one in found)
        values["range"] = "percentile"
        why["range"] = f"{first.dtype}, {low:g} to {high:g} in {len(found)} images; or give what is black and white"
    with suppress(ValueError):  # nothing declared, or a value that cannot be `nodata`, such as nan
        values["nodata"] = NODATA.validate_python(float(first.declared))
        why["nodata"] = "declared in the files (GDAL_NODATA)"
    return values, why
