"""Tests of suggestions: unstable images and rare classes come first, and no two images are alike."""

from hypothesis import given
from hypothesis import strategies as st

from stpp.selftrain.suggestion import suggest

images = st.integers(2, 12).flatmap(
    lambda n: st.lists(
        st.tuples(st.floats(0, 1), st.lists(st.floats(0.01, 1), min_size=3, max_size=3)), min_size=n, max_size=n
    )
)


def test_with_equal_classes_the_least_stable_image_comes_first() -> None:
    shares = {i: [0.5, 0.5] for i in "abc"}
    found = suggest({"a": 0.9, "b": 0.2, "c": 0.5}, shares.__getitem__, [3, 3], 3)
    assert [one.id for one in found] == ["b", "c", "a"]


def test_with_equal_stability_the_rarest_class_comes_first_and_classes_alternate() -> None:
    shares = {"a1": [1.0, 0.0], "a2": [1.0, 0.0], "b1": [0.0, 1.0], "b2": [0.0, 1.0]}
    found = suggest(dict.fromkeys(shares, 0.5), shares.__getitem__, [1, 0], 4)
    assert [one.id for one in found][:1] == ["b2"], "nothing shows b yet"
    evenly = suggest(dict.fromkeys(shares, 0.5), shares.__getitem__, [0, 0], 4)
    assert [one.id[0] for one in evenly][:2] in (["a", "b"], ["b", "a"])


def test_an_image_that_looks_like_a_suggested_one_is_skipped() -> None:
    shares = {i: [1.0] for i in "abc"}
    found = suggest({"a": 0.1, "b": 0.2, "c": 0.3}, shares.__getitem__, [0], 2, alike=lambda name: name == "b")
    assert [(one.id, one.alike) for one in found] == [("a", False), ("c", False)]


def test_similar_images_are_suggested_and_marked_if_no_others_are_left() -> None:
    shares = {i: [1.0] for i in "abcd"}
    stability = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    found = suggest(stability, shares.__getitem__, [0], 3, alike=lambda name: name in "bcd")
    assert [(one.id, one.alike) for one in found] == [("a", False), ("b", True), ("c", True)]


@given(images, st.integers(1, 15))
def test_suggestions_are_distinct_and_as_many_as_requested_or_available(
    known: list[tuple[float, list[float]]], n: int
) -> None:
    stability = {f"{i:02d}": s for i, (s, _) in enumerate(known)}
    shares = {f"{i:02d}": [v / sum(p) for v in p] for i, (_, p) in enumerate(known)}
    found = suggest(stability, shares.__getitem__, [0, 1, 2], n)
    assert len({one.id for one in found}) == len(found) == min(n, len(known))
    assert found == suggest(dict(reversed(stability.items())), shares.__getitem__, [0, 1, 2], n)
    best = found[0]
    for i, s in stability.items():
        assert (1 - s) * sum(p / (1 + c) for p, c in zip(shares[i], [0, 1, 2], strict=True)) <= best.worth


def plainly(stability: dict[str, float], shares: dict[str, list[float]], shown: list[int], n: int) -> list[str]:
    """Return the suggestions of an algorithm that looks at every image for every suggestion."""
    counts, left, taken = list(shown), dict(stability), []
    while left and len(taken) < n:
        worth = {i: (1 - s) * sum(p / (1 + c) for p, c in zip(shares[i], counts, strict=True)) for i, s in left.items()}
        taken.append(max(left, key=lambda i: (worth[i], i)))
        counts = [c + (p >= 0.01) for c, p in zip(counts, shares[taken[-1]], strict=True)]
        del left[taken[-1]]
    return taken


@given(images, st.integers(1, 15))
def test_suggestions_equal_those_of_a_full_search_each_time(known: list[tuple[float, list[float]]], n: int) -> None:
    stability = {f"{i:02d}": round(s, 1) for i, (s, _) in enumerate(known)}
    shares = {f"{i:02d}": p for i, (_, p) in enumerate(known)}
    found = suggest(stability, shares.__getitem__, [0, 1, 2], n)
    assert [one.id for one in found] == plainly(stability, shares, [0, 1, 2], n)
