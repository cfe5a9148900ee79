"""Search for images of val or test that look like training images (near-duplicates).

The pixels are compared, so names and encodings do not matter.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from stpp.data.bands import picture_of
from stpp.run.parallel import THREADS, ordered_map
from stpp.store.files import StppError
from stpp.store.manifest import Record
from stpp.store.packed import PackedStrings

HELD_OUT = ("val", "test")
Picture = NDArray[np.float32]
"""A small grey image (SIDE, SIDE) with its mean subtracted, in grey levels of 256."""
SIDE = 32
BITS = 10
"""Number of bits, of 64, in which the fingerprints of two images that look alike may differ."""
AT_ONCE = 256
"""Small pictures in one batch, for which fingerprints are computed together; this bounds the memory."""
COMPARED = 1000
"""Number of images that a held-out image is compared with at most: the nearest ones by fingerprint.

The same number again holds for mirror images. Without a limit, thousands of equal images would be compared with
thousands.
"""
UNLIKE = 12.0
"""Largest mean difference, in grey levels, between the small grey pictures of two images that look alike."""


@dataclass(frozen=True)
class Pair:
    """Two images that look alike: their ids, their sets, and the difference of their small grey pictures."""

    held_out: str
    held_out_set: str
    trained_on: str
    trained_on_set: str
    difference: float
    """Mean absolute difference, in grey levels of 256."""


class Files(Mapping[str, Path]):
    """A mapping from the ids of some images to their files; each path is built when it is read."""

    def __init__(self, root: Path, records: Mapping[str, Record], ids: PackedStrings) -> None:
        self._root, self._records, self._ids = root, records, ids

    def __getitem__(self, name: str) -> Path:
        return self._root / self._records[name].image

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def suspects(images: Mapping[str, Mapping[str, Path]]) -> list[Pair]:
    """Return the pairs of a held-out and a training image that look alike, the most alike first.

    images: set name -> image id -> file. The sets val and test are held out; all other sets are training images. Files
    that are missing or damaged are left out. Mirrored copies are found, crops are not.

    To save memory, only the 8-byte fingerprints of each training image and its mirror image are held, with an index.
    Only images with near fingerprints are read again.
    """
    held_out = {name: images[name] for name in HELD_OUT if name in images}
    trained = {name: images[name] for name in images if name not in HELD_OUT}
    prints = np.fromiter(chain.from_iterable(_prints(_files(trained))), np.uint64).reshape(-1, 2)
    known = Fingerprints(prints[:, 0]), Fingerprints(prints[:, 1])
    near = [
        (a, b, bool(mirrored))
        for a, (one, _) in enumerate(_prints(_files(held_out)))
        if one != UNREADABLE
        for mirrored in (0, 1)
        for b in known[mirrored].near(one)
    ]
    if not near:
        return []
    # Most images are not compared: ids and files are looked up only for those that are.
    ones = _chosen(held_out, {a for a, _, _ in near})
    others = _chosen(trained, {b for _, b, _ in near})
    pairs: dict[tuple[str, str], Pair] = {}
    last: tuple[int, Picture | None] = (-1, None)
    for a, b, mirrored in near:
        (held_set, held, file), (trained_set, name, other_file) = ones[a], others[b]
        last = last if last[0] == a else (a, _small(file))
        picture, small = last[1], _small(other_file)
        if picture is not None and small is not None:
            difference = float(np.abs(picture - (small[:, ::-1] if mirrored else small)).mean())
            if difference <= UNLIKE:
                found = Pair(held, held_set, name, trained_set, difference)
                pairs[held, name] = min(found, pairs.get((held, name), found), key=lambda pair: pair.difference)
    return sorted(pairs.values(), key=lambda pair: (pair.difference, pair.held_out, pair.trained_on))


def _files(images: Mapping[str, Mapping[str, Path]]) -> Iterator[Path]:
    return chain.from_iterable(files.values() for files in images.values())


def _chosen(images: Mapping[str, Mapping[str, Path]], positions: set[int]) -> dict[int, tuple[str, str, Path]]:
    """Return set, id and file of the images at these positions; positions count through all sets."""
    everything = ((name, i, file) for name, files in images.items() for i, file in files.items())
    return {at: one for at, one in enumerate(everything) if at in positions}


class SeenImages:
    """A collection of images that tells whether another image looks like one of them."""

    def __init__(self, images: Mapping[str, Path]) -> None:
        self._files = images
        self._names = [*images]
        self._known = Fingerprints(np.fromiter((one for one, _ in _prints(images.values())), np.uint64, len(images)))
        self._since: list[tuple[int, Picture]] = []

    def alike(self, path: Path) -> bool:
        """Return whether an image or its mirror image looks like one of the collection, then add the image to it.

        An image that cannot be read looks like no other, and is not added.
        """
        picture = _small(path)
        if picture is None:
            return False
        found = False
        prints = np.array([one for one, _ in self._since], np.uint64)
        for small in (picture, picture[:, ::-1]):
            (mine,) = _fingerprints(small[None])
            before = (_small(self._files[self._names[at]]) for at in self._known.near(int(mine)))
            since = (self._since[at][1] for at in np.flatnonzero(np.bitwise_count(prints ^ mine) <= BITS))
            found = found or any(
                other is not None and float(np.abs(other - small).mean()) <= UNLIKE for other in chain(before, since)
            )
        self._since.append((int(_fingerprints(picture[None])[0]), picture))
        return found


def _small(path: Path) -> Picture | None:
    """Return the small grey picture of an image, or None if the image cannot be read."""
    try:
        grey = cv2.cvtColor(picture_of(path), cv2.COLOR_RGB2GRAY)
    except (StppError, OSError):
        return None
    picture = np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)
    centred: Picture = picture - picture.mean()  # so that a brighter copy still counts as a copy
    return centred


UNREADABLE = 2**64 - 1
"""Fingerprint of an image that cannot be read. Real fingerprints have at most 32 bits set, so none is near it."""


def _prints(files: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Yield the fingerprints of each image and of its mirror image."""

    def compared(pictures: list[Picture | None]) -> Iterator[tuple[int, int]]:
        stacked = np.stack([np.zeros((SIDE, SIDE), np.float32) if one is None else one for one in pictures])
        both = _fingerprints(stacked), _fingerprints(stacked[:, :, ::-1])
        for picture, one, mirrored in zip(pictures, both[0].tolist(), both[1].tolist(), strict=True):
            yield (UNREADABLE, UNREADABLE) if picture is None else (one, mirrored)

    some: list[Picture | None] = []
    for picture in ordered_map(_small, files, THREADS):
        some.append(picture)
        if len(some) == AT_ONCE:
            yield from compared(some)
            some = []
    if some:
        yield from compared(some)


def _fingerprints(pictures: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return one 64-bit fingerprint per picture (N, SIDE, SIDE).

    Each bit says whether one of the 8 x 8 lowest frequencies of the cosine transform (DCT) exceeds their median.
    """
    waves = dctn(pictures, axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


class Fingerprints:
    """An index of fingerprints that finds those near a given one without comparing all of them.

    The 64 bits are cut into m bands. Two fingerprints that differ in r bits differ in at most r // m bits in at least
    one band. So all near fingerprints have, in some band, one of the few values near that of the given one (multi-index
    hashing: Norouzi, Punjani and Fleet, CVPR 2012). The search time grows about as the square root of the number of
    fingerprints.
    """

    def __init__(self, prints: NDArray[np.uint64]) -> None:
        self._at = np.argsort(prints, kind="stable").astype(np.uint32)
        self._prints = np.unique(prints)
        self._starts = np.searchsorted(prints[self._at], self._prints)
        bands = min(range(3, 17), key=lambda m: _cost(m, len(self._prints)))
        self._bands = []
        for start, end in pairwise(64 * band // bands for band in range(bands + 1)):
            flips = chain.from_iterable(combinations(range(end - start), r) for r in range(BITS // bands + 1))
            masks = np.array([sum(1 << bit for bit in some) for some in flips], np.uint32)
            values = _band(self._prints, start, end)
            order = np.argsort(values, kind="stable").astype(np.uint32)
            self._bands.append((start, end, masks, values[order], order))

    def near(self, sought: int) -> list[int]:
        """Return the positions of fingerprints that differ in at most BITS bits; the COMPARED nearest if more do."""
        mine, found = np.uint64(sought), [np.empty(0, np.uint32)]
        for start, end, masks, values, order in self._bands:
            probes = masks ^ _band(mine, start, end)
            firsts, lasts = np.searchsorted(values, probes, "left"), np.searchsorted(values, probes, "right")
            there = np.flatnonzero(firsts < lasts)
            found += [order[firsts[at] : lasts[at]] for at in there.tolist()]
        candidates = np.unique(np.concatenate(found))
        apart = np.bitwise_count(self._prints[candidates] ^ mine)
        positions: list[int] = []
        for one in candidates[np.argsort(apart, kind="stable")[: int((apart <= BITS).sum())]].tolist():
            end = self._starts[one + 1] if one + 1 < len(self._starts) else len(self._at)
            positions += self._at[self._starts[one] : end][: COMPARED - len(positions)].tolist()
            if len(positions) >= COMPARED:
                break
        return positions


def _cost(bands: int, count: int) -> float:
    """Return the estimated cost of a search among `count` fingerprints.

    Each value looked up costs 1, and each fingerprint found under it costs a tenth.
    """
    width = 64 / bands
    probes = sum(math.comb(math.ceil(width), r) for r in range(BITS // bands + 1))
    return bands * probes * (1 + count / 10 / 2**width)


def _band(prints: Any, start: int, end: int) -> NDArray[np.uint32]:
    """Return the bits `start` to `end` (exclusive) of fingerprints, counted from the lowest."""
    found: NDArray[np.uint32] = (prints >> np.uint64(start) & np.uint64((1 << end - start) - 1)).astype(np.uint32)
    return found
