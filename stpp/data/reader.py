"""The reader of the data set's images and masks by id."""

import hashlib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpp.data.bands import as_rgb, decode_photo
from stpp.data.images import decode_image, open_image
from stpp.data.mask_pixels import decode_mask, to_classes
from stpp.data.pixel_cache import PixelCache
from stpp.store import manifest
from stpp.store.files import StppError
from stpp.store.masks import IGNORE, Mask, MaskSet


class ImageReader:
    """A reader of the data set's images and masks by id. It holds only paths, no pixels.

    cache: keeps decoded pixels for the next read. With None, every read decodes the file.
    """

    def __init__(self, dataset: manifest.Dataset, root: Path, cache: PixelCache | None = None) -> None:
        self.dataset = dataset
        self.root = root
        self.cache = cache
        self.drawn = MaskSet(dataset.drawn) if dataset.drawn else None
        # Part of a cached mask's name: its pixels are class ids, so they depend on what the file's values mean.
        meaning = f"{sorted(dataset.values.items())}{dataset.variable}"
        self.meaning = _suffix(meaning)
        self.way = _suffix(str(dataset.reading)) if dataset.reading else ""

    def image(self, name: str) -> NDArray[np.uint8]:
        """Return an image, uint8 (H, W, channels), RGB if it has three. It may be read-only: do not write to it."""
        record, reading = self.dataset.records[name], self.dataset.reading

        def decode(file: BufferedReader, path: Path) -> NDArray[np.uint8]:
            return decode_photo(file, path, reading).pixels if reading else decode_image(file, path)[0]

        return self._read(record.image, record.image_sha256, decode, self.way)

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Return an image as a person sees it, RGB uint8 (H, W, 3)."""
        return as_rgb(self.image(name))

    def mask(self, name: str) -> Mask:
        """Return a mask as class ids, uint8 (H, W), 255 = ignored. Do not write to the array: it may be read-only.

        Pixels without data in the image are ignored. Raises StppError if the file holds a value that the data set's
        `values` do not name.
        """
        record = self.dataset.records[name]
        if self.drawn:
            mask = self.drawn.read(name)
        else:
            mask = self._read(record.mask, record.mask_sha256, self._classes, self.meaning)
        return self.without_nodata(name, mask)

    def without_nodata(self, name: str, mask: Mask) -> Mask:
        """Return a mask of an image, with 255 where the image has no data."""
        nodata = self.nodata(name)
        return mask if nodata is None else np.where(nodata, np.uint8(IGNORE), mask).astype(np.uint8, copy=False)

    def nodata(self, name: str) -> NDArray[np.bool_] | None:
        """Return where an image has no data, (H, W); None if `data.nodata` is not set."""
        record, reading = self.dataset.records[name], self.dataset.reading
        if reading is None or reading.nodata is None:
            return None

        def decode(file: BufferedReader, path: Path) -> Mask:
            nodata = decode_photo(file, path, reading).nodata
            assert nodata is not None
            return nodata.astype(np.uint8)

        return self._read(record.image, record.image_sha256, decode, f"{self.way}-nodata") > 0

    def _classes(self, file: BufferedReader, path: Path) -> Mask:
        try:
            values = decode_mask(file, path, self.dataset.values, self.dataset.variable)
            return to_classes(values, self.dataset.values)
        except KeyError as error:
            value = manifest.value_name(error.args[0])
            raise StppError(
                f"{path}: value {value} is not a class: the data has changed; run `dvc repro` again"
            ) from None

    def _read(self, name: str, digest: str, decode: Callable[[BufferedReader, Path], Mask], kind: str = "") -> Mask:
        path = self.root / name
        if self.cache is not None:
            return self.cache.read(path, digest, lambda file: decode(file, path), kind)
        with open_image(path) as file:
            return decode(file, path)


def _suffix(way: str) -> str:
    """Return a short hash of how a file is read, for the name of its cached pixels."""
    return "-" + hashlib.sha256(way.encode()).hexdigest()[:8]
