"""Tests of the selection of reliable images, for any scores and ties."""

import math
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.selftrain.selection import by_balanced, rank, select, typical_classes

IDS = st.text("abAB019/_", min_size=1, max_size=4)
# Few values, so that many images have the same score.
SCORES = st.dictionaries(IDS, st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 1.0]) | st.floats(0, 1), max_size=30)
RATIOS = st.integers(1, 99).map(lambda percent: percent / 100)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_every_image_is_once_in_one_of_the_two_sets(scores: dict[str, float], ratio: float) -> None:
    reliable, unreliable = select(scores, ratio)
    assert sorted(reliable + unreliable) == sorted(scores)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_the_reliable_set_has_the_share_given_by_the_ratio_rounded_down(scores: dict[str, float], ratio: float) -> None:
    assert len(select(scores, ratio)[0]) == math.floor(len(scores) * Fraction(Decimal(str(ratio))))


@pytest.mark.parametrize(
    ("images", "ratio", "reliable"),
    [(9920, 0.5, 4960), (7, 0.5, 3), (1, 0.5, 0), (0, 0.5, 0), (100, 0.29, 29), (100, 0.57, 57), (10, 0.7, 7)],
)
def test_t_is_the_floor_of_n_times_the_decimal_ratio(images: int, ratio: float, reliable: int) -> None:
    assert len(select({str(i): 0.5 for i in range(images)}, ratio)[0]) == reliable


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_no_unreliable_image_scores_above_a_reliable_one(scores: dict[str, float], ratio: float) -> None:
    reliable, unreliable = select(scores, ratio)
    assert all(scores[r] >= scores[u] for r in reliable for u in unreliable)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_images_are_ordered_by_falling_score_and_then_by_id(scores: dict[str, float], ratio: float) -> None:
    reliable, unreliable = select(scores, ratio)
    ranked = reliable + unreliable
    for one, next_ in pairwise(ranked):
        assert scores[one] > scores[next_] or (scores[one] == scores[next_] and one < next_)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS, st.randoms(use_true_random=False))
def test_the_order_of_scores_does_not_change_the_selection(
    scores: dict[str, float], ratio: float, random: object
) -> None:
    names = list(scores)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert select({name: scores[name] for name in names}, ratio) == select(scores, ratio)


@settings(max_examples=25, deadline=None)
@given(SCORES, RATIOS)
def test_the_papers_sum_and_its_mean_select_the_same_images(scores: dict[str, float], ratio: float) -> None:
    """s_i and s_i / (K - 1) give the same order, here for K = 3."""
    assert select({name: 2 * value for name, value in scores.items()}, ratio) == select(scores, ratio)


# -- select.by --------------------------------------------------------------------------------------------------------

KNOWN = {
    "stability": {"a": 0.9, "b": 0.2, "c": 0.5, "d": 0.7},
    "confidence": {"a": 0.3, "b": 0.8, "c": 0.6, "d": 0.4},
    "quality": {"a": 0.5, "b": 0.1, "c": math.nan, "d": 0.6},
}


@pytest.mark.parametrize(
    ("by", "reliable"),
    [("stability", ["a", "d"]), ("inverse", ["b", "c"]), ("confidence", ["b", "c"]), ("oracle", ["d", "a"])],
)
def test_the_reliable_half_has_the_highest_scores_of_the_ranking(by: str, reliable: list[str]) -> None:
    assert select(rank(by, KNOWN, seed=0), 0.5)[0] == reliable


def test_the_oracle_ranks_an_image_without_valid_pixels_last() -> None:
    assert select(rank("oracle", KNOWN, seed=0), 0.75)[1] == ["c"]


def test_a_random_selection_depends_only_on_seed_and_ids_and_is_uniform() -> None:
    names = [f"image/{i}" for i in range(12)]

    def chosen(seed: int, stability: float) -> list[str]:
        return select(rank("random", {"stability": dict.fromkeys(names, stability)}, seed), 0.5)[0]

    assert chosen(3, 0.1) == chosen(3, 0.9)
    times = dict.fromkeys(names, 0)
    for seed in range(400):
        for name in chosen(seed, 0.5):
            times[name] += 1
    assert all(140 <= count <= 260 for count in times.values()), "200 expected, deviation 10"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.integers(0, 50), min_size=3, max_size=3)), min_size=1, max_size=40),
    st.floats(0.1, 0.9),
)
def test_a_balanced_selection_takes_the_most_stable_of_every_typical_class_in_the_same_share(
    images: list[tuple[float, list[int]]], ratio: float
) -> None:
    pixels = np.array([[counts[0] + 1, *counts[1:]] for _, counts in images])
    typical = typical_classes(pixels)
    for row, found in zip(pixels, typical, strict=True):  # by fractions, and class by class
        shares = [
            Fraction(int(n), int(row.sum())) / Fraction(int(of), int(pixels.sum())) if of else Fraction(0)
            for n, of in zip(row, pixels.sum(0), strict=True)
        ]
        assert float(shares[found]) >= float(max(shares)) * (1 - 1e-12)
    names = [f"{at:03}" for at in range(len(images))]
    s = dict(zip(names, (of for of, _ in images), strict=True))
    known = {"stability": s, "typical_class": dict(zip(names, map(float, typical), strict=True))}
    taken, _ = select(by_balanced(known, 0), ratio)
    for group in set(typical.tolist()):
        of_group = [name for name, own in zip(names, typical, strict=True) if own == group]
        chosen = [name for name in of_group if name in taken]
        assert abs(len(chosen) - len(of_group) * len(taken) / len(names)) < 2
        assert all(s[a] >= s[b] for a in chosen for b in of_group if b not in taken)
