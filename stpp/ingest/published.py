"""The split lists that the paper's authors publish, and what must hold for one to be used."""

from dataclasses import dataclass
from pathlib import Path

from stpp.store.files import StppError, raise_all, read_text

LABELED = {
    "pascal": {
        "92": 92,
        "183": 183,
        "366": 366,
        "732": 732,
        "1464": 1464,
        "1_16": 662,
        "1_8": 1323,
        "1_4": 2645,
    },
    "cityscapes": {"1_30": 100, "1_8": 372, "1_4": 744},
}
"""Labelled images by data set and name of the setting (paper, 4.1)."""
TRAIN = {"pascal": 10_582, "cityscapes": 2_975}
"""Labelled and unlabelled images together."""
VAL = {"pascal": 1_449, "cityscapes": 500}
FOLDERS = {"1464": "1.4k"}
"""What the authors call a setting's folder where that is not its name here."""
SPLITS = ("split_0", "split_1", "split_2")


def place(data: str, labels: str, split: str = SPLITS[0]) -> str:
    """Where the lists of a setting lie below splits/; the whole original set has one split only."""
    return f"{data}/{labels}" if labels in FOLDERS else f"{data}/{labels}/{split}"


@dataclass(frozen=True)
class Lists:
    """Lines of the three lists: an image and its mask, as published."""

    labeled: list[str]
    unlabeled: list[str]
    val: list[str]


def read_lists(folder: Path, data: str, labels: str, split: str) -> Lists:
    """The published lists of a setting below `folder`, which holds `pascal/1_8/split_0/labeled.txt` and so on.

    Raises StppError naming all at once: files that are missing or empty (as some of the published ones are), counts
    that are not the setting's, images listed twice, and images shared by two lists.
    """
    if labels not in LABELED.get(data, {}):
        known = ", ".join(f"{d} {n}" for d, names in LABELED.items() for n in names)
        raise StppError(f"{data} {labels}: no published setting; there are {known}")
    splits = SPLITS[:1] if labels in FOLDERS else SPLITS
    if split not in splits:
        raise StppError(f"{split}: no published split of {data} {labels}; there are {', '.join(splits)}")
    of_setting = folder / data / FOLDERS[labels] if labels in FOLDERS else folder / data / labels / split
    paths = {
        "labeled": of_setting / "labeled.txt",
        "unlabeled": of_setting / "unlabeled.txt",
        "val": folder / data / "val.txt",
    }
    expected = {
        "labeled": LABELED[data][labels],
        "unlabeled": TRAIN[data] - LABELED[data][labels],
        "val": VAL[data],
    }
    problems: list[str] = []
    lists: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    for name, path in paths.items():
        lists[name] = _lines(path, problems)
        images = [line.split()[0] for line in lists[name]]
        glued = [line for line in lists[name] if len(line.split()) > 2]
        problems += [f"{path}: {line!r} is not an image and its mask; is a line break missing?" for line in glued]
        if images and len(images) != expected[name]:
            problems.append(f"{path}: {len(images)} images, but {data} {labels} has {expected[name]} {name}")
        for image in images:
            stem = Path(image).stem  # of a path or of an id alone
            if stem in taken:
                where = "twice" if taken[stem] == name else f"and in {paths[taken[stem]]}"
                problems.append(f"{path}: {image} is listed {where}")
            taken[stem] = name
    raise_all(problems, f"{data} {labels} {split}")
    return Lists(**lists)


def _lines(path: Path, problems: list[str]) -> list[str]:
    try:
        lines = [line.strip() for line in read_text(path, encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not readable: {error}")
        return []
    if not lines:
        problems.append(f"{path}: the list is empty, as published: take another split")
    return lines
