"""A first split of a new data set, and the parameters that draw it."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from stpp.data.oversampling import copies
from stpp.ingest.splits import check, draw
from stpp.params.models import Split
from stpp.store.files import StppError
from stpp.store.manifest import Dataset

VAL, TEST, TRAIN = ("val", "valid", "validation"), ("test", "testing"), ("train", "training")
"""Names of folders that hold a set of their own."""
WITH_TEST = 60
"""The fewest masks for which a test set is drawn."""
SHARES, FEW, SEEDS = ("1/8", "1/4", "1/2"), 10, 100
"""SHARES: shares of the images with masks that are labelled if all have masks; the first that gives about FEW images is
tried first. SEEDS: the number of seeds that are tried."""


@dataclass(frozen=True)
class FirstSplit:
    """The values of the section split with reasons, the batch size that fits it, and the size of each set."""

    values: dict[str, Any]
    why: dict[str, str]
    batch_size: int
    counts: dict[str, int]


def first_split(dataset: Dataset, batch_size: int, classes_known: bool) -> FirstSplit:
    """Return the first split that leaves no problem.

    classes_known: the records hold the classes of all masks; then each class must occur in the labelled images. Raises
    StppError if there are fewer than two masks, or naming the problems of every split.
    """
    masked = sum(bool(record.mask) for record in dataset.records.values())
    if masked < 2:
        raise StppError(f"{masked} image with a mask: at least 2 are needed, for training and validation; label more")
    first: list[str] = []
    for (values, why), seed in product(_proposals(dataset, masked), range(SEEDS)):
        split = Split(name=dataset.name, seed=seed, **values)
        sets, problems = draw(dataset, split, Path())
        labeled = len(sets["labeled"])
        batch = max(2, min(batch_size, labeled * copies(max(labeled, 1), 0)))
        if classes_known:
            problems += check(sets, dataset, split, batch)[0]
        if not problems:
            counts = {name: len(ids) for name, ids in sets.items()}
            return FirstSplit({"name": f"{dataset.name}-{labeled}", "seed": seed} | values, why, batch, counts)
        first = first or problems
        if not classes_known:
            break
    raise StppError("\n".join([f"{dataset.name}: no split of its images is possible:", *first]))


def _proposals(dataset: Dataset, masked: int) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Yield the sets as values of the section split, without name and seed, with reasons."""
    folders: dict[str, list[bool]] = defaultdict(list)
    for name, record in dataset.records.items():
        folders[name.partition("/")[0] if "/" in name else ""].append(bool(record.mask))
    own = {names[0]: next((f for f in folders if f.lower() in names and all(folders[f])), "") for names in (VAL, TEST)}
    left = {folder: has for folder, has in folders.items() if folder not in own.values() or not folder}
    train = {"ids": f"{next(iter(left))}/*"} if len(left) == 1 and next(iter(left)).lower() in TRAIN else {}
    masks, bare = sum(map(sum, left.values())), sum(has.count(False) for has in left.values())
    rest = masks
    values: dict[str, Any] = {"stratify": True, "unlabeled": train}
    why = {"stratify": "labelled images cover the classes evenly", "unlabeled": "all that are left"}
    if unmasked := [folder for folder in left if folder.lower() in (*VAL, *TEST)]:
        why["unlabeled"] += f", also those of {', '.join(unmasked)}, where not all images have masks"
    for which in ("val", "test"):
        if own[which]:
            values[which], why[which] = {"ids": f"{own[which]}/*"}, f"the folder {own[which]}"
        elif which == "val" or (masks >= WITH_TEST and not own["val"]):
            fifth = max(1, round(masks / 5))
            values[which], why[which] = {"count": fifth}, "a fifth of the images with masks"
            rest -= fifth
        else:
            values[which] = None
            why[which] = "there is a folder for val only" if own["val"] else f"drawn from {WITH_TEST} masks on"
    if bare >= 2:
        yield values | {"labeled": {"fraction": 1.0}}, why | {"labeled": "all others with masks"}
        return
    why["labeled"] = "a part, as if the others had no masks: too few images have none"
    for share in SHARES:
        if rest * Fraction(share) >= FEW or share == SHARES[-1]:
            yield values | {"labeled": train | {"fraction": share}}, why
