"""Reading and checking the split lists that the paper's authors publish."""

from dataclasses import dataclass
from pathlib import Path

from stpp.store.files import StppError, raise_problems, read_text

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
"""The number of labelled images, by data set and setting (paper, 4.1)."""
TRAIN = {"pascal": 10_582, "cityscapes": 2_975}
"""The number of training images, labelled plus unlabelled, by data set."""
VAL = {"pascal": 1_449, "cityscapes": 500}
"""The number of validation images, by data set."""
FOLDERS = {"1464": "1.4k"}
"""Setting -> the authors' name of its folder, where the two differ. Such a setting has one split only."""
SPLITS = ("split_0", "split_1", "split_2")


def lists_folder(data: str, labels: str, split: str = SPLITS[0]) -> str:
    """Return the folder below splits/ for a setting's lists; the whole original set (1464) has one split only."""
    return f"{data}/{labels}" if labels in FOLDERS else f"{data}/{labels}/{split}"


@dataclass(frozen=True)
class PublishedLists:
    """The lines of the three published lists; a line names an image and its mask."""

    labeled: list[str]
    unlabeled: list[str]
    val: list[str]


def read_lists(folder: Path, data: str, labels: str, split: str) -> PublishedLists:
    """Read and check the published lists of a setting; `folder` holds `pascal/1_8/split_0/labeled.txt` and so on.

    Raises StppError for an unknown setting or split. Raises one StppError with all problems of the lists: files that
    are missing, unreadable or empty (some of the published ones are empty), lines with more than an image and a mask,
    counts that differ from the setting's, images listed twice, and images shared by two lists.
    """
    if labels not in LABELED.get(data, {}):
        known = ", ".join(f"{d} {n}" for d, names in LABELED.items() for n in names)
        raise StppError(f"{data} {labels}: not a published setting; known: {known}")
    splits = SPLITS[:1] if labels in FOLDERS else SPLITS
    if split not in splits:
        raise StppError(f"{split}: not a published split of {data} {labels}; known: {', '.join(splits)}")
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
            problems.append(f"{path}: {len(images)} images, but {data} {labels} has {expected[name]} {name} images")
        for image in images:
            stem = Path(image).stem  # the same for a path and for a bare id
            if stem in taken:
                where = "twice" if taken[stem] == name else f"also in {paths[taken[stem]]}"
                problems.append(f"{path}: {image} is listed {where}")
            taken[stem] = name
    raise_problems(problems, f"{data} {labels} {split}")
    return PublishedLists(**lists)


def _lines(path: Path, problems: list[str]) -> list[str]:
    try:
        lines = [line.strip() for line in read_text(path, encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not readable: {error}")
        return []
    if not lines:
        problems.append(f"{path}: the published list is empty; use another split")
    return lines
