"""The commands `masks extract` and `masks ls`: show the masks of a mask set to a person."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from stpp.stages import options
from stpp.store.files import atomic_write, raise_problems
from stpp.store.manifest import read_dataset
from stpp.store.masks import MaskSet, encode_mask

Folder = Annotated[Path, Argument(help="Folder of a mask set.")]


def ls(folder: Folder) -> None:
    """List the masks of a set: id, shard, mean confidence."""
    for row in MaskSet(folder).rows.values():
        print(f"{row['id']}\t{row['shard']}\t{row['confidence']}")


def extract(
    folder: Folder,
    out: Annotated[Path, Option(help="Folder for the PNGs; nothing there is overwritten.")],
    data: options.Data = Path("runs/data"),
    id: Annotated[list[str] | None, Option(help="Only this id; may be given several times.")] = None,
) -> None:
    """Write masks as palette PNGs, each under its id.

    Every mask is checked against the manifest. If one of the PNGs exists
    already, none is written.
    """
    masks = MaskSet(folder)
    palette = read_dataset(data).palette
    names = list(dict.fromkeys(id or masks.ids))
    remedy = f"no such mask in {folder}; `stpp masks ls {folder}` lists them"
    problems = [f"{name}: {remedy}" for name in names if name not in masks.rows]
    paths = {name: out / f"{name}.png" for name in names}
    problems += [f"{path}: already exists; give another --out" for path in paths.values() if path.exists()]
    raise_problems(problems, "masks extract")
    for name, path in paths.items():
        with atomic_write(path) as partial:
            partial.write_bytes(encode_mask(masks.read(name), palette))
    print(f"{len(names)} masks in {out}")
