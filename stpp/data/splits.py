"""Who is labelled, unlabelled, validation and test: drawn or listed, checked, always disjoint."""

from collections import deque
from fnmatch import fnmatchcase
from pathlib import Path

from stpp.manifest import Dataset, listed
from stpp.params import Split, Subset
from stpp.seeds import seed_of

SETS = ("test", "val", "labeled", "unlabeled")
"""In the order in which they take their images, after those that are listed."""


def copies(labeled: int, pseudo: int) -> int:
    """How often D_l is repeated to come to about the size of D_u: ceil(N / M) for students (paper, 3.3).

    Without pseudo labels it is 2 below 200 labelled images, as in the authors' code, else 1.
    """
    if pseudo:
        return -(-pseudo // labeled)
    return 2 if labeled < 200 else 1


def draw(dataset: Dataset, split: Split, folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Ids of every set that `split` names, sorted, and all problems found. Lists lie below `folder`."""
    taken: dict[str, str] = {}
    sets: dict[str, list[str]] = {}
    problems: list[str] = []
    asked: dict[str, Subset] = {name: getattr(split, name) for name in SETS if getattr(split, name) is not None}
    # What a person has listed is taken first: nothing drawn may collide with it.
    for name, subset in sorted(asked.items(), key=lambda item: item[1].list is None):
        candidates = _candidates(name, subset, dataset, folder, taken, problems)
        size = subset.size(len(candidates))
        if size > len(candidates):
            problems.append(f"split.{name}: {size} images asked for, but only {len(candidates)} are left to take")
        chosen = candidates
        if size < len(candidates):
            order = sorted(candidates, key=lambda i: (seed_of(split.seed, name, i), i))
            even = split.stratify and name == "labeled"
            chosen = _evenly(order, dataset, size) if even else order[:size]
        sets[name] = sorted(chosen)
        taken |= dict.fromkeys(chosen, name)
        if not chosen:
            problems.append(f"split.{name}: no image; check its `list` or `ids`, or give the other sets fewer")
    return sets, problems


def _candidates(
    name: str, subset: Subset, dataset: Dataset, folder: Path, taken: dict[str, str], problems: list[str]
) -> list[str]:
    if subset.list is None:
        pattern = subset.ids or "*"
        free = [i for i in dataset.records if fnmatchcase(i, pattern) and i not in taken]
        # Only images with masks can be labelled or evaluated. What a pattern names for evaluation, it names wholly:
        # an image whose mask is missing there is no image for D_u, and `check` says so.
        named = subset.ids is not None and subset.count is None and subset.fraction is None
        whole = name == "unlabeled" or (named and name != "labeled")
        return free if whole else [i for i in free if dataset.records[i].mask]
    path = folder / subset.list
    if Path(subset.list).is_absolute() or ".." in Path(subset.list).parts or not path.is_file():
        problems.append(f"split.{name}.list: {path}: no such file; lists lie in {folder}/, where DVC watches them")
        return []
    ids, wrong = listed(path, dataset)
    problems += wrong
    problems += [
        f"{path}:{number}: {i} is also in {taken[i]}: a set may not share images"
        for i, number in ids.items()
        if i in taken
    ]
    return [i for i in ids if i not in taken]


def _evenly(order: list[str], dataset: Dataset, size: int) -> list[str]:
    """Take images in turn for the class that fewest of those taken show; `order` breaks ties."""
    queues = {c: deque(i for i in order if c in dataset.records[i].classes) for c in range(len(dataset.classes))}
    shown = dict.fromkeys(queues, 0)
    chosen: dict[str, None] = {}
    while len(chosen) < size:
        open_ = [c for c, queue in queues.items() if queue]
        if not open_:
            break
        rarest = min(open_, key=lambda c: (shown[c], len(queues[c]), c))
        name = queues[rarest].popleft()
        if name not in chosen:
            chosen[name] = None
            for c in dataset.records[name].classes:
                shown[c] += 1
    rest = (i for i in order if i not in chosen)
    return [*chosen, *rest][:size]


def check(sets: dict[str, list[str]], dataset: Dataset, split: Split, batch_size: int) -> tuple[list[str], list[str]]:
    """Problems and warnings of drawn sets: missing masks, absent classes, fewer labels than a batch, shared content."""
    problems, warnings = [], []
    for name in ("labeled", "val", "test"):
        ids = sets.get(name, [])
        without = [i for i in ids if not dataset.records[i].mask]
        problems += [
            f"{i}: in {name}, but has no mask; add the mask, or leave the image to `unlabeled`" for i in without
        ]
        present = {c for i in ids for c in dataset.records[i].classes}
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
    bare = [i for i, r in dataset.records.items() if pattern and fnmatchcase(i, pattern) and not r.mask]
    if bare:
        warnings.append(f"split.labeled.ids names {len(bare)} image(s) without a mask, such as {bare[0]}: not labelled")
    if len(sets.get("unlabeled", [])) == 1:
        problems.append("split.unlabeled: 1 image cannot be parted into reliable and unreliable: give more")
    labeled = len(sets.get("labeled", []))
    if 0 < labeled * copies(labeled, 0) < batch_size:
        problems.append(
            f"{labeled} labelled images make {labeled * copies(labeled, 0)} samples an epoch, fewer than "
            f"train.batch_size {batch_size}: lower it, or label more"
        )
    seen: dict[str, tuple[str, str]] = {}
    for name, ids in sets.items():
        for i in ids:
            other = seen.setdefault(dataset.records[i].image_sha256, (i, name))
            if other != (i, name):
                problems.append(f"{i} in {name} is the same image as {other[0]} in {other[1]}: remove one")
    return problems, warnings
