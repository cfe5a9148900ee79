"""Tests of `ordered_map`: it keeps the order of items, raises errors, and takes few items in advance."""

import itertools
import threading

import pytest

from stpp.run.parallel import TOGETHER, ordered_map


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_results_come_in_the_order_of_the_items(workers: int, count: int) -> None:
    assert list(ordered_map(lambda item: 2 * item, range(count), workers)) == [2 * item for item in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_few_items_are_taken_before_their_results_are(workers: int) -> None:
    asked = itertools.count()
    for result in itertools.islice(ordered_map(lambda item: item, asked, workers), 500):
        assert result <= 500
    assert next(asked) <= 500 + (4 * workers + 2) * TOGETHER


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda item: 1 / item, [1, 0, 1], workers))


def test_each_of_a_few_items_gets_its_own_thread() -> None:
    together = threading.Barrier(3)  # it opens when three threads wait at the same time
    assert len(list(ordered_map(lambda _: together.wait(timeout=30), range(3), 3))) == 3
