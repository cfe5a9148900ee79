"""Tests that a seed depends on its parts only."""

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.data.seeds import seed_of

PARTS = st.lists(st.integers(-5, 500).map(str) | st.text("ab1", max_size=3), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(PARTS, PARTS)
def test_seeds_are_equal_only_for_equal_parts(a: list[str], b: list[str]) -> None:
    assert (seed_of(*a) == seed_of(*b)) == (a == b)
    assert 0 <= seed_of(*a) < 2**63


def test_parts_that_join_to_the_same_text_have_different_seeds() -> None:
    assert len({seed_of("ab", "c"), seed_of("a", "bc"), seed_of("abc"), seed_of("a", "b", "c")}) == 4


def test_a_seed_is_the_same_in_every_process() -> None:
    code = "from stpp.data.seeds import seed_of; print(seed_of(0, 'teacher', 3, 41, 'weak'))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert int(other.stdout) == seed_of(0, "teacher", 3, 41, "weak") == 1459487671869932562


def test_seeds_of_neighbouring_draws_look_independent() -> None:
    low = [seed_of(0, "teacher", epoch, position) % 2**32 for epoch in range(30) for position in range(30)]
    assert len(set(low)) == 900
    assert abs(sum(s >> 31 for s in low) / 900 - 0.5) < 4 * (0.25 / 900) ** 0.5
