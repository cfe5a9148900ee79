"""Stage select: the reliable and the unreliable images (paper, Algorithm 2)."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.files import StppError, read_csv, replacing_folder, write_ids
from stpp.selftrain.selection import rank
from stpp.selftrain.selection import select as select_ids
from stpp.stages import options


def select(
    scores: Annotated[Path, Option(help="Folder that `stpp score` wrote.")],
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Call the top `select.ratio` of the unlabelled images reliable, by falling stability or what `select.by` names."""
    from stpp.params_file import load

    p = load(options.params_files(params)).select
    rows = read_csv(scores / "scores.csv", ("id", "stability", "confidence"))
    known = {key: {row["id"]: float(row[key]) for row in rows} for key in ("stability", "confidence")}
    quality = read_csv(scores / "quality.csv", ("id", "miou"))
    known["quality"] = {row["id"]: float(row["miou"]) for row in quality}
    if p.by == "oracle" and set(known["quality"]) != set(known["stability"]):
        unknown = sorted(set(known["stability"]) - set(known["quality"]))
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
