"""Suggestion of images to label next, from what ST++ already knows about them. It is not in the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


@dataclass(frozen=True)
class Suggestion:
    """An image to label, and the reasons why it was taken."""

    id: str
    stability: float
    worth: float
    """The image's worth when it was taken (see `suggest`)."""
    shares: Sequence[float]
    """Fraction of the image that its pseudo mask gives to each class."""
    alike: bool = False
    """Whether it looks like an image that was taken before it, or that is labelled."""


def suggest(
    stability: Mapping[str, float],
    shares: Callable[[str], Sequence[float]],
    shown: Sequence[int],
    n: int,
    alike: Callable[[str], bool] = lambda name: False,
    least: float = 0.01,
) -> list[Suggestion]:
    """Return the n images that are most worth a mask, the best one first; fewer if there are no more.

    Images are taken one by one. The worth of image i is (1 - s_i) * sum over classes c of p_ic / (1 + n_c). s_i is its
    stability (paper, 3.4). p_ic is the fraction of its pseudo mask that has class c. n_c is the number of images with
    masks that show class c, including those taken so far. So an unstable image is worth more, and so is an image whose
    classes are rare among the masks.

    shares: p_ic of an image, by class. shown: n_c before any image is taken. alike: whether an image looks like one
    that is taken or labelled; such an image is taken only when no others are left. least: an image shows a class if
    the class covers at least this fraction of it.
    """
    counts = list(shown)
    taken: list[Suggestion] = []
    passed_over: list[str] = []

    def worth(i: str) -> float:
        return (1 - stability[i]) * sum(p / (1 + n_c) for p, n_c in zip(shares(i), counts, strict=True))

    def take(ids: Sequence[str], alike: Callable[[str], bool], marked: bool) -> None:
        nonlocal counts
        # Counts only grow, so the worth of an image only falls, and a worth in the heap is an upper bound. If the first
        # image's worth, computed anew, is still the highest in the heap, then no other image is worth more.
        heap = [(-worth(i), -at) for at, i in enumerate(ids)]
        heapify(heap)
        while heap and len(taken) < n:
            _, at = heappop(heap)
            best = ids[-at]
            now = worth(best)
            if heap and (-now, at) > heap[0]:
                heappush(heap, (-now, at))
            elif alike(best):
                passed_over.append(best)
            else:
                taken.append(Suggestion(best, stability[best], now, shares(best), marked))
                counts = [n_c + (p >= least) for n_c, p in zip(counts, shares(best), strict=True)]

    take(sorted(stability), alike, marked=False)
    take(sorted(passed_over), lambda _: False, marked=True)
    return taken
