"""Which images are worth a mask next, by what ST++ already knows of them. Not of the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


@dataclass(frozen=True)
class Suggestion:
    """An image to label, why, and the worth it had when it was taken."""

    id: str
    stability: float
    worth: float
    shares: Sequence[float]
    """Part of the image that its pseudo mask gives to each class."""
    alike: bool = False
    """Whether it looks like one that is taken before it, or labelled."""


def suggest(
    stability: Mapping[str, float],
    shares: Callable[[str], Sequence[float]],
    shown: Sequence[int],
    n: int,
    alike: Callable[[str], bool] = lambda name: False,
    least: float = 0.01,
) -> list[Suggestion]:
    """The n images most worth a mask, the first one most; fewer if there are no more.

    Taken one by one, by (1 - s_i) * sum over classes c of p_ic / (1 + n_c): s_i is the image's stability (paper, 3.4),
    p_ic the part of its pseudo mask that is of class c, and n_c how many images with masks show c, those taken so far
    included. An unstable image is worth more, and so is one whose classes are rare among the masks.

    shares: p_ic of an image, by class. shown: n_c before. alike: whether an image looks like one that is taken or
    labelled; such a one is taken only where no others are left. least: part of an image from which on it shows a class.
    """
    counts = list(shown)
    taken: list[Suggestion] = []
    passed_over: list[str] = []

    def worth(i: str) -> float:
        return (1 - stability[i]) * sum(p / (1 + n_c) for p, n_c in zip(shares(i), counts, strict=True))

    def take(ids: Sequence[str], alike: Callable[[str], bool], marked: bool) -> None:
        nonlocal counts
        # Counts only grow, so a worth only falls: what is worth most by now is among what once was worth more than it.
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
