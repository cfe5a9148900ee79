"""Stability scores against the paper's definition in plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stpp.selftrain.stability import stability

Mask = NDArray[np.uint8]
Views = tuple[int, list[Mask]]


@st.composite
def views(draw: st.DrawFn, least: int = 2) -> Views:
    """(classes, M_i1 .. M_iK)."""
    classes = draw(st.integers(1, 5))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    mask = hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1))
    return classes, draw(st.lists(mask, min_size=least, max_size=5))


def score(masks: list[Mask], classes: int) -> float:
    return stability([torch.from_numpy(m) for m in masks], classes)


def mean_iou(a: Mask, b: Mask) -> float:
    """A class that neither mask shows has no IoU."""
    present = sorted(set(a.ravel().tolist()) | set(b.ravel().tolist()))
    total = 0.0
    for c in present:
        both = either = 0
        for p in np.ndindex(a.shape):
            both += int(a[p] == c and b[p] == c)
            either += int(a[p] == c or b[p] == c)
        total += both / either
    return total / len(present)


@settings(max_examples=50, deadline=None)
@given(views())
def test_it_is_the_mean_iou_of_every_earlier_mask_with_the_last_over_their_number(given: Views) -> None:
    classes, masks = given
    s_i = sum(mean_iou(masks[j], masks[-1]) for j in range(len(masks) - 1))
    assert score(masks, classes) == pytest.approx(s_i / (len(masks) - 1))


@settings(max_examples=50, deadline=None)
@given(views())
def test_it_lies_between_zero_and_one(given: Views) -> None:
    assert 0 <= score(given[1], given[0]) <= 1


@settings(max_examples=25, deadline=None)
@given(views(least=1), st.integers(2, 5))
def test_equal_masks_score_one(given: Views, checkpoints: int) -> None:
    classes, masks = given
    assert score([masks[0]] * checkpoints, classes) == 1


@settings(max_examples=25, deadline=None)
@given(views(least=3), st.randoms(use_true_random=False))
def test_the_earlier_checkpoints_have_the_same_part_in_it(given: Views, random: object) -> None:
    classes, (*earlier, last) = given
    shuffled = list(earlier)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert score([*shuffled, last], classes) == pytest.approx(score([*earlier, last], classes))


def test_the_last_checkpoint_is_the_reference_and_no_other() -> None:
    a, b = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    assert score([a, a, b], 2) == 0
    assert score([a, b, b], 2) == 0.5


@settings(max_examples=25, deadline=None)
@given(views())
def test_a_checkpoint_kept_twice_changes_nothing_for_a_teacher_of_two(given: Views) -> None:
    """The sum is divided by K - 1."""
    classes, masks = given
    first, last = masks[0], masks[-1]
    assert score([first, first, first, last], classes) == pytest.approx(score([first, last], classes))


def test_one_stray_pixel_of_a_new_class_in_a_4_x_4_mask_takes_it_to_0_47() -> None:
    stray = np.zeros((4, 4), np.uint8)
    stray[1, 2] = 7
    assert score([stray, np.zeros((4, 4), np.uint8)], 21) == pytest.approx((15 / 16 + 0) / 2)
    assert round(score([stray, np.zeros((4, 4), np.uint8)], 21), 2) == 0.47


def test_agreement_on_background_alone_scores_one() -> None:
    assert score([np.zeros((4, 4), np.uint8)] * 3, 21) == 1


@settings(max_examples=25, deadline=None)
@given(views(), st.integers(0, 200))
def test_classes_that_no_mask_shows_do_not_count(given: Views, more: int) -> None:
    classes, masks = given
    assert score(masks, classes + more) == pytest.approx(score(masks, classes))


def test_one_checkpoint_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match="two checkpoints"):
        score([np.zeros((2, 2), np.uint8)], 2)
