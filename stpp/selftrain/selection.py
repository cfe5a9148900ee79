"""Reliable and unreliable images (paper, 3.4 and Algorithm 2), and other ways to choose them."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import isnan

import numpy as np

from stpp.run.seeds import seed_of

Scores = Mapping[str, float]

RANKINGS: dict[str, Callable[[Mapping[str, Scores], int], Scores]] = {
    "stability": lambda known, seed: known["stability"],
    "inverse": lambda known, seed: {name: -s for name, s in known["stability"].items()},
    "confidence": lambda known, seed: known["confidence"],
    "oracle": lambda known, seed: {name: -1.0 if isnan(q) else q for name, q in known["quality"].items()},
    "random": lambda known, seed: {name: float(seed_of(seed, "select", name)) for name in known["stability"]},
}
"""What ranks the images, the highest first, by the name that `select.by` gives it."""


def rank(by: str, known: Mapping[str, Scores], seed: int) -> Scores:
    """The score by which images are ranked. known: stability, confidence and quality by id; seed: of `random`."""
    return RANKINGS[by](known, seed)


def select(scores: Scores, ratio: float) -> tuple[list[str], list[str]]:
    """Split D_u into D_u1, the T highest scored images, and D_u2, the others; both in the order of falling score.

    T = floor(N * ratio), as in the authors' code; equal scores are ordered by id, so the result is one of its inputs
    alone. ratio lies in (0, 1).
    """
    names, s = list(scores), np.fromiter(scores.values(), np.float64, len(scores))
    by_id = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    ranked = [names[i] for i in by_id[np.argsort(-s[by_id], kind="stable")].tolist()]
    T = int(len(ranked) * Fraction(str(ratio)))  # as the ratio is written: 0.29 of 100 is 29, 28 in floating point
    return ranked[:T], ranked[T:]
