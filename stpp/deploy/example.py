"""An example of the images that a served model reads."""

import io

import numpy as np
import tifffile
from PIL import Image

from stpp.store.reading import Reading


def example_image(reading: Reading | None) -> bytes:
    """Return an image file that `reading` describes, as an example of the input: a drawn gradient of 96 x 64 pixels."""
    bands = max(reading.bands, default=3) if reading else 3
    across, down = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 64))
    pixels = np.stack([across if at % 2 else down for at in range(max(3, bands))], axis=2).astype(np.uint8)
    file = io.BytesIO()
    if bands <= 3:
        Image.fromarray(pixels).save(file, format="PNG")
    else:
        tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig", metadata=None)
    return file.getvalue()
