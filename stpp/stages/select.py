"""Stage select: the reliable and the unreliable images (paper, Algorithm 2)."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.files import StppError, read_csv, replacing_folder, write_ids
from stpp.selftrain.selection import select as select_ids
from stpp.stages import options


def select(
    scores: Annotated[Path, Option(help="scores.csv of `stpp score`.")], out: options.Out, params: options.Params = None
) -> None:
    """Call the top `select.ratio` of the unlabelled images reliable, by falling stability."""
    from stpp.params import load

    ratio = load(options.params_files(params)).select.ratio
    reliable, unreliable = select_ids(
        {row["id"]: float(row["stability"]) for row in read_csv(scores, ("id", "stability"))}, ratio
    )
    if not reliable or not unreliable:
        raise StppError(
            f"select.ratio {ratio} leaves {len(reliable)} reliable and {len(unreliable)} unreliable images: "
            "both are needed; change it, or give more unlabelled images"
        )
    with replacing_folder(out) as partial:
        write_ids(partial / "reliable.txt", reliable)
        write_ids(partial / "unreliable.txt", unreliable)
    print(f"{len(reliable)} reliable, {len(unreliable)} unreliable")
