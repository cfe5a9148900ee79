"""Tests of stability scores against the definition in the paper, in plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stpp.selftrain.scoring.stability import stabilities, stability

Mask = NDArray[np.uint8]
Views = tuple[int, list[Mask]]


@st.composite
def views(draw: st.DrawFn, least: int = 2) -> Views:
    """Draw (classes, M_i1 .. M_iK)."""
    classes = draw(st.integers(1, 5))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    mask = hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1))
    return classes, draw(st.lists(mask, min_size=least, max_size=5))


def score(masks: list[Mask], classes: int) -> float:
    return stability([torch.from_numpy(m) for m in masks], classes)


def mean_iou(a: Mask, b: Mask) -> float:
    """Return the mean IoU over the classes in at least one of the masks."""
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
def test_the_score_is_the_average_mean_iou_of_the_earlier_masks_with_the_last(given: Views) -> None:
    classes, masks = given
    s_i = sum(mean_iou(masks[j], masks[-1]) for j in range(len(masks) - 1))
    assert score(masks, classes) == pytest.approx(s_i / (len(masks) - 1))


@settings(max_examples=50, deadline=None)
@given(views())
def test_the_score_is_between_zero_and_one(given: Views) -> None:
    assert 0 <= score(given[1], given[0]) <= 1


@settings(max_examples=25, deadline=None)
@given(views(least=1), st.integers(2, 5))
def test_equal_masks_score_one(given: Views, checkpoints: int) -> None:
    classes, masks = given
    assert score([masks[0]] * checkpoints, classes) == 1


@settings(max_examples=25, deadline=None)
@given(views(least=3), st.randoms(use_true_random=False))
def test_the_order_of_the_earlier_checkpoints_does_not_matter(given: Views, random: object) -> None:
    classes, (*earlier, last) = given
    shuffled = list(earlier)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert score([*shuffled, last], classes) == pytest.approx(score([*earlier, last], classes))


def test_only_the_last_checkpoint_is_the_reference() -> None:
    a, b = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    assert score([a, a, b], 2) == 0
    assert score([a, b, b], 2) == 0.5


@settings(max_examples=25, deadline=None)
@given(views())
def test_repeating_the_first_of_two_checkpoints_does_not_change_the_score(given: Views) -> None:
    """The reason is that the sum is divided by K - 1."""
    classes, masks = given
    first, last = masks[0], masks[-1]
    assert score([first, first, first, last], classes) == pytest.approx(score([first, last], classes))


def test_one_pixel_of_another_class_in_a_4_x_4_mask_gives_the_score_0_47() -> None:
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


@settings(max_examples=25, deadline=None)
@given(views(), st.integers(0, 6))
def test_pixels_without_data_do_not_count(given: Views, rows: int) -> None:
    classes, masks = given
    nodata = torch.zeros(1, *masks[0].shape, dtype=torch.bool)
    nodata[:, :rows] = True
    whole = float(stabilities(torch.stack([torch.from_numpy(m)[None] for m in masks]), classes, nodata)[0])
    cut = [mask[rows:] for mask in masks]
    assert whole == (score(cut, classes) if cut[0].size else 0)


def test_one_checkpoint_is_an_error() -> None:
    with pytest.raises(ValueError, match="two checkpoints"):
        score([np.zeros((2, 2), np.uint8)], 2)
