"""Mask sets: many masks in few files, each checked against a manifest when it is read."""

import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpp.files import ID, StppError, read_csv, replacing
from stpp.manifest import Rgb

Mask = NDArray[np.uint8]
SHARD = re.compile(r"^[\w.-]+\.zip$")
COLUMNS = ("id", "shard", "sha256", "classes", "confidence", "window")
DAMAGED = (OSError, EOFError, KeyError, RuntimeError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error)
"""What zipfile and Pillow raise for a file with changed bytes."""


def shard_of(name: str, shards: int) -> int:
    """The shard that holds an id: stable under any change of the other ids."""
    return zlib.crc32(name.encode()) % shards


def shards_of(ids: Iterable[str], shards: int) -> list[list[str]]:
    """The ids of every shard, each in the given order; some may be empty."""
    parts: list[list[str]] = [[] for _ in range(shards)]
    for name in ids:
        parts[shard_of(name, shards)].append(name)
    return parts


def shard_name(index: int, shards: int) -> str:
    return f"masks-{index:05d}-of-{shards:05d}.zip"


def mask_sha256(mask: Mask) -> str:
    """Hash of a mask's shape and pixels, whatever file holds it."""
    return hashlib.sha256(f"{mask.shape[0]}x{mask.shape[1]}:".encode() + mask.tobytes()).hexdigest()


def encode_mask(mask: Mask, palette: Sequence[Rgb]) -> bytes:
    """A PNG of class ids, shown in the data set's colours, and what is ignored in white."""
    from PIL import Image

    image = Image.fromarray(mask)
    colours = bytes(c for colour in palette for c in colour)
    if mask.max(initial=0) >= len(palette):
        colours = colours.ljust(3 * 256, b"\xff")  # Pillow would keep only the bits that the palette needs
    image.putpalette(colours)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def decode_mask(data: bytes) -> Mask:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        return np.asarray(image, dtype=np.uint8)


def write_shard(path: Path, masks: dict[str, bytes]) -> None:
    """PNGs by id, stored in the order of ids with a fixed date: equal content gives equal bytes."""
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(masks):
            info = zipfile.ZipInfo(f"{name}.png", date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, masks[name])


class MaskSet:
    """A folder of zip shards and manifest.csv, read by id. Open archives belong to the process that opened them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {row["id"]: row for row in read_csv(folder / "manifest.csv", COLUMNS)}
        for name, row in self.rows.items():
            if not ID.match(name) or not SHARD.match(row["shard"]):
                raise StppError(f"{folder / 'manifest.csv'}: {name!r} in {row['shard']!r} is no mask of a mask set")
        self._open: dict[tuple[int, str], zipfile.ZipFile] = {}

    @property
    def ids(self) -> list[str]:
        return list(self.rows)

    def read(self, name: str) -> Mask:
        """The mask of an id, uint8 (H, W). Raises StppError if it is not the mask that the manifest names."""
        row = self.rows[name]
        key = (os.getpid(), row["shard"])
        try:
            if key not in self._open:
                self._open[key] = zipfile.ZipFile(self.folder / row["shard"])
            mask = decode_mask(self._open[key].read(f"{name}.png"))
        except DAMAGED as error:
            raise StppError(f"{self.folder / row['shard']}: mask {name}: {error}; run `dvc repro` again") from None
        if mask_sha256(mask) != row["sha256"]:
            raise StppError(f"{self.folder / row['shard']}: mask {name} is not the one in manifest.csv; was it edited?")
        return mask

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}
