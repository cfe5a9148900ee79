"""Reliable and unreliable images (paper, 3.4 and Algorithm 2), and other ways to choose them."""

from collections.abc import Mapping
from fractions import Fraction
from math import isnan
from pkgutil import resolve_name

import numpy as np

from stpp.data.seeds import seed_of
from stpp.selftrain.rankings import RANKINGS

Scores = Mapping[str, float]


def by_stability(known: Mapping[str, Scores], seed: int) -> Scores:
    """s_i, as in the paper."""
    return known["stability"]


def by_instability(known: Mapping[str, Scores], seed: int) -> Scores:
    """s_i, the lowest first."""
    return {name: -s for name, s in known["stability"].items()}


def by_confidence(known: Mapping[str, Scores], seed: int) -> Scores:
    """The mean confidence of M_iK."""
    return known["confidence"]


def by_quality(known: Mapping[str, Scores], seed: int) -> Scores:
    """The true mIoU of M_iK: no method, but its upper bound."""
    return {name: -1.0 if isnan(q) else q for name, q in known["quality"].items()}


def by_chance(known: Mapping[str, Scores], seed: int) -> Scores:
    """As in the paper's Table 4, blind."""
    return {name: float(seed_of(seed, "select", name)) for name in known["stability"]}


def rank(by: str, known: Mapping[str, Scores], seed: int) -> Scores:
    """The score by which images are ranked, the highest first.

    by: a name of RANKINGS, or of what `score.criteria` has added. known: by name and id, whatever `score` has written;
    seed: of `random`.
    """
    if by not in RANKINGS:
        return known[by]
    scores: Scores = resolve_name(RANKINGS[by])(known, seed)
    return scores


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
