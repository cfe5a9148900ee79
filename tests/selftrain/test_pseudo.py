"""Tests of pseudo masks against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stpp.selftrain.pseudo import fill, pseudo_masks, soft_labels

Scores = NDArray[np.float32]
SCORES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from([0.125, 0.25, 0.5, 1.0]) | st.floats(0.015625, 1, width=32),
)


def labelled(scores: torch.Tensor, threshold: float | None = None) -> tuple[NDArray[np.uint8], float]:
    """Return mask and confidence of an image that is the second of a batch, after an image of only class 0."""
    confidence, mask = torch.stack([torch.ones_like(scores), scores]).max(1)
    masks, confidences = pseudo_masks(mask.to(torch.uint8), confidence, threshold)
    assert not masks[0].any()
    assert confidences[0] == 1
    return masks[1], confidences[1]


@settings(max_examples=50, deadline=None)
@given(SCORES)
def test_a_pixel_gets_its_most_probable_class_or_the_first_of_equal_ones(scores: Scores) -> None:
    mask, _ = labelled(torch.from_numpy(scores))
    assert mask.dtype == np.uint8
    assert mask.tolist() == scores.argmax(0).tolist()


@settings(max_examples=50, deadline=None)
@given(SCORES)
def test_confidence_is_the_mean_of_the_winning_probability(scores: Scores) -> None:
    _, confidence = labelled(torch.from_numpy(scores))
    assert confidence == pytest.approx(scores.max(0).astype(np.float64).mean())


@settings(max_examples=25, deadline=None)
@given(SCORES)
def test_without_a_threshold_no_pixel_is_ignored(scores: Scores) -> None:
    mask, confidence = labelled(torch.from_numpy(scores / scores.sum(0)))
    assert (mask < len(scores)).all()
    assert 0 < confidence <= 1 + 1e-6


def test_pixels_without_data_are_ignored_and_do_not_count_as_confidence() -> None:
    confidence = torch.tensor([[[0.5, 0.75], [1.0, 0.25]], [[0.5, 0.5], [0.5, 0.5]]])
    nodata = torch.tensor([[[False, True], [False, True]], [[True, True], [True, True]]])
    masks, means = pseudo_masks(torch.zeros(2, 2, 2, dtype=torch.uint8), confidence, None, nodata)
    assert masks.tolist() == [[[0, 255], [0, 255]], [[255, 255], [255, 255]]]
    assert means == [0.75, 0]


def test_class_254_fits_into_a_mask() -> None:
    scores = torch.zeros(255, 1, 2)
    scores[254, 0, 0] = scores[3, 0, 1] = 1
    assert labelled(scores)[0].tolist() == [[254, 3]]


@settings(max_examples=50, deadline=None)
@given(SCORES, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_a_pixel_below_the_threshold_is_ignored_and_one_at_it_is_not(scores: Scores, threshold: float) -> None:
    mask, confidence = labelled(torch.from_numpy(scores), threshold)
    whole, of_all = labelled(torch.from_numpy(scores))
    for place in np.ndindex(mask.shape):
        expected = 255 if max(scores[:, *place]) < threshold else whole[place]
        assert mask[place] == expected
    assert confidence == of_all


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 255])), hnp.arrays(np.uint8, (3, 4)))
def test_fill_labels_only_the_ignored_pixels(kept: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    filled = fill(kept, mask)
    assert filled.dtype == np.uint8
    assert all(filled[p] == (mask[p] if kept[p] == 255 else kept[p]) for p in np.ndindex(3, 4))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_soft_labels_keep_what_is_kept_and_are_0_where_the_mask_is_ignored(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels, labels = rng.integers(1, 256, (3, 4, 5)).astype(np.uint8), rng.choice(np.uint8([1, 255]), (3, 4))
    kept = rng.integers(1, 256, (3, 4, 5)).astype(np.uint8) * rng.integers(0, 2, (3, 4, 1)).astype(np.uint8)
    for old in (None, kept):
        found = soft_labels(levels, labels, old)
        for p in np.ndindex(3, 4):
            given_ = levels[p] if old is None or not old[p].any() else old[p]
            assert np.array_equal(found[p], 0 * given_ if labels[p] == 255 else given_)
