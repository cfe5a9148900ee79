"""Masks as GeoTIFFs, which lie where their images lie: transform and projection are copied as they are stored."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffFile, TiffFileError, TiffWriter

from stpp.data.images import open_image
from stpp.data.kinds import HEAD, kind_of
from stpp.store.manifest import Rgb
from stpp.store.masks import IGNORE, Mask

TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
"""Tags of a GeoTIFF: pixel scale, tie points, transformation, and the keys of the projection with their values."""
NODATA = 42113
Tag = tuple[int, int, int, Any, bool]
"""A tag as tifffile writes it: code, type, count, value, and whether only the first page has it."""


def place_of(image: Path) -> list[Tag]:
    """Return the tags that say where an image lies on the ground; none if it is no GeoTIFF."""
    with open_image(image) as file:
        start = file.read(HEAD)
        file.seek(0)
        if kind_of(start) != "TIFF":
            return []
        try:
            with TiffFile(file, name=image.name) as opened:
                tags = opened.pages.first.tags
                return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in tags if tag.code in TAGS]
        except (TiffFileError, RuntimeError, LookupError, TypeError, struct.error) as error:
            raise ValueError(" ".join(str(error).split())) from None


def encode_geotiff(mask: Mask, palette: Sequence[Rgb], place: Sequence[Tag]) -> bytes:
    """Encode class ids as a TIFF in the data set's colours; 255, the ignored pixels, is declared as no data."""
    colours = np.full((256, 3), 255, np.uint16)
    colours[: len(palette)] = palette
    nodata = [(NODATA, 2, 0, str(IGNORE), True)] if (mask == IGNORE).any() else []
    buffer = io.BytesIO()
    with TiffWriter(buffer) as out:
        out.write(
            mask,
            photometric="palette",
            colormap=colours.T * 257,
            compression="zlib",
            extratags=[*place, *nodata],
            metadata=None,
            software=False,
        )
    return buffer.getvalue()
