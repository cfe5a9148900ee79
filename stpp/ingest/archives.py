"""Unpacking of data set archives into the folder layout that the pipeline reads.

Archives are untrusted input. Members are read only if their names match a known layout or, in an archive without a
known layout, if they are plain image or list files. Links, devices and paths that leave the folder are never read.
Each file is written to a path that is built or checked here.
"""

import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from stpp.data.arrays import read_mat
from stpp.ingest.known_layouts import voc_palette
from stpp.ingest.names import READ, is_stray
from stpp.run.progress import progress
from stpp.store.files import StppError, alive, digest, read_bytes, sha256
from stpp.store.masks import encode_mask

LARGEST = 256 * 2**20
"""The largest member that is read, in bytes; those of the known data sets have a few MB at most."""
LARGEST_MAT = 2**20
"""The largest .mat that is read, in bytes. A .mat is compressed once more inside; those of SBD have some 10 KB."""
MOST, TIMES = 2**30, 200
"""An archive may unpack to MOST bytes or to TIMES its own size, the larger of the two; photos compress little."""
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    KeyError,
    ValueError,
    OSError,
)
"""The exceptions that archive readers raise for damaged bytes."""
SUFFIXES = (*READ, ".txt")
"""The file endings that are taken from an archive without a known layout."""
UNPACK, PUBLISHED = "unpack it yourself, and import the folder", "use the published archive of SBD"
"""Remedies where another download gives the same."""


class MemberError(ValueError):
    """A member of an intact archive that cannot be taken; its message says what to do."""


def _as_it_is(data: bytes) -> bytes:
    return data


def _mask_of_sbd(data: bytes) -> bytes:
    """Convert a .mat of SBD to a PNG of its class mask: GTcls.Segmentation, ids 0 to 20 and 255.

    Raises MemberError if the bytes are no such file.
    """
    if len(data) > LARGEST_MAT:
        raise MemberError(f"not a .mat of SBD: too large ({len(data) / 2**20:.0f} MB); {PUBLISHED}")
    try:
        mask = read_mat(data, "GTcls.Segmentation")
    except ValueError as error:
        raise MemberError(f"not a .mat of SBD: {error}; {PUBLISHED}") from None
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise MemberError(f"not a .mat of SBD: its mask is {mask.dtype} of shape {mask.shape}; {PUBLISHED}")
    if unknown := sorted(set(np.unique(mask).tolist()) - {*range(21), 255}):
        found = f"its mask has class {unknown[0]}, but only 0 to 20 and 255 are valid"
        raise MemberError(f"not a .mat of SBD: {found}; {PUBLISHED}")
    return encode_mask(mask.astype(np.uint8), voc_palette(256))


@dataclass(frozen=True)
class Rule:
    """Where to put the members of one kind: a full match of `pattern` goes to `target` below the data set's folder.

    target: a format string over the named groups of `pattern`. convert: what is done to the bytes.
    """

    what: str
    pattern: str
    target: str
    expected: int
    """The number of such members in the published archive."""
    convert: Callable[[bytes], bytes] = _as_it_is


_ID = r"(?P<id>\w+)"
_CITY = r"(?P<set>train|val)/(?P<city>[a-z-]+)/(?P<id>\w+)"
RULES = (
    Rule("VOC 2012 images", rf"(?:.*/)?VOC2012/JPEGImages/{_ID}\.jpg", "JPEGImages/{id}.jpg", 17_125),
    Rule("VOC 2012 masks", rf"(?:.*/)?VOC2012/SegmentationClass/{_ID}\.png", "SegmentationClass/{id}.png", 2_913),
    Rule("SBD masks", rf"(?:.*/)?dataset/cls/{_ID}\.mat", "SegmentationClassAug/{id}.png", 11_355, _mask_of_sbd),
    Rule("augmented masks", rf"(?:.*/)?SegmentationClassAug/{_ID}\.png", "SegmentationClassAug/{id}.png", 12_031),
    Rule(
        "Cityscapes images",
        rf"(?:.*/)?leftImg8bit/{_CITY}_leftImg8bit\.png",
        "leftImg8bit/{set}/{city}/{id}_leftImg8bit.png",
        3_475,
    ),
    Rule(
        "Cityscapes masks",
        rf"(?:.*/)?gtFine/{_CITY}_gtFine_labelIds\.png",
        "gtFine/{set}/{city}/{id}_gtFine_labelIds.png",
        3_475,
    ),
)


@dataclass
class Imported:
    """The summary of an import: files taken by kind, files left out, and warnings."""

    source: str
    sha256: str
    counts: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    warnings: list[str] = field(default_factory=list)


def import_archive(source: Path, out: Path) -> Imported:
    """Unpack a tar, a zip or an already unpacked folder below `out`, in the layout that the pipeline reads.

    Existing files with equal content stay. An interrupted call leaves only complete files; a second call finishes the
    import.

    Raises StppError naming the archive if it does not exist, is damaged, holds no known file, or unpacks to so much
    that it could fill the disk. Raises StppError naming a file that exists with other content: nothing is overwritten.
    Raises StppError if `out` lies inside the folder `source`.
    """
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise StppError(f"{out}: lies inside the source {source}; give a folder outside it")
    found = Imported(source.name, sha256(source) if source.is_file() else digest([source]) if source.is_dir() else "")
    compiled = [(rule, re.compile(rule.pattern)) for rule in RULES]
    room = max(MOST, TIMES * source.stat().st_size) if source.is_file() else None
    partial = _unfinished(out)
    try:
        known = any(pattern.fullmatch(name) for name, _ in _members(source) for _, pattern in compiled)
        for name, read in progress(_members(source), f"import {source.name}", None):
            path, what, convert = _place(name, compiled) if known else _own_place(name)
            if path is None:
                found.left_out += 1
                continue
            data = read()
            if room is not None and (room := room - len(data)) < 0:
                size = f"it unpacks to more than 1 GiB and {TIMES} times its size"
                raise StppError(f"{source}: {size}; if that is right, {UNPACK}")
            _put(out / path, convert(data), partial)
            found.counts[what] = found.counts.get(what, 0) + 1
    except MemberError as error:
        raise StppError(f"{source}: {name}: {error}") from None
    except RuntimeError as error:  # zipfile: a password, or an unknown compression
        raise StppError(f"{source}: {error}; {UNPACK}") from None
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the archive
            raise
        raise StppError(f"{source}: damaged: {error}; download it again") from None
    finally:
        partial.unlink(missing_ok=True)
    os.sync()  # once at the end: a sync after each of 17,000 files takes minutes
    if not found.counts:
        known_ = ", ".join(rule.what for rule in RULES)
        raise StppError(f"{source}: contains neither images nor any of: {known_}")
    for rule in RULES:
        count = found.counts.get(rule.what, rule.expected)
        if count != rule.expected:
            found.warnings.append(f"{count} {rule.what}, but the published archive holds {rule.expected}")
    return found


Place = tuple[str | None, str, Callable[[bytes], bytes]]
"""The target path of a member (None: leave it out), its kind, and the conversion of its bytes."""


def _place(name: str, compiled: list[tuple[Rule, re.Pattern[str]]]) -> Place:
    for rule, pattern in compiled:
        if match := pattern.fullmatch(name):
            return rule.target.format(**match.groupdict()), rule.what, rule.convert
    return None, "", _as_it_is


def _own_place(name: str) -> Place:
    """Return the place of a member of an archive without a known layout: a file that is safe to take keeps its path."""
    path = Path(name)
    if (
        any(map(is_stray, path.parts))
        or path.suffix.lower() not in SUFFIXES
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
    ):
        return None, "", _as_it_is
    return name, "lists" if path.suffix.lower() == ".txt" else "images and masks", _as_it_is


def _unfinished(out: Path) -> Path:
    """Return this process's temporary file, and remove those that killed processes left."""
    for left in out.glob(".import.*.partial"):
        if not alive(left.name.split(".")[2]):
            left.unlink(missing_ok=True)
    return out / f".import.{os.getpid()}.partial"


def _put(path: Path, data: bytes, partial: Path) -> None:
    """Write a file through `partial`. Raises StppError if it exists with other content."""
    if path.exists():
        there = read_bytes(path, LARGEST)
        if there == data:
            return
        if not data.startswith(there):  # a power cut can leave only the beginning of a file: replace it
            raise StppError(f"{path}: already exists with different content; remove it, or import into another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(data)
    partial.replace(path)


def _members(source: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each regular file of a folder, zip or tar: its name with forward slashes and a function that reads it."""
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink()):
            yield path.relative_to(source).as_posix(), lambda path=path: read_bytes(path, LARGEST)  # type: ignore[misc]
    elif _begins_as_zip(source):
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
                    yield info.filename, lambda info=info: _read(archive.open(info), info.file_size)  # type: ignore[misc]
    elif source.is_file():
        if not tarfile.is_tarfile(source):
            raise StppError(f"{source}: neither a zip nor a tar; {UNPACK}, or download it again")
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, lambda member=member: _read(archive.extractfile(member), member.size)  # type: ignore[misc]
    else:
        raise StppError(f"{source}: no such file or folder")


def _begins_as_zip(source: Path) -> bool:
    """Return whether a file starts as a zip does. `is_zipfile` would also accept a tar that ends in a zip."""
    if not source.is_file():
        return False
    with source.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _read(file: IO[bytes] | None, size: int) -> bytes:
    if file is None or size > LARGEST:
        raise MemberError(f"{size / 2**20:.0f} MB are too large for an image or mask; {UNPACK} without this file")
    with file:
        return file.read()
