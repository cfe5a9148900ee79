"""Reliable and unreliable images (paper, 3.4 and Algorithm 2)."""

from fractions import Fraction


def select(scores: dict[str, float], ratio: float) -> tuple[list[str], list[str]]:
    """Split D_u into D_u1, the T highest scored images, and D_u2, the others; both in the order of falling score.

    T = floor(N * ratio), as in the authors' code; equal scores are ordered by id, so the result is one of its inputs
    alone. ratio lies in (0, 1).
    """
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    T = int(len(ranked) * Fraction(str(ratio)))  # as the ratio is written: 0.29 of 100 is 29, 28 in floating point
    return ranked[:T], ranked[T:]
