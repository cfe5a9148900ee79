"""The `init` command: finds out how folders of images and masks are named, and describes them in params.yaml."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from typer import Argument, Option

from stpp.ingest.catalog import ImagePair, list_images
from stpp.ingest.discovery import UnsureError, discover
from stpp.ingest.first_split import FirstSplit, first_split
from stpp.ingest.folders import common_root, problems_of
from stpp.ingest.known_layouts import layout
from stpp.ingest.mask_values import meaning, ranges, read_names, read_values
from stpp.ingest.proposing import proposed_reading
from stpp.ingest.splits import SETS
from stpp.params.data import Data
from stpp.params.file import edited, load, read_yaml
from stpp.stages.preset import FOLDER, PARAMS, check_committed
from stpp.store.files import StppError, atomic_write, printable, raise_problems, read_text
from stpp.store.manifest import Dataset, Record
from stpp.store.masks import IGNORE

T = TypeVar("T")
EMBEDDED = "# ST++ on the embedded data set"
"""The comment at the top of the params.yaml that comes with the project starts so."""


def init(
    photos: Annotated[Path, Argument(help="Folder of images.")],
    masks: Annotated[Path, Argument(help="Folder of masks; the same folder if they lie beside the images.")],
    unlabeled: Annotated[Path | None, Option(help="Another folder of images, without masks.")] = None,
    name: Annotated[str | None, Option(help="Name of the data set.", show_default="the folder's name")] = None,
    classes: Annotated[
        str | None, Option(help="Class names, separated by commas, in the order of their values.")
    ] = None,
    ignore: Annotated[str | None, Option(help="Mask values without a class, such as 11 or 0,255; or none.")] = None,
    pattern: Annotated[str | None, Option(help="Pattern of the masks, if several fit.")] = None,
    check: Annotated[bool, Option("--check", help="Print what was found, and write nothing.")] = False,
    force: Annotated[bool, Option("--force", help="Overwrite the file even if its changes are not in git.")] = False,
    params: Annotated[Path, Option(help="Params file to edit.")] = PARAMS,
) -> None:
    """Describe your images and masks in params.yaml: names, classes, split.

    It prints what it found, what it guessed and what it left out. It asks
    where several answers are possible; without a terminal, it stops and names
    the option with the answer.
    """
    if not (force or check):
        check_committed(params)
    batch_size = load([params]).train.batch_size
    folders = common_root(photos, masks, unlabeled)
    answers = {"pattern": pattern, "classes": classes, "ignore": ignore}
    found = _asked(lambda: discover(folders, answers["pattern"]), answers)
    data: dict[str, Any] = {
        "name": name or re.sub(r"[^A-Za-z0-9._-]+", "-", folders.root.resolve().name).strip("-.")[:80] or "mine",
        "kind": "folder",
        "root": str(folders.root),
        "images": found.images,
        "masks": found.masks,
    }
    described = _data(data | {"classes": ["any"]})
    pairs, problems, notes = list_images(described, layout(described))
    raise_problems([*problems, *problems_of(folders, pairs)], str(folders.root))
    with_masks = [one.mask for one in pairs.values() if one.mask]
    without = next((f", such as {name}" for name, one in pairs.items() if not one.mask), "")
    root, count = printable(str(folders.root)), f"{len(with_masks)} with a mask"
    print(f"{root}: {len(pairs)} images ({found.images}), {count} ({found.masks})")
    print(f"{len(pairs) - len(with_masks)} images without a mask{without}")
    print(*notes, sep="\n", end="\n" if notes else "")

    values, lossy = read_values(folders.root, with_masks)
    seen, all_read = {value for some in values.values() for value in some}, len(values) == len(with_masks)
    near = " and, by lossy compression, values near them" if lossy else ""
    print(f"{len(values)} of {len(with_masks)} masks were read; they hold the values {ranges(seen)}{near}")
    names = read_names(folders.beside())
    means = _asked(lambda: meaning(seen, all_read, names, answers["classes"], answers["ignore"], lossy), answers)
    data |= {
        "list": None,
        "exclude": None,
        "classes": means.classes,
        "palette": None,
        "values": means.values,
        "ignore": means.ignore,
    }
    reading, reasons = proposed_reading([folders.root / one.image for one in pairs.values()])
    data |= {"bands": None, "range": None, "nodata": None} | reading
    drawn = first_split(_dataset(_data(data), pairs, values), batch_size, all_read)
    data = {
        key: value for key, value in data.items() if value is not None or key in (*read_yaml(params)["data"], "ignore")
    }
    chosen, why = _chosen(data, means.why | reasons, drawn, batch_size)
    for key, value in chosen.items():
        print(printable(f"{key}: {json.dumps(value, ensure_ascii=False)}{f'  # {why[key]}' if why.get(key) else ''}"))
    counts = ", ".join(f"{drawn.counts[which]} {which}" for which in reversed(SETS) if which in drawn.counts)
    print(f"split {drawn.values['name']}: {counts}")
    _write(params, chosen, why, check)


def _data(values: Mapping[str, Any]) -> Data:
    """Return the section `data`. Raises StppError naming a value that params.yaml does not allow."""
    try:
        return Data.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise StppError(f"data.{'.'.join(map(str, first['loc']))}: {first['msg']} (found {first['input']!r})") from None


def _dataset(data: Data, pairs: Mapping[str, ImagePair], values: Mapping[str, list[int]]) -> Dataset:
    """Return the data set as far as it is known before `prepare`: without sizes and hashes.

    values: by mask, the values that it holds; the classes of other masks are unknown.
    """
    known = layout(data)
    records = {}
    for name, one in pairs.items():
        classes = {known.values.get(value, IGNORE) for value in values.get(one.mask, ())} - {IGNORE}
        records[name] = Record(name, one.image, one.mask, 0, 0, name, "", tuple(sorted(classes)))
    return Dataset(data.name, known.classes, known.palette, known.values, records)


def _chosen(
    data: Mapping[str, Any], reasons: Mapping[str, str], drawn: FirstSplit, batch_size: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values to write, and a reason for each or "", both by dotted name."""
    chosen = {f"data.{key}": value for key, value in data.items()}
    chosen |= {f"split.{key}": value for key, value in drawn.values.items()}
    if drawn.batch_size != batch_size:
        chosen["train.batch_size"] = drawn.batch_size
    why = dict.fromkeys(chosen, "") | {f"data.{key}": reason for key, reason in reasons.items()}
    why |= {f"split.{key}": reason for key, reason in drawn.why.items()}
    why["train.batch_size"] = f"{drawn.counts['labeled']} labelled images fill no larger batch"
    return chosen, {key: reason for key, reason in why.items() if key in chosen}


def _write(params: Path, chosen: Mapping[str, Any], why: Mapping[str, str], check: bool) -> None:
    """Write the values into the params file, unless `check`, and print what to do next."""
    text, root = edited(params, chosen, why), Path(chosen["data.root"])
    text = _headed(text, chosen["data.name"])
    if check:
        print("nothing was written; leave out --check to write it")
        return
    with atomic_write(params) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
        load([partial])
    if root.resolve().is_relative_to(Path.cwd()):
        print(f"next: `dvc add {root}` stores the images")
    else:
        print(f"{root} is outside the project: DVC notices changes, but stores no copy; for one, move it below data/")
    print(f"{params}: written; next: `dvc repro split` checks all files, `git commit -am {chosen['data.name']}`")
    print("then: `stpp preset suggest --write` fits the training to images and machine, `make repro` runs it")


def _headed(text: str, name: str) -> str:
    """Return the text of a params file with a comment about this data set at its top, in place of a preset's comment.

    A person's own comment stays.
    """
    top, rest = _comment(text)
    if not top[:1] or not (
        top[0].startswith(EMBEDDED) or top in [_comment(read_text(p))[0] for p in FOLDER.glob("*.yaml")]
    ):
        return text
    new = (
        f"# ST++ on {name}. `stpp init` wrote the sections data and split. The other values fit other images: see\n"
        "# `stpp preset suggest --write`.\n"
    )
    return text[: -len("".join(top) + rest)] + new + rest


def _comment(text: str) -> tuple[list[str], str]:
    """Return the lines of the comment at the top of a params file, without that for editors, and the text after it."""
    lines = text.splitlines(keepends=True)
    start = 1 if lines and "yaml-language-server" in lines[0] else 0
    top = list(takewhile(lambda line: line.startswith("#"), lines[start:]))
    return top, "".join(lines[start + len(top) :])


def _asked(step: Callable[[], T], answers: dict[str, str | None]) -> T:
    """Return the result of a step. Where it is unsure, ask on the terminal, add the answer to `answers`, and repeat.

    Without a terminal, UnsureError passes through.
    """
    while True:
        try:
            return step()
        except UnsureError as unsure:
            if not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise
            answers[unsure.option] = typer.prompt(printable(unsure.question))
