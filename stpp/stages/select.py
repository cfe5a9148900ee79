"""Stage select: the reliable and the unreliable images (paper, Algorithm 2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.params.file import load
from stpp.selftrain.selection import rank
from stpp.selftrain.selection import select as select_ids
from stpp.stages import options
from stpp.store.files import StppError, replacing_folder, write_ids
from stpp.store.manifest import read_table
from stpp.store.packed import Table


def select(
    scores: Annotated[Path, Option(help="Folder that `stpp score` wrote.")],
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Select the reliable part of the unlabelled images: by default the most stable.

    `select.ratio` says how many, `select.by` by what.
    """
    p = load(options.params_files(params)).select
    known = {"stability": _scores(scores / "scores.csv", 1)}
    if p.by == "confidence":
        known["confidence"] = _scores(scores / "scores.csv", 2)
    if p.by == "oracle":
        known["quality"] = read_table(scores / "quality.csv", ("id", "miou"), _number(1))
        if unknown := sorted(known["stability"].keys() - known["quality"].keys()):
            raise StppError(
                f"select.by `oracle` needs the true masks of all unlabelled images, but {len(unknown)} have none "
                f"({unknown[0]}, ...): choose another"
            )
    ratio = p.ratio
    reliable, unreliable = select_ids(rank(p.by, known, p.seed), ratio)
    if not reliable or not unreliable:
        raise StppError(
            f"select.ratio {ratio} leaves {len(reliable)} reliable and {len(unreliable)} unreliable images: "
            "both are needed; change it, or give more unlabelled images"
        )
    with replacing_folder(out) as partial:
        write_ids(partial / "reliable.txt", reliable)
        write_ids(partial / "unreliable.txt", unreliable)
    print(f"{len(reliable)} reliable, {len(unreliable)} unreliable, by {p.by}")


def _scores(path: Path, column: int) -> Table[float]:
    return read_table(path, ("id", "stability", "confidence"), _number(column))


def _number(column: int) -> Callable[[list[str]], float]:
    return lambda row: float(row[column])
