"""Mask sets: many masks in a few zip shards, each mask checked against the manifest when it is read."""

import csv
import hashlib
import heapq
import io
import math
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpp.store import decoding
from stpp.store.files import ID, StppError, atomic_write, lines_of, open_regular, read_bytes, scan_csv, write_csv
from stpp.store.manifest import Rgb, read_table
from stpp.store.packed import PackedStrings

IGNORE = 255
"""The class id of ignored pixels, in masks and losses."""
Mask = NDArray[np.uint8]
Levels = NDArray[np.uint8]
"""A soft mask: the probabilities of all classes as levels (H, W, classes) that add up to 255, or are all 0 if ignored.

Like a `Mask`, it has 255 everywhere at a pixel that an augmentation has made ignored.
"""
SHARD = re.compile(r"^[\w.-]+\.zip$")
COLUMNS = ("id", "shard", "sha256", "classes", "confidence", "window")
"""The columns of a mask set's manifest.csv.

classes: the pixels of each class, separated by spaces. confidence: the mean over the pixels, in [0, 1]. window: the
side of the sliding windows in pixels, or empty if the whole image was predicted at once.
"""
SOFT = "soft"
"""The last column in a mask set with soft masks: the sha256 of the levels. It is also the suffix of their files."""
LARGEST = 2**28
"""The largest number of pixels of a mask; images have the same limit."""
DAMAGED = (
    *(OSError, EOFError, KeyError, OverflowError, RuntimeError, SyntaxError, ValueError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
"""The errors that zipfile and Pillow raise for a damaged file."""


def shard_of(name: str, shards: int) -> int:
    """Return the index of the shard that holds an id; it does not depend on the other ids."""
    return zlib.crc32(name.encode()) % shards


def shards_of(ids: Iterable[str], shards: int) -> list[PackedStrings]:
    """Return the list of ids of every shard, each in the given order; a list may be empty."""
    ids = PackedStrings(ids)
    of = np.fromiter((shard_of(name, shards) for name in ids), np.int64, len(ids))
    by_shard = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[by_shard], np.arange(1, shards))
    return [PackedStrings(ids[at] for at in part.tolist()) for part in np.split(by_shard, ends)]


def shard_name(index: int, shards: int) -> str:
    return f"masks-{index:05d}-of-{shards:05d}.zip"


def mask_sha256(mask: Mask | Levels) -> str:
    """Return the sha256 of a mask's shape and pixels; it does not depend on how a file encodes them."""
    found = hashlib.sha256(f"{'x'.join(map(str, mask.shape))}:".encode())
    found.update(np.ascontiguousarray(mask).data)
    return found.hexdigest()


def encode_mask(mask: Mask, palette: Sequence[Rgb]) -> bytes:
    """Encode class ids as a palette PNG in the data set's colours; ignored pixels are white."""
    image = Image.fromarray(mask)
    colours = bytes(c for colour in palette for c in colour)
    if mask.max(initial=0) >= len(palette):
        # With a short palette, Pillow would keep only the bits that the palette needs, and cut larger ids.
        colours = colours.ljust(3 * 256, b"\xff")
    image.putpalette(colours)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def decode_mask(data: bytes) -> Mask:
    """Decode a PNG to class ids, uint8 (H, W). Raises one of DAMAGED for other data or more than LARGEST pixels."""
    try:
        opened = Image.open(io.BytesIO(data), formats=["PNG"])
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    with opened as image:
        if image.width * image.height > LARGEST:
            raise ValueError(f"{image.width} x {image.height} pixels are more than the limit of {LARGEST}")
        soon = decoding.decode_png(data, image)
        return np.asarray(image, dtype=np.uint8) if soon is None else soon


def read_png(path: Path) -> Mask:
    """Return the class ids of a PNG that a stage wrote. Raises StppError naming the file if it is not readable."""
    try:
        return decode_mask(read_bytes(path))
    except DAMAGED as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None


class ShardWriter:
    """A writer of one shard and its part of the manifest, mask by mask, in the order of ids.

    Equal masks give equal bytes. Both files get their final names when the `with` block ends without an error; the part
    is renamed last.
    """

    def __init__(self, shard: Path, part: Path, palette: Sequence[Rgb], *, soft: bool = False) -> None:
        """part: the file for this shard's rows of the manifest, outside the mask set; `merge_manifests` reads it.

        palette: a colour for every class. soft: whether every mask comes with its levels.
        """
        self._shard, self._part, self._palette, self._soft = shard, part, palette, soft
        self._last = ""
        self._stack = ExitStack()

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            part = stack.enter_context(atomic_write(self._part))
            table = stack.enter_context(part.open("w", newline="", encoding="utf-8"))
            shard = stack.enter_context(atomic_write(self._shard))
            self._archive = stack.enter_context(zipfile.ZipFile(shard, "w", zipfile.ZIP_STORED))
            self._rows = csv.writer(table, lineterminator="\n")
            self._rows.writerow((*COLUMNS, SOFT) if self._soft else COLUMNS)
            self._stack = stack.pop_all()
        return self

    def add(
        self, name: str, mask: Mask, confidence: float, window: int | None = None, levels: Levels | None = None
    ) -> None:
        """Add a mask of class ids and its row of the manifest.

        name: the id; ids must ascend, else ValueError is raised. confidence: the mean over the mask's pixels, in
        [0, 1]. window: the side in pixels of the windows in which the image was predicted; None if not in windows.
        levels: the soft mask, in a set with soft masks only.
        """
        if name <= self._last:
            raise ValueError(f"{name} comes after {self._last}: ids must be added in ascending order")
        self._last = name
        self._write(f"{name}.png", encode_mask(mask, self._palette))
        pixels = " ".join(map(str, np.bincount(mask[mask != IGNORE], minlength=len(self._palette))))
        row = name, self._shard.name, mask_sha256(mask), pixels, f"{confidence:.6f}", window or ""
        if levels is not None:
            self._write(f"{name}.{SOFT}", zlib.compress(np.ascontiguousarray(levels).data))
        self._rows.writerow(row if levels is None else (*row, mask_sha256(levels)))

    def _write(self, file: str, data: bytes) -> None:
        info = zipfile.ZipInfo(file, date_time=(1980, 1, 1, 0, 0, 0))
        info.external_attr = 0o644 << 16
        self._archive.writestr(info, data)

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]


SHARDS = "shards.csv"
"""A file beside the manifest that holds a hash for every shard, over everything that the shard was made from."""
OF_SHARD = ("shard", "key")


def write_shard_keys(folder: Path, keys: Mapping[str, str]) -> None:
    """Write the `SHARDS` file of a mask set. keys: shard name -> hash of what the shard was made from."""
    write_csv(folder / SHARDS, OF_SHARD, keys.items())


def read_shard_keys(folder: Path) -> dict[str, str]:
    """Return what `write_shard_keys` wrote, by shard name; nothing for an older mask set without it."""
    return {row[0]: row[1] for row in scan_csv(folder / SHARDS, OF_SHARD)} if (folder / SHARDS).exists() else {}


def copy_shard(earlier: "MaskSet", ids: Iterable[str], shard: Path, part: Path) -> None:
    """Copy a shard and its part of the manifest from an earlier mask set, as `ShardWriter` would write them.

    ids: the ids of the shard, in order.
    """
    with atomic_write(shard) as partial:
        shutil.copyfile(earlier.folder / shard.name, partial)
    columns = (*COLUMNS, SOFT) if earlier.soft else COLUMNS
    write_csv(part, columns, ([earlier.rows[name][column] for column in columns] for name in ids))


AT_ONCE = 64
"""The most files that `merge_manifests` opens at a time."""


def merge_manifests(parts: Sequence[Path], out: Path) -> None:
    """Merge the parts of all shards into the manifest of a mask set, sorted by id.

    parts: tables of COLUMNS in the order of ids, as `ShardWriter` writes them. Their number and size are not limited;
    their columns are equal. Raises StppError naming a damaged part.
    """
    if len(parts) > AT_ONCE:
        with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as folder:
            groups = [parts[at : at + AT_ONCE] for at in range(0, len(parts), AT_ONCE)]
            merged = [Path(folder) / f"{at}.csv" for at in range(len(groups))]
            for group, whole in zip(groups, merged, strict=True):
                merge_manifests(group, whole)
            return merge_manifests(merged, out)
    tables = [_part(path) for path in parts]
    headers = [list(next(table)) for table in tables]
    if any(header != headers[0] for header in headers):
        raise StppError(f"{out}: its parts have other columns than each other; rerun the stage that writes it")
    write_csv(out, headers[0] if headers else COLUMNS, heapq.merge(*tables, key=itemgetter(0)))
    return None


def _part(path: Path) -> Iterator[Sequence[str]]:
    """Yield the header and the rows of a part."""
    try:
        with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8") as file:
            rows = csv.reader(lines_of(file))
            header = next(rows, None)
            if header not in (list(COLUMNS), [*COLUMNS, SOFT]):
                raise ValueError("not a part of a mask set's manifest")
            yield header
            last = ""
            for row in rows:
                if len(row) != len(header) or row[0] <= last:
                    raise ValueError(f"malformed or unsorted row {row[:1]} after {last}")
                yield row
                last = row[0]
    except (OSError, ValueError, csv.Error) as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None


def _row(values: list[str]) -> dict[str, str]:
    """Return a row of the manifest as a dict. Raises ValueError if the id or the shard is not a valid name."""
    # older versions of stpp wrote no window; most sets have no soft masks
    row = dict(zip((*COLUMNS, SOFT), [*values, "", ""], strict=False))
    if not ID.match(row["id"]) or not SHARD.match(row["shard"]):
        raise ValueError(f"invalid id {row['id']!r} or shard {row['shard']!r}")
    return row


LOCAL = struct.Struct("<4s2xHH12xLHH")
"""The zip local file header: signature, flags, method, size, and the lengths of the name and the extra field."""
UNKNOWN = -1


class MaskSet:
    """A folder of zip shards and manifest.csv, read by id.

    Memory holds 16 bytes per mask: the offset of its row in the manifest, and its offset in the shard, which is known
    once a mask of that shard was read. Soft masks take 8 bytes more. No shard stays open. Processes may share a mask
    set, forked or spawned.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = read_table(folder / "manifest.csv", COLUMNS[:-1], _row)
        self.soft = any(row[SOFT] for row in islice(self.rows.values(), 1))
        """Whether the set has soft masks."""
        ends = (".png", f".{SOFT}") if self.soft else (".png",)
        self._places = {end: np.full(len(self.rows), UNKNOWN, np.int64) for end in ends}

    @cached_property
    def ids(self) -> PackedStrings:
        return PackedStrings(self.rows)

    def read(self, name: str) -> Mask:
        """Return the mask of an id, uint8 (H, W).

        Raises StppError if the mask is not readable or its hash is not the one in the manifest. Raises KeyError for an
        unknown id.
        """
        row = self.rows[name]
        shard = self.folder / row["shard"]
        try:
            mask = decode_mask(self._stored(shard, name, ".png"))
        except DAMAGED as error:
            raise StppError(f"{shard}: mask {name}: {error}; run `dvc repro` again") from None
        if mask_sha256(mask) != row["sha256"]:
            raise StppError(f"{shard}: mask {name} does not match its hash in manifest.csv; was it edited?")
        return mask

    def read_levels(self, name: str) -> Levels:
        """Return the soft mask of an id, uint8 (H, W, classes); each pixel adds up to 255, or to 0 if it is ignored.

        Raises as `read` does.
        """
        mask, row = self.read(name), self.rows[name]
        shard, shape = self.folder / row["shard"], (*mask.shape, len(row["classes"].split()))
        try:
            inflated = zlib.decompressobj().decompress(self._stored(shard, name, f".{SOFT}"), math.prod(shape) + 1)
            levels = np.frombuffer(inflated, np.uint8).reshape(shape)
        except DAMAGED as error:
            raise StppError(f"{shard}: soft mask {name}: {error}; run `dvc repro` again") from None
        if mask_sha256(levels) != row[SOFT]:
            raise StppError(f"{shard}: soft mask {name} does not match its hash in manifest.csv; was it edited?")
        return levels

    def _stored(self, shard: Path, name: str, end: str) -> bytes:
        """Return the bytes of an id's file in a shard. end: the suffix of the file.

        zipfile reads a shard's directory once; after that only the offsets are kept.
        """
        at, places = self.rows.position(name), self._places[end]
        if places[at] == UNKNOWN:
            with open_regular(shard) as file, zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    if not info.filename.endswith(end):
                        continue
                    if (known := self.rows.find(info.filename.removesuffix(end))) is not None:
                        places[known] = info.header_offset
        if places[at] == UNKNOWN:
            raise KeyError(f"no {name}{end} in the archive")
        with open_regular(shard) as file:
            file.seek(int(places[at]))
            signature, flags, method, size, name_length, extra = LOCAL.unpack(file.read(LOCAL.size))
            if (signature, method) != (b"PK\3\4", zipfile.ZIP_STORED) or flags & ~0x800:
                raise zipfile.BadZipFile("its entry in the archive was changed")
            if file.read(name_length) != f"{name}{end}".encode():
                raise zipfile.BadZipFile("not at its offset in the archive")
            file.seek(extra, io.SEEK_CUR)
            return file.read(min(size, LARGEST))
