"""Runs systems over seeds on the data set of params.yaml, and prints in Markdown which claims of the paper hold.

The seed decides the split and the training. Run in a clone: `python benchmarks/seeds.py WORK --seeds 8`. Every finished
seed adds a line to WORK/seeds.jsonl. After a stop, the same command resumes.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from projects import call, project
from typer import Argument, Option, run

from stpp.paper.evidence import by_seed, grids, numbers_of
from stpp.paper.systems import SYSTEMS


def main(
    work: Annotated[Path, Argument(help="Folder for the runs.")],
    seeds: Annotated[int, Option(min=2, help="0 .. SEEDS - 1.")] = 8,
    system: Annotated[
        list[str] | None, Option(help="May be given several times; stpp, st and suponly_long by default.")
    ] = None,
    at_once: Annotated[int, Option(help="So many seeds at a time, of one thread each.")] = 2,
    change: Annotated[list[str] | None, Option("--set", help="KEY=VALUE of params.yaml.")] = None,
) -> None:
    path = work / "seeds.jsonl"
    known = {row["seed"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}

    def measured(seed: int) -> None:
        if seed not in known:
            known[seed] = _seed(work / f"seed-{seed}", seed, system or ["stpp", "st", "suponly_long"], change or [])
            with path.open("a") as file:
                file.write(json.dumps(known[seed]) + "\n")

    work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(measured, range(seeds)))
    runs = [{"seed": seed, "numbers": one} for seed in range(seeds) for one in known[seed]["parts"]]
    print(*(grid.markdown() for grid in grids(by_seed(runs))), sep="\n\n")


def _seed(folder: Path, seed: int, systems: list[str], changes: list[str]) -> dict[str, Any]:
    """Run the systems for a seed. Return the numbers that `stpp paper report` uses."""
    if not folder.exists():
        values = dict(change.split("=", 1) for change in changes)
        project(folder, {"split.seed": seed, "train.seed": seed, "select.seed": seed, "runtime.threads": 1, **values})
    call(folder, "stpp", "system", "use", "--all")
    call(folder, "dvc", "repro", "-q", *(SYSTEMS[name].target for name in systems))
    scores = folder / "runs/score"
    read = [numbers_of(folder / SYSTEMS[name].evaluation, scores if scores.exists() else None) for name in systems]
    shutil.rmtree(folder)
    return {"seed": seed, "parts": [one.model_dump() for one in read]}


if __name__ == "__main__":
    run(main)
