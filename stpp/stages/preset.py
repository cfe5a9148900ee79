"""Commands preset list, show, use and suggest: params files by name, and one that fits the data and the machine."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from stpp.stages import options
from stpp.store.files import StppError, write_text

if TYPE_CHECKING:
    from stpp.paper.setting import Images

FOLDER, PARAMS = Path("pipelines/presets"), Path("params.yaml")
SETS = ("labeled", "unlabeled", "val", "test")
RARE = 3
"""Labelled images that a class needs at least."""
LOOKED_AT = 5000
"""Images whose sizes are looked at, of a million, say."""
Name = Annotated[str, Argument(help="Name of a preset; `stpp preset list` shows them.")]


def list_() -> None:
    """List all presets, and the numbers of the paper that each stands for."""
    from stpp.paper.published import SETTINGS, cells

    for name, setting in SETTINGS.items():
        print(f"{name}\n    {'; '.join(cells(setting))}")
    for path in sorted(FOLDER.glob("*.yaml")):
        about = [line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        print(f"{path.stem}\n    {next((line for line in about if not line.startswith('yaml-')), '')}")


def show(name: Name) -> None:
    """Print a preset."""
    print(_text(name), end="")


def use(
    name: Name,
    out: Annotated[Path, Option(help="File to write.")] = Path("params.yaml"),
    force: Annotated[bool, Option("--force", help="Also where changes of the file are not in git.")] = False,
) -> None:
    """Make a preset the project's params.yaml.

    DVC's cache brings earlier runs of it back.
    """
    text = _text(name)
    if out.exists() and not force and _changed(out):
        raise StppError(f"{out}: holds changes that are not in git: commit them, or use --force")
    write_text(out, text)
    print(f"{out}: {name}; next: the data where data.root says, then `dvc repro`")


def suggest(
    hours: Annotated[float, Option(min=0.01, help="What all of ST++ may take.")] = 2.0,
    write: Annotated[bool, Option("--write", help="Write it into the params file.")] = False,
    force: Annotated[bool, Option("--force", help="Also where changes of the file are not in git.")] = False,
    params: Annotated[Path, Option(help="What says the data and the split; the rest is suggested.")] = PARAMS,
    data: options.Data = Path("runs/data"),
    split: options.Split = Path("runs/split"),
) -> None:
    """Print a params file that fits the data and this machine, with reasons.

    Run it after `dvc repro split`. A few iterations are measured; what each stage will take is told at the end.
    """
    from stpp.paper.setting import fitted
    from stpp.params.file import edited, load

    if write and not force and _changed(params):
        raise StppError(f"{params}: holds changes that are not in git: commit them, or use --force")
    present = load([params])
    for folder in (data, split):
        if not folder.is_dir():
            raise StppError(f"{folder}: not there yet; run `dvc repro split` first")
    images, about = _images(data, split)
    chosen, times = fitted(present, images, hours)
    text = edited(params, {one.key: one.value for one in chosen}, {one.key: one.why for one in chosen})
    if write:
        write_text(params, text)
    else:
        print(text, end="")
    done = f"{params}: written; next: `dvc repro`" if write else "nothing is written; --write does so"
    print(*about, *times, done, sep="\n", file=sys.stderr)


def _images(data: Path, split: Path) -> "tuple[Images, list[str]]":
    """What counts of the images, and what a person should know of them."""
    from statistics import median

    from stpp.paper.setting import Images
    from stpp.store.files import read_ids
    from stpp.store.manifest import read_dataset

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


def _text(name: str) -> str:
    from stpp.paper.published import SETTINGS, cells, params_of
    from stpp.params.file import as_yaml
    from stpp.params.models import Params

    if name in SETTINGS:
        setting = SETTINGS[name]
        head = [f"# {name}: {cell}\n" for cell in cells(setting)]
        return (
            "# yaml-language-server: $schema=params.schema.json\n"
            + "".join(head)
            + as_yaml(Params.model_validate(params_of(setting)))
        )
    path = FOLDER / f"{name}.yaml"
    if "/" in name or not path.is_file():
        raise StppError(f"{name}: no such preset; `stpp preset list` shows those there are")
    return path.read_text(encoding="utf-8").replace("$schema=../../params", "$schema=params")


def _changed(path: Path) -> bool:
    """Whether git does not hold what the file says."""
    words = ["git", "status", "--porcelain", "--ignored", "--", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode != 0 or bool(done.stdout.strip())
