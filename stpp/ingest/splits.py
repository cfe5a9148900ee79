"""Splits of a data set into labelled, unlabelled, validation and test images.

A set is drawn from a seed or read from a list. The sets are always disjoint, and `check` finds what is wrong with them
before training starts.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpp.data.oversampling import copies
from stpp.data.seeds import seed_of
from stpp.params.models import Split, Subset
from stpp.store.manifest import Dataset, read_user_list, repeated_hashes
from stpp.store.packed import PackedStrings

SETS = ("test", "val", "labeled", "unlabeled")
"""The sets in the order in which they take their images; sets that are given as lists come before all others."""


class _Images:
    """The ids of a data set in ascending order; this module refers to an image by its position."""

    def __init__(self, dataset: Dataset) -> None:
        self.records = dataset.records
        self.classes = len(dataset.classes)
        self.ids = PackedStrings(dataset.records)
        masked = bytearray(bool(record.mask) for record in dataset.records.values())
        order = self.ids.order()
        self.ids, masked = PackedStrings(self.ids[at] for at in order), bytearray(masked[at] for at in order)
        self.masked = np.frombuffer(masked, np.bool_)
        self.taken = np.zeros(len(self.ids), np.uint8)
        """For each image 0, or 1 + the position in SETS of the set that has taken it."""

    def at(self, name: str) -> int:
        """Return the position of an id."""
        return bisect_left(self.ids, name)


def draw(dataset: Dataset, split: Split, folder: Path) -> tuple[dict[str, PackedStrings], list[str]]:
    """Return the sorted ids of every set that `split` names, and all problems. Lists lie below `folder`."""
    images = _Images(dataset)
    sets: dict[str, PackedStrings] = {}
    problems: list[str] = []
    asked: dict[str, Subset] = {name: getattr(split, name) for name in SETS if getattr(split, name) is not None}
    # Sets listed by the user take their images first, so that no drawn set can collide with them.
    for name, subset in sorted(asked.items(), key=lambda item: item[1].list is None):
        candidates = _candidates(name, subset, dataset, images, folder, problems)
        size = size_of(subset, len(candidates))
        if size > len(candidates):
            problems.append(f"split.{name}: {size} images requested, but only {len(candidates)} are left")
        chosen = candidates
        if size < len(candidates):
            lots = (seed_of(split.seed, name, images.ids[at]) for at in candidates.tolist())
            order = candidates[np.argsort(np.fromiter(lots, np.int64, len(candidates)), kind="stable")]
            even = split.stratify and name == "labeled"
            chosen = _evenly(order, images, size) if even else order[:size]
        sets[name] = PackedStrings(images.ids[at] for at in np.sort(chosen).tolist())
        images.taken[chosen] = 1 + SETS.index(name)
        if not len(chosen):
            problems.append(f"split.{name}: no images; check its `list` or `ids`, or give the other sets fewer images")
    return sets, problems


def size_of(subset: Subset, candidates: int) -> int:
    """Return how many images to take: all `candidates`, `count`, or `fraction` of them.

    The fraction is rounded half up, and gives at least 1. `count` may exceed `candidates`.
    """
    if subset.count is not None:
        return subset.count
    return candidates if subset.part is None else max(1, int(candidates * subset.part + Fraction(1, 2)))


def _candidates(
    name: str, subset: Subset, dataset: Dataset, images: _Images, folder: Path, problems: list[str]
) -> NDArray[np.int64]:
    """Return the positions of the images that a set may take, ascending; append what is wrong to `problems`."""
    if subset.list is None:
        fits = images.taken == 0
        if subset.ids is not None:
            fits &= np.fromiter(map(_named(subset.ids), images.ids), np.bool_, len(images.ids))
        # Only images with masks can be labelled or evaluated. If a pattern alone selects a set for evaluation, the set
        # takes all its images, also those without masks: these must not fall to D_u, and `check` reports them.
        named = subset.ids is not None and subset.count is None and subset.fraction is None
        whole = name == "unlabeled" or (named and name != "labeled")
        return np.flatnonzero(fits if whole else fits & images.masked)
    path = folder / subset.list
    if Path(subset.list).is_absolute() or ".." in Path(subset.list).parts or not path.is_file():
        problems.append(f"split.{name}.list: {path}: no such file; lists must lie in {folder}/, which DVC tracks")
        return np.empty(0, np.int64)
    ids, wrong = read_user_list(path, dataset)
    problems += wrong
    places = np.fromiter(map(images.at, ids), np.int64, len(ids))
    owner = images.taken[places]
    problems += [
        f"{path}:{number}: {i} is also in {SETS[taken - 1]}: sets must not share images"
        for (i, number), taken in zip(ids.items(), owner.tolist(), strict=True)
        if taken
    ]
    return np.sort(places[owner == 0])


def _named(pattern: str) -> Callable[[str], bool]:
    """Return a function that matches an id against a shell pattern, case-sensitively; `*` also matches `/`."""
    match = re.compile(translate(pattern)).match
    return lambda name: match(name) is not None


def _evenly(order: NDArray[np.int64], images: _Images, size: int) -> NDArray[np.int64]:
    """Choose `size` images so that they cover the classes evenly; return their positions.

    Each step takes the next image, in `order`, of the class that the fewest chosen images show. Ties go to the class
    with the fewest images left, then to the smallest class id. When no class has images left, the rest follows `order`.
    """
    queues = [array("q") for _ in range(images.classes)]
    for at in order.tolist():
        for c in images.records[images.ids[at]].classes:
            queues[c].append(at)
    heads, shown = [0] * images.classes, [0] * images.classes
    chosen: dict[int, None] = {}
    while len(chosen) < size:
        open_ = [c for c in range(images.classes) if heads[c] < len(queues[c])]
        if not open_:
            break
        rarest = min(open_, key=lambda c: (shown[c], len(queues[c]) - heads[c], c))
        at = queues[rarest][heads[rarest]]
        heads[rarest] += 1
        if at not in chosen:
            chosen[at] = None
            for c in images.records[images.ids[at]].classes:
                shown[c] += 1
    rest = (at for at in order.tolist() if at not in chosen)
    return np.array([*chosen, *rest][:size], np.int64)


def check(
    sets: Mapping[str, Sequence[str]], dataset: Dataset, split: Split, batch_size: int
) -> tuple[list[str], list[str]]:
    """Check drawn sets and return problems and warnings.

    They are about missing masks, absent classes, fewer labelled samples in an epoch than a batch, a single unlabelled
    image, and images with the same content.
    """
    problems, warnings = [], []
    for name in ("labeled", "val", "test"):
        ids = sets.get(name, [])
        without: list[str] = []
        present: set[int] = set()
        for i in ids:
            record = dataset.records[i]
            present.update(record.classes)
            if not record.mask:
                without.append(i)
        problems += [
            f"{i}: in {name}, but has no mask; add the mask, or leave the image to `unlabeled`" for i in without
        ]
        if ids and not without and not present:
            problems.append(f"{name}: its masks hold no pixel of any class; check data.values")
        for c, label in enumerate(dataset.classes):
            if c in present or not ids or without:
                continue
            if name == "labeled" and split.labeled.list is None:
                problems.append(
                    f"class {label} has no pixel in the {len(ids)} labelled images and could not be learnt; "
                    "set split.stratify: true, take more labels, or another split.seed"
                )
            else:
                warnings.append(f"class {label} has no pixel in {name}")
    asked = split.labeled
    pattern = asked.ids if asked.count is None and asked.fraction is None else None
    fits = _named(pattern) if pattern else None
    bare = [i for i, r in dataset.records.items() if not r.mask and fits(i)] if fits else []
    if bare:
        warnings.append(
            f"split.labeled.ids matches {len(bare)} image(s) without a mask, such as {bare[0]}: not used as labelled"
        )
    if len(sets.get("unlabeled", [])) == 1:
        problems.append("split.unlabeled: 1 image cannot be split into reliable and unreliable; add more images")
    labeled = len(sets.get("labeled", []))
    if 0 < labeled * copies(labeled, 0) < batch_size:
        problems.append(
            f"{labeled} labelled images give {labeled * copies(labeled, 0)} samples per epoch, fewer than "
            f"train.batch_size {batch_size}; lower it, or label more images"
        )
    return problems + _shared(sets, dataset), warnings


def _shared(sets: Mapping[str, Sequence[str]], dataset: Dataset) -> list[str]:
    """Return a problem for every image whose content already occurs in the sets under another id."""
    problems, remedy = [], "remove one, or leave it out with data.exclude"
    twice = repeated_hashes(record.image_sha256 for record in dataset.records.values())
    seen: dict[str, tuple[str, str]] = {}
    for name, ids in sets.items() if twice else ():
        for i in ids:
            if hash(sha256 := dataset.records[i].image_sha256) in twice:
                other = seen.setdefault(sha256, (i, name))
                if other != (i, name):
                    problems.append(f"{i} in {name} is the same image as {other[0]} in {other[1]}: {remedy}")
    return problems
