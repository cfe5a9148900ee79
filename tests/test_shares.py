"""Tests that the shares of several processes add up to the work of one process."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stpp.data.loaders import TrainingBatchSampler
from stpp.run.distributed import is_main, shard

FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


@FEW
@given(st.lists(st.integers(), unique=True, max_size=20), st.integers(1, 6))
def test_every_item_goes_to_one_process_and_the_shares_are_even(
    monkeypatch: pytest.MonkeyPatch, items: list[int], world_size: int
) -> None:
    shares = []
    for rank in range(world_size):
        as_process(monkeypatch, rank, world_size)
        shares.append(shard(items))
        assert is_main() == (rank == 0)
    assert sorted(i for one in shares for i in one) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@FEW
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 5))
def test_the_parts_of_a_batch_add_up_to_the_batch_of_one_process(
    monkeypatch: pytest.MonkeyPatch, world_size: int, each: int, epochs: int, start: int
) -> None:
    size = world_size * each

    def batches(rank: int, world_size: int) -> list[list[tuple[int, int]]]:
        as_process(monkeypatch, rank, world_size)
        return list(TrainingBatchSampler(3 * size + size // 2, size, 3 * epochs, 0, "teacher", min(start, 3 * epochs)))

    alone = batches(0, 1)
    parts = [batches(rank, world_size) for rank in range(world_size)]
    assert len(alone) == 3 * epochs - min(start, 3 * epochs)
    for at, whole in enumerate(alone):
        assert sorted(draw for part in parts for draw in part[at]) == sorted(whole)
        assert all(len(part[at]) == each for part in parts), "each has as much to do"
