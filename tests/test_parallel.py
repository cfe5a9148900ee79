"""Results come in the order of the items, errors come through, and no more is in work than needed."""

import itertools
import threading

import pytest

from stpp.run.parallel import TOGETHER, ordered_map


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_results_come_in_the_order_of_the_items(workers: int, count: int) -> None:
    assert list(ordered_map(lambda item: 2 * item, range(count), workers)) == [2 * item for item in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_items_are_taken_as_results_are(workers: int) -> None:
    asked = itertools.count()
    for result in itertools.islice(ordered_map(lambda item: item, asked, workers), 500):
        assert result <= 500
    assert next(asked) <= 500 + (4 * workers + 2) * TOGETHER


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda item: 1 / item, [1, 0, 1], workers))


def test_of_a_few_items_each_goes_to_a_thread_of_its_own() -> None:
    together = threading.Barrier(3)  # passed by three at one time
    assert len(list(ordered_map(lambda _: together.wait(timeout=30), range(3), 3))) == 3
