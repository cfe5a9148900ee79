"""Images of val or test that look like images of training, whatever their names and encodings."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HELD_OUT = ("val", "test")
Named = tuple[str, str, Path]
"""Set, id and file of an image."""
SIDE = 32
BITS = 10
"""Of 64, by which the fingerprints of two pictures of one thing may differ."""
UNLIKE = 12.0
"""Mean difference of their small grey pictures, in grey levels, up to which they are called alike."""


@dataclass(frozen=True)
class Pair:
    """Two images that look alike: ids, the sets they are in, and by how much their small grey pictures differ."""

    held_out: str
    held_out_set: str
    trained_on: str
    trained_on_set: str
    difference: float
    """Mean, in grey levels of 256."""


def suspects(images: dict[str, dict[str, Path]]) -> list[Pair]:
    """Pairs of a held-out and a training image that look alike, the most alike first.

    images: by set (val and test are held out, any other is trained on) and id, the image's file; one that is not there
    is left out. Mirrored copies are found as well, crops are not.
    """
    held_out, one = _small([(name, i, path) for name in HELD_OUT for i, path in images.get(name, {}).items()])
    trained, other = _small([(n, i, path) for n in images if n not in HELD_OUT for i, path in images[n].items()])
    pairs: dict[tuple[str, str], Pair] = {}
    for small in (other, other[:, :, ::-1]):
        for a, b in _near(_fingerprints(one), _fingerprints(small)):
            difference = float(np.abs(one[a] - small[b]).mean())
            if difference <= UNLIKE:
                (held_set, held, _), (trained_set, name, _) = held_out[a], trained[b]
                found = Pair(held, held_set, name, trained_set, difference)
                pairs[held, name] = min(found, pairs.get((held, name), found), key=lambda pair: pair.difference)
    return sorted(pairs.values(), key=lambda pair: (pair.difference, pair.held_out, pair.trained_on))


class Looks:
    """Images seen so far, and whether another looks like one of them."""

    def __init__(self, images: dict[str, Path]) -> None:
        _, self.pictures = _small([("", i, path) for i, path in images.items()])

    def alike(self, path: Path) -> bool:
        """Whether the image, or its mirror image, looks like one seen before; it is seen from now on.

        One that cannot be read is like no other.
        """
        _, picture = _small([("", "", path)])
        found = any(
            np.abs(self.pictures[a] - small[b]).mean() <= UNLIKE
            for small in (picture, picture[:, :, ::-1])
            for a, b in _near(_fingerprints(self.pictures), _fingerprints(small))
        )
        self.pictures = np.concatenate([self.pictures, picture])
        return found


def _small(named: list[Named]) -> tuple[list[Named], NDArray[np.float32]]:
    """The images that can be read, and as grey pictures (n, 32, 32) around their mean, in grey levels of 256."""
    import cv2

    from stpp.data.images import read_image
    from stpp.files import StppError

    def small(one: Named) -> NDArray[np.float32] | None:
        try:
            grey = cv2.cvtColor(read_image(one[2])[0], cv2.COLOR_RGB2GRAY)
        except (StppError, OSError):
            return None
        picture = np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)
        centred: NDArray[np.float32] = picture - picture.mean()  # a brighter copy is a copy
        return centred

    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(small, named))
    read = [(one, picture) for one, picture in zip(named, pictures, strict=True) if picture is not None]
    stacked = np.stack([picture for _, picture in read]) if read else np.empty((0, SIDE, SIDE), np.float32)
    return [one for one, _ in read], stacked


def _fingerprints(pictures: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64 bits each: which of the 8 x 8 slowest waves of a cosine transform are stronger than the median."""
    from scipy.fft import dctn

    waves = dctn(pictures, axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _near(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> Iterable[tuple[int, int]]:
    """Positions of pairs whose fingerprints differ by few bits."""
    for a, fingerprint in enumerate(one):
        for b in np.flatnonzero(np.bitwise_count(other ^ fingerprint) <= BITS):
            yield a, int(b)
