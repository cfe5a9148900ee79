"""Stage split: which images are labelled, unlabelled, for validation and for the test."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.files import raise_all, read_dataset, replacing_folder, write_csv, write_ids
from stpp.stages import options
from stpp.stages.tracked import split_digest

Lists = Annotated[Path, Option(help="Folder that holds lists given by a person.")]


def split(data: options.Data, lists: Lists, out: options.Out, params: options.Params = None) -> None:
    """Draw or read the split, check it, and write its lists, and a manifest with the hashes of images and masks.

    All problems are reported at once (exit code 2).
    """
    from stpp.data.splits import SETS, check, draw
    from stpp.params_file import load

    p = load(options.params_files(params))
    dataset = read_dataset(data)
    sets, problems = draw(dataset, p.split, lists)
    more, warnings = check(sets, dataset, p.split, p.train.batch_size)
    raise_all([*dict.fromkeys(problems + more)], f"split {p.split.name}")
    for warning in warnings:
        print(f"warning: {warning}")
    rows = [
        (i, name, dataset.records[i].image_sha256, dataset.records[i].mask_sha256 if name != "unlabeled" else "")
        for name, ids in sorted(sets.items())
        for i in ids
    ]
    with replacing_folder(out) as partial:
        for name, ids in sets.items():
            write_ids(partial / f"{name}.txt", ids)
        write_csv(partial / "manifest.csv", ("id", "set", "image_sha256", "mask_sha256"), rows)
    counts = ", ".join(f"{len(sets[n])} {n}" for n in reversed(SETS) if n in sets)
    print(f"split {p.split.name}: {counts}, {split_digest(out)}")
