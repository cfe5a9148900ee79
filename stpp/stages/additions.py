"""The `label add` command: adds a person's new masks, and writes a split in which their images are labelled."""

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from stpp.deploy.returned import Changes, masks_of_export
from stpp.ingest.additions import PARENT, READINGS, Addition, corrections, read_additions, with_added
from stpp.ingest.formats import FORMATS
from stpp.params.data import Data as DataParams
from stpp.params.file import edited, load
from stpp.stages import options
from stpp.store.files import (
    StppError,
    atomic_folder,
    atomic_write,
    raise_problems,
    read_ids,
    read_json,
    write_ids,
    write_json,
    write_text,
)
from stpp.store.manifest import Dataset, read_dataset, split_digest
from stpp.store.masks import read_png

As = StrEnum("As", [*READINGS, *FORMATS])  # type: ignore[misc]
"""How to read new masks: pixels as class ids or as mask values of the data set, or the export of an annotation tool."""
SETS = ("labeled", "unlabeled", "val", "test")


def add(
    masks: Annotated[Path, Argument(help="Folder of PNGs named by their images' ids; with --task: a tool's export.")],
    name: Annotated[str, Option(help="Name of the new split.")],
    data: options.Data = Path("runs/data"),
    split: options.Split = Path("runs/split"),
    lists: Annotated[Path, Option(help="Folder for the lists of the new split.")] = Path("splits"),
    params: Annotated[Path, Option(help="Params file in which the new split is set.")] = Path("params.yaml"),
    as_: Annotated[As | None, Option("--as", help="What pixels are; with --task: the format of the export.")] = None,
    task: Annotated[Path | None, Option(help="Folder of the task that was exported, by `stpp suggest --as`.")] = None,
) -> None:
    """Add new masks, and write a split in which their images are labelled.

    The new split is a copy of the current one, its parent. Only these images
    move: from unlabelled to labelled. parent.json, beside the new lists, names
    the parent and the added masks. The params file then names the new split,
    so the next `dvc repro` uses it. Beside annotation files, the masks are PNGs
    that data.annotations.added names.

    With --task, the masks are the export of the annotation tool: they are
    compared with what was proposed.

    All problems are reported at once; if there is one, nothing is written.
    After an interruption, run the same command again to go on.
    """
    _check(masks, name, as_, task)
    p = load([params])
    described = with_added(p.data)
    folder = lists / name
    taken = StppError(f"{name}: another split already has this name; choose another --name")
    if name in (p.split.name, "pinned") or (lists / "pinned" / f"{name}.csv").exists():
        raise taken
    sets = {one: read_ids(split / f"{one}.txt") for one in SETS if one != "test" or (split / "test.txt").is_file()}
    added, problems, said, changed = _read(masks, task, as_, described, read_dataset(data), set(sets["unlabeled"]))
    new = {one.id for one in added}
    if len(sets["unlabeled"]) - len(new) < 2:
        problems.append(f"{masks}: fewer than two images would stay unlabelled; ST++ needs at least two")
    raise_problems(problems, "label add")

    parent = {
        "parent": p.split.name,
        "parent_digest": split_digest(split),
        "added": {one.id: hashlib.sha256(one.data).hexdigest() for one in added},
    } | changed
    sets["labeled"] = sorted({*sets["labeled"], *new})
    sets["unlabeled"] = [i for i in sets["unlabeled"] if i not in new]
    if folder.exists() and not ((folder / PARENT).is_file() and read_json(folder / PARENT) == parent):
        raise taken
    values: dict[str, Any] = {f"split.{which}": {"list": f"{name}/{which}.txt"} for which in sets}
    if described.annotations:
        values["data.annotations.added"] = described.annotations.added
    text = edited(params, {"split.name": name} | values)
    _write(added, folder, sets, parent)
    write_text(params, text)
    for line in said:
        print(line)
    if not task and (converted := sum(one.reading == "classes" for one in added)):
        print(
            f"{converted} of {len(added)} masks hold class ids; they were converted to the mask values of the data set"
        )
    print(
        f"split {name}: {len(new)} more labelled images than {p.split.name}, {len(sets['labeled'])} in all; "
        f"set in {params}, so the next `dvc repro` uses it\n"
        f"next: `git add {folder} {params}`; if DVC tracks {p.data.root}, also `dvc add {p.data.root}`"
    )


def _check(masks: Path, name: str, as_: str | None, task: Path | None) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise StppError(
            f"{name}: not a valid split name; use at most 100 letters, digits and . _ -, not beginning with a dot"
        )
    if not masks.is_dir() and not (task and masks.is_file()):
        what = "file or folder; name the tool's export" if task else "folder; name the one with the new masks"
        raise StppError(f"{masks}: no such {what}")
    if as_ and (as_ in FORMATS) != bool(task):
        what = "is no format of an export" if task else "is the format of an export: give its task with --task"
        raise StppError(f"--as {as_}: {what}")


def _read(
    masks: Path, task: Path | None, as_: str | None, data: DataParams, dataset: Dataset, unlabeled: set[str]
) -> tuple[list[Addition], list[str], list[str], dict[str, Any]]:
    """Return the new masks and all problems; for an export, what to say, and what its authors changed."""
    if not task:
        return *read_additions(masks, data, dataset, unlabeled, as_), [], {}  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as place:
        by, said = masks_of_export(masks, task, as_, dataset, Path(place))
        added, problems = read_additions(Path(place), data, dataset, unlabeled, "classes")
        found = Changes(task, dataset.classes)
        for one in added:
            found.add(one.id, read_png(one.file))
        by = {i: name for i, name in by.items() if i in found.equal}
        about = {"as_proposed": found.equal, "iou": found.iou(), "iou_by_image": found.iou_of, "annotated_by": by}
        said += corrections(about)
        return added, [one.replace(place, str(masks)) for one in problems], said, about


def _write(added: Sequence[Addition], folder: Path, sets: dict[str, list[str]], parent: Mapping[str, object]) -> None:
    """Write the added masks into the data set, and the lists of the new split with its parent into `folder`."""
    for one in added:
        if not one.target.exists():
            with atomic_write(one.target) as partial:
                partial.write_bytes(one.data)
    with atomic_folder(folder) as partial:
        for which, ids in sets.items():
            write_ids(partial / f"{which}.txt", ids)
        write_json(partial / PARENT, parent)
