"""The `label add` command: adds a person's new masks, and writes a split in which their images are labelled."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from stpp.ingest.additions import Addition, read_additions
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
from stpp.store.manifest import read_dataset, split_digest

As = Annotated[
    Literal["classes", "values"] | None,
    Option("--as", help="Pixels are class ids (as in corrected predictions), or mask values of the data set."),
]
SETS = ("labeled", "unlabeled", "val", "test")
PARENT = "parent.json"


def add(
    masks: Annotated[Path, Argument(help="Folder of PNGs, each named by its image's id.")],
    name: Annotated[str, Option(help="Name of the new split.")],
    data: options.Data = Path("runs/data"),
    split: options.Split = Path("runs/split"),
    lists: Annotated[Path, Option(help="Folder for the lists of the new split.")] = Path("splits"),
    params: Annotated[Path, Option(help="Params file in which the new split is set.")] = Path("params.yaml"),
    as_: As = None,
) -> None:
    """Add new masks, and write a split in which their images are labelled.

    The new split is a copy of the current one, its parent. Only these images
    move: from unlabelled to labelled. parent.json, beside the new lists, names
    the parent and the added masks. The params file then names the new split,
    so the next `dvc repro` uses it.

    All problems are reported at once; if there is one, nothing is written.
    After an interruption, run the same command again to go on.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise StppError(
            f"{name}: not a valid split name; use at most 100 letters, digits and . _ -, not beginning with a dot"
        )
    if not masks.is_dir():
        raise StppError(f"{masks}: no such folder; name the one with the new masks")
    p = load([params])
    folder = lists / name
    taken = StppError(f"{name}: another split already has this name; choose another --name")
    if name in (p.split.name, "pinned") or (lists / "pinned" / f"{name}.csv").exists():
        raise taken
    sets = {one: read_ids(split / f"{one}.txt") for one in SETS if one != "test" or (split / "test.txt").is_file()}
    added, problems = read_additions(masks, p.data, read_dataset(data), set(sets["unlabeled"]), as_)
    new = {one.id for one in added}
    if len(sets["unlabeled"]) - len(new) < 2:
        problems.append(f"{masks}: fewer than two images would stay unlabelled; ST++ needs at least two")
    raise_problems(problems, "label add")

    parent = {
        "parent": p.split.name,
        "parent_digest": split_digest(split),
        "added": {one.id: hashlib.sha256(one.data).hexdigest() for one in added},
    }
    sets["labeled"] = sorted({*sets["labeled"], *new})
    sets["unlabeled"] = [i for i in sets["unlabeled"] if i not in new]
    if folder.exists() and not ((folder / PARENT).is_file() and read_json(folder / PARENT) == parent):
        raise taken
    text = edited(params, {"split.name": name} | {f"split.{which}": {"list": f"{name}/{which}.txt"} for which in sets})
    _write(added, folder, sets, parent)
    write_text(params, text)
    if converted := sum(one.reading == "classes" for one in added):
        print(
            f"{converted} of {len(added)} masks hold class ids; they were converted to the mask values of the data set"
        )
    print(
        f"split {name}: {len(new)} more labelled images than {p.split.name}, {len(sets['labeled'])} in all; "
        f"set in {params}, so the next `dvc repro` uses it\n"
        f"next: `git add {folder} {params}`; if DVC tracks {p.data.root}, also `dvc add {p.data.root}`"
    )


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
