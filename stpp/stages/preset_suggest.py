"""The `preset suggest` command: suggests a params file that fits the data and the machine."""

import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Annotated

from typer import Option

from stpp.paper.setting import Images, fitted
from stpp.params.file import edited, load
from stpp.stages import options
from stpp.stages.preset import PARAMS, check_committed
from stpp.store.files import StppError, read_ids, write_text
from stpp.store.manifest import read_dataset

SETS = ("labeled", "unlabeled", "val", "test")
RARE = 3
"""The least number of labelled images that must show a class."""
LOOKED_AT = 5000
"""About how many images the median size is taken from, even if the data set has a million images."""


def suggest(
    hours: Annotated[float, Option(min=0.01, help="Hours that all of ST++ may take.")] = 2.0,
    backbone: Annotated[
        str, Option(help="Backbone, such as resnet50; by default DINOv2-S on a GPU, EfficientNet-Lite0 without.")
    ] = "",
    write: Annotated[bool, Option("--write", help="Write it into the params file.")] = False,
    force: Annotated[bool, Option("--force", help="Overwrite the file even if its changes are not in git.")] = False,
    params: Annotated[Path, Option(help="Params file with the data and the split; the rest is suggested.")] = PARAMS,
    data: options.Data = Path("runs/data"),
    split: options.Split = Path("runs/split"),
) -> None:
    """Print a params file that fits the data and this machine, with reasons.

    Run it after `dvc repro split`. It measures a few training iterations, and
    prints at the end how long each stage will take.
    """
    if write and not force:
        check_committed(params)
    present = load([params])
    for folder in (data, split):
        if not folder.is_dir():
            raise StppError(f"{folder}: no such folder; run `dvc repro split` first")
    images, about = _images(data, split)
    chosen, times = fitted(present, images, hours, backbone)
    text = edited(params, {one.key: one.value for one in chosen}, {one.key: one.why for one in chosen})
    if write:
        write_text(params, text)
    else:
        print(text, end="")
    done = (
        f"{params}: written; next: `dvc repro`"
        if write
        else "nothing was written; use --write to write the params file"
    )
    print(*about, *times, done, sep="\n", file=sys.stderr)


def _images(data: Path, split: Path) -> tuple[Images, list[str]]:
    """Return the sizes and counts of the images, and lines about them for a person."""
    dataset = read_dataset(data)
    sets = {name: read_ids(path) for name in SETS if (path := split / f"{name}.txt").is_file() or name != "test"}
    ids = sets["labeled"] + sets["unlabeled"]
    some = ids[:: max(1, len(ids) // LOOKED_AT)]
    sizes = [(one.width, one.height) for one in (dataset.records[i] for i in some)]
    images = Images(
        long=round(median(map(max, sizes))),
        short=round(median(map(min, sizes))),
        **{name: len(sets.get(name, ())) for name in SETS},
    )
    shown = Counter(c for i in sets["labeled"] for c in dataset.records[i].classes)
    counts = ", ".join(f"{name} {shown[c]}" for c, name in enumerate(dataset.classes))
    about = [
        f"{images.labeled} labelled images of {images.long} x {images.short} (median), {images.unlabeled} unlabelled, "
        f"{images.val} for val; labelled images that show a class: {counts}"
    ]
    if rare := [name for c, name in enumerate(dataset.classes) if shown[c] < RARE]:
        about.append(
            f"too few to learn from: {', '.join(rare)}; label more images that show them (`stpp suggest`), or draw the "
            "labelled ones with `split.stratify: true`"
        )
    return images, about
