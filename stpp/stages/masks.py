"""The commands `masks extract`, `masks ls` and `masks objects`: show masks and their origin to a person."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from stpp.ingest.drawing import objects_of
from stpp.params.file import load
from stpp.stages import options
from stpp.store.files import StppError, atomic_write, printable, raise_problems, scan_csv, sha256
from stpp.store.manifest import read_dataset
from stpp.store.masks import IGNORE, MaskSet, encode_mask

Folder = Annotated[Path, Argument(help="Folder of a mask set.")]


def ls(folder: Folder) -> None:
    """List the masks of a set: id, shard, mean confidence."""
    for row in MaskSet(folder).rows.values():
        print(f"{row['id']}\t{row['shard']}\t{row['confidence']}")


def objects(
    id: Annotated[str, Argument(help="Id of an image.")],
    x: Annotated[int | None, Argument(help="Column of a pixel, from 0; with Y: only objects that cover it.")] = None,
    y: Annotated[int | None, Argument(help="Row of a pixel, from 0.")] = None,
    data: options.Data = Path("runs/data"),
    params: options.Params = None,
) -> None:
    """List the objects of an annotation file that a mask was drawn from.

    The object on top comes first: its class is the one that the mask shows.
    """
    described, dataset = load(options.params_files(params)).data, read_dataset(data)
    if id not in dataset.records or dataset.drawn is None or described.annotations is None:
        others = (
            f"; {data}/objects.csv names the files of each mask" if dataset.drawn and not described.annotations else ""
        )
        raise StppError(f"{id}: no image of {data} whose mask was drawn from an annotation file{others}")
    file, found = objects_of(described, dataset, id, None if x is None or y is None else (x, y))
    path = Path(described.root) / file
    if (file, sha256(path)) not in scan_csv(data / "annotations.csv", ("file", "sha256")):
        raise StppError(f"{path}: was changed since `prepare` read it; run `dvc repro prepare`")
    for one in found:
        print(printable(f"{path}: object {one.key}, {one.label}"))
    if not found:
        print(f"{path}: no object there")
    if x is not None and y is not None and described.outside and MaskSet(dataset.drawn).read(id)[y, x] == IGNORE:
        print(f"the mask ignores this pixel, which {described.outside} may leave outside")


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
