"""Selection of reliable and unreliable images, as in the paper (3.4 and Algorithm 2) and in other ways.

M_iK is the pseudo mask of image i by f_K, the teacher's last checkpoint. s_i is the image's stability.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import isnan
from pkgutil import resolve_name

import numpy as np
from numpy.typing import NDArray

from stpp.data.seeds import seed_of
from stpp.selftrain.rankings import RANKINGS

Scores = Mapping[str, float]


def by_stability(known: Mapping[str, Scores], seed: int) -> Scores:
    """Rank by s_i, as in the paper."""
    return known["stability"]


def by_balanced(known: Mapping[str, Scores], seed: int) -> Scores:
    """Rank by s_i among the images with the same typical class (see `typical_classes`); not in the paper.

    The score is the share of these images that are less stable, in (0, 1). So `select` takes the same share of every
    typical class's images, up to rounding: an unstable class is not left out.
    """
    s, images = known["stability"], dict[float, list[str]]()
    for name, typical in known["typical_class"].items():
        images.setdefault(typical, []).append(name)
    return {
        name: (place + 0.5) / len(names)
        for names in images.values()
        for place, name in enumerate(sorted(names, key=lambda name: (s[name], name)))
    }


def typical_classes(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the typical class of every image: the one whose share in it exceeds its share in all images by most.

    pixels: pixels of each class in each M_iK, (N, C). The shares are compared as a ratio. Of equal ones, the first
    class counts.
    """
    share = pixels / pixels.sum(1, keepdims=True)
    of_all = pixels.sum(0) / pixels.sum()
    found: NDArray[np.int64] = np.divide(share, of_all, out=np.zeros_like(share), where=of_all > 0).argmax(1)
    return found


def by_inverse(known: Mapping[str, Scores], seed: int) -> Scores:
    """Rank by s_i, the lowest first."""
    return {name: -s for name, s in known["stability"].items()}


def by_confidence(known: Mapping[str, Scores], seed: int) -> Scores:
    """Rank by the mean confidence of M_iK."""
    return known["confidence"]


def by_oracle(known: Mapping[str, Scores], seed: int) -> Scores:
    """Rank by the true mIoU of M_iK; NaN ranks last.

    This is not a method, but the upper bound of one: it needs the true masks.
    """
    return {name: -1.0 if isnan(q) else q for name, q in known["quality"].items()}


def by_random(known: Mapping[str, Scores], seed: int) -> Scores:
    """Rank at random: the blind selection of the paper's Table 4."""
    return {name: float(seed_of(seed, "select", name)) for name in known["stability"]}


def rank(by: str, known: Mapping[str, Scores], seed: int) -> Scores:
    """Return the score by which images are ranked; the highest ranks first.

    by: a name in RANKINGS, or a score that `score.criteria` added. known: all scores that `stpp score` wrote, by name
    and image id. seed: for the ranking `random`.
    """
    if by not in RANKINGS:
        return known[by]
    scores: Scores = resolve_name(RANKINGS[by])(known, seed)
    return scores


def reliable(images: int, ratio: float) -> int:
    """Return T = floor(images * ratio), as in the authors' code. ratio is in (0, 1)."""
    return int(images * Fraction(str(ratio)))  # exact: 0.29 of 100 is 29, in floating point it would be 28


def select(scores: Scores, ratio: float) -> tuple[list[str], list[str]]:
    """Split D_u into D_u1, the T images with the highest scores, and D_u2, the others; both in order of falling score.

    T = floor(N * ratio), as in the authors' code. Equal scores are ordered by id, so the result depends only on the
    arguments. ratio is in (0, 1).
    """
    names, s = list(scores), np.fromiter(scores.values(), np.float64, len(scores))
    by_id = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    ranked = [names[i] for i in by_id[np.argsort(-s[by_id], kind="stable")].tolist()]
    T = reliable(len(ranked), ratio)
    return ranked[:T], ranked[T:]
