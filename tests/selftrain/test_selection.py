"""Reliable and unreliable images: what holds whatever the scores and their ties."""

import math
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.selftrain.selection import select

IDS = st.text("abAB019/_", min_size=1, max_size=4)
# few values, so that many images share one
SCORES = st.dictionaries(IDS, st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 1.0]) | st.floats(0, 1), max_size=30)
RATIOS = st.integers(1, 99).map(lambda percent: percent / 100)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_every_image_is_in_one_of_the_two_sets_and_in_it_once(scores: dict[str, float], ratio: float) -> None:
    reliable, unreliable = select(scores, ratio)
    assert sorted(reliable + unreliable) == sorted(scores)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_the_reliable_set_holds_the_ratios_part_rounded_down(scores: dict[str, float], ratio: float) -> None:
    assert len(select(scores, ratio)[0]) == math.floor(len(scores) * Fraction(Decimal(str(ratio))))


@pytest.mark.parametrize(
    ("images", "ratio", "reliable"),
    [(9920, 0.5, 4960), (7, 0.5, 3), (1, 0.5, 0), (0, 0.5, 0), (100, 0.29, 29), (100, 0.57, 57), (10, 0.7, 7)],
)
def test_t_is_floor_of_n_times_the_ratio_as_it_is_written(images: int, ratio: float, reliable: int) -> None:
    assert len(select({str(i): 0.5 for i in range(images)}, ratio)[0]) == reliable


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_no_unreliable_image_scores_above_a_reliable_one(scores: dict[str, float], ratio: float) -> None:
    reliable, unreliable = select(scores, ratio)
    assert all(scores[r] >= scores[u] for r in reliable for u in unreliable)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS)
def test_both_sets_fall_in_score_and_equal_scores_rise_in_id(scores: dict[str, float], ratio: float) -> None:
    reliable, unreliable = select(scores, ratio)
    ranked = reliable + unreliable
    for one, next_ in pairwise(ranked):
        assert scores[one] > scores[next_] or (scores[one] == scores[next_] and one < next_)


@settings(max_examples=50, deadline=None)
@given(SCORES, RATIOS, st.randoms(use_true_random=False))
def test_the_order_in_which_images_were_scored_changes_nothing(
    scores: dict[str, float], ratio: float, random: object
) -> None:
    names = list(scores)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert select({name: scores[name] for name in names}, ratio) == select(scores, ratio)


@settings(max_examples=25, deadline=None)
@given(SCORES, RATIOS)
def test_the_papers_sum_and_its_mean_select_the_same_images(scores: dict[str, float], ratio: float) -> None:
    """s_i and s_i / (K - 1) for K = 3: the order is the same."""
    assert select({name: 2 * value for name, value in scores.items()}, ratio) == select(scores, ratio)
