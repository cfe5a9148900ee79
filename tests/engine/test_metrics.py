"""Tests of the confusion matrix and IoU against loops over pixels, sets of pixels, and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from stpp.engine.metrics import LEVELS, confidence_counts, confusion, iou, miou, pixel_accuracy

Masks = tuple[int, NDArray[np.uint8], NDArray[np.uint8]]


@st.composite
def masks(draw: st.DrawFn, ignore: bool = True) -> Masks:
    """Draw (classes, predicted, target). If `ignore`, some of the target is 255."""
    classes = draw(st.integers(1, 6))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=7))
    predicted = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    values = st.sampled_from([*range(classes), 255]) if ignore else st.integers(0, classes - 1)
    return classes, predicted, draw(hnp.arrays(np.uint8, shape, elements=values))


def matrix_of(given: Masks) -> Tensor:
    classes, predicted, target = given
    return confusion(torch.from_numpy(predicted), torch.from_numpy(target), classes)


def iou_of_sets(given: Masks) -> list[float | None]:
    """Return for each class the IoU of two sets of pixels, or None if both are empty."""
    classes, predicted, target = given
    valid = {p for p in np.ndindex(target.shape) if target[p] != 255}
    result: list[float | None] = []
    for c in range(classes):
        says, is_ = ({p for p in valid if m[p] == c} for m in (predicted, target))
        result.append(len(says & is_) / len(says | is_) if says | is_ else None)
    return result


@settings(max_examples=50, deadline=None)
@given(masks())
def test_a_cell_counts_the_pixels_with_its_target_and_prediction(given: Masks) -> None:
    classes, predicted, target = given
    expected = [[0] * classes for _ in range(classes)]
    for row in range(target.shape[0]):
        for column in range(target.shape[1]):
            if target[row, column] != 255:
                expected[target[row, column]][predicted[row, column]] += 1
    assert matrix_of(given).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(masks())
def test_iou_is_intersection_over_union_of_each_class_and_nan_where_it_occurs_in_neither(given: Masks) -> None:
    for got, expected in zip(iou(matrix_of(given)).tolist(), iou_of_sets(given), strict=True):
        assert math.isnan(got) if expected is None else got == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(masks())
def test_miou_is_the_mean_over_the_classes_that_occur(given: Masks) -> None:
    present = [v for v in iou_of_sets(given) if v is not None]
    got = miou(matrix_of(given))
    assert got == pytest.approx(sum(present) / len(present)) if present else math.isnan(got)


@settings(max_examples=50, deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_valid_pixels_are_counted_by_their_rounded_confidence_as_wrong_or_right(given: Masks, seed: int) -> None:
    _, predicted, target = given
    confidence = np.random.default_rng(seed).choice([0.0, 0.5, 0.9, 1.0, 1.0000001], target.shape).astype(np.float32)
    counts = confidence_counts(*map(torch.from_numpy, (confidence, predicted, target)))
    expected: dict[tuple[int, int], int] = {}
    for p in np.ndindex(target.shape):
        if target[p] != 255:
            at = min(LEVELS, round(float(confidence[p]) * LEVELS)), int(predicted[p] == target[p])
            expected[at] = expected.get(at, 0) + 1
    assert {tuple(at): int(counts[tuple(at)]) for at in counts.nonzero().tolist()} == expected


@settings(max_examples=50, deadline=None)
@given(masks())
def test_pixel_accuracy_is_the_share_of_correct_valid_pixels(given: Masks) -> None:
    _, predicted, target = given
    right = [predicted[p] == target[p] for p in np.ndindex(target.shape) if target[p] != 255]
    got = pixel_accuracy(matrix_of(given))
    assert got == pytest.approx(sum(right) / len(right)) if right else math.isnan(got)


@settings(max_examples=25, deadline=None)
@given(masks(ignore=False))
def test_a_perfect_prediction_scores_one_however_many_classes_are_absent(given: Masks) -> None:
    classes, _, target = given
    matrix = matrix_of((classes, target, target))
    assert miou(matrix) == 1
    assert pixel_accuracy(matrix) == 1


@settings(max_examples=50, deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_predictions_where_the_target_is_255_never_count(given: Masks, seed: int) -> None:
    classes, predicted, target = given
    other = np.random.default_rng(seed).integers(0, classes, target.shape).astype(np.uint8)
    assert torch.equal(matrix_of((classes, np.where(target == 255, other, predicted), target)), matrix_of(given))


@settings(max_examples=25, deadline=None)
@given(masks(), masks())
def test_the_matrices_of_two_images_add_up_to_the_matrix_of_both(one: Masks, other: Masks) -> None:
    classes = max(one[0], other[0])
    parts = [matrix_of((classes, *given[1:])) for given in (one, other)]
    both = [np.concatenate([one[i].ravel(), other[i].ravel()]) for i in (1, 2)]
    assert torch.equal(parts[0] + parts[1], matrix_of((classes, both[0], both[1])))


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    predicted, target = np.array([[0, 0, 1]], np.uint8), np.array([[0, 0, 0]], np.uint8)
    assert miou(matrix_of((3, predicted, target))) == pytest.approx((2 / 3 + 0) / 2)


def test_scores_without_valid_pixels_are_nan() -> None:
    matrix = matrix_of((2, np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)))
    assert math.isnan(miou(matrix))
    assert math.isnan(pixel_accuracy(matrix))


def test_counts_beyond_32_bits_keep_their_value() -> None:
    matrix = torch.tensor([[2**40, 0], [2**40, 2**40]])
    assert miou(matrix) == 0.5
    assert pixel_accuracy(matrix) == pytest.approx(2 / 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_the_scores_equal_those_of_torchmetrics(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(0, classes, (4, 9, 11), generator=generator)
    target = torch.randint(0, classes, (4, 9, 11), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    theirs = {
        "matrix": MulticlassConfusionMatrix(classes, ignore_index=255),
        "iou": MulticlassJaccardIndex(classes, average="none", ignore_index=255),
        "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=255),
    }
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for one, truth in zip(predicted, target, strict=True):
        matrix += confusion(one, truth, classes)
        for metric in theirs.values():
            metric.update(one[None], truth[None])
    assert torch.equal(matrix, theirs["matrix"].compute())
    torch.testing.assert_close(iou(matrix).nan_to_num(0).float(), theirs["iou"].compute(), rtol=0, atol=1e-6)
    assert pixel_accuracy(matrix) == pytest.approx(float(theirs["accuracy"].compute()), abs=1e-6)
