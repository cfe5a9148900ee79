"""Tests of suspected label errors against loops over pixels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.selftrain.label_errors import label_quality, of_mask, suspected
from stpp.store.masks import IGNORE


def drawn(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return class probabilities (C, 4, 5), and a mask with ignored pixels."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), (4, 5)).transpose(2, 0, 1), rng.choice([*range(classes), IGNORE], (4, 5))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_quality_and_suspected_pixels_equal_a_loop_over_pixels(seed: int, classes: int) -> None:
    p, mask = drawn(seed, classes)
    thresholds = np.random.default_rng(seed).random(classes)
    thresholds[0] = math.nan  # no mask has this class
    found = suspected(p, mask, thresholds)
    values = []
    for place in np.ndindex(mask.shape):
        best = max(range(classes), key=lambda c: p[(c, *place)])
        against = mask[place] not in (best, IGNORE) and p[(best, *place)] >= thresholds[best]
        assert found[place] == (best if against else IGNORE)
        if mask[place] != IGNORE:
            values.append(p[(mask[place], *place)])
    weights = [math.exp((1 - v) / 0.3) for v in values]
    given_p, classes_of = of_mask(p, mask)
    assert classes_of.tolist() == mask[mask != IGNORE].tolist()
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert label_quality(given_p) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_few_wrong_pixels_among_many_lower_the_quality(seed: int) -> None:
    p = np.random.default_rng(seed).uniform(0.6, 1, 1000)
    values = []
    for wrong in (0, 1, 10):
        values.append(label_quality(np.concatenate([1 - p[:wrong], p[wrong:]])))
    assert values == sorted(values, reverse=True) and values[0] > 0.6
