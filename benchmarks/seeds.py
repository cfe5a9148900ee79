"""Runs systems over seeds on the data set of params.yaml, and prints in Markdown which claims of the paper hold.

Beside ST++, labelled images alone train for as many iterations as its last student. The seed decides the split and the
training. Run in a clone: `python benchmarks/seeds.py WORK --seeds 8`. Every finished
seed adds a line to WORK/seeds.jsonl. After a stop, the same command resumes.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from projects import call, project
from typer import Argument, Option, run

from stpp.paper.evidence import LONG, by_seed, grids, numbers_of
from stpp.paper.results import Numbers
from stpp.paper.systems import SYSTEMS
from stpp.store.files import read_csv


def main(
    work: Annotated[Path, Argument(help="Folder for the runs.")],
    seeds: Annotated[int, Option(min=2, help="0 .. SEEDS - 1.")] = 8,
    system: Annotated[list[str] | None, Option(help="May be given several times.  [default: stpp, st]")] = None,
    at_once: Annotated[int, Option(help="So many seeds at a time, of one thread each.")] = 2,
    change: Annotated[list[str] | None, Option("--set", help="KEY=VALUE of params.yaml.")] = None,
) -> None:
    path = work / "seeds.jsonl"
    known = {row["seed"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}

    def measured(seed: int) -> None:
        if seed not in known:
            known[seed] = _seed(work / f"seed-{seed}", seed, system or ["stpp", "st"], change or [])
            with path.open("a") as file:
                file.write(json.dumps(known[seed]) + "\n")

    work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(measured, range(seeds)))
    runs = [{"seed": seed, "numbers": one} for seed in range(seeds) for one in known[seed]["parts"]]
    print(*(grid.markdown() for grid in grids(by_seed(runs))), sep="\n\n")


def _seed(folder: Path, seed: int, systems: list[str], changes: list[str]) -> dict[str, Any]:
    """Run the systems for a seed. Return the numbers that `stpp paper report` uses."""
    values: dict[str, Any] = {"split.seed": seed, "train.seed": seed, "select.seed": seed, "runtime.threads": 1}
    values |= dict(change.split("=", 1) for change in changes)
    parts = _numbers(folder, systems, values)
    if "stpp" in systems:
        *_, last = read_csv(folder / "runs/student/curve.csv", ("iteration",))
        long = folder.with_name(f"{folder.name}-long")
        length = {"train.epochs": None, "train.iterations": int(float(last["iteration"]))}
        (alone,) = _numbers(long, ["suponly"], values | length)
        parts.append(Numbers(miou={on: {LONG: one["suponly"]} for on, one in alone.miou.items() if one}))
        shutil.rmtree(long)
    shutil.rmtree(folder)
    return {"seed": seed, "parts": [one.model_dump() for one in parts]}


def _numbers(folder: Path, systems: list[str], values: dict[str, Any]) -> list[Numbers]:
    """Run systems in a project with these parameters, which is made if it is not there. Return the numbers of each."""
    if not folder.exists():
        project(folder, values)
    call(folder, "stpp", "system", "use", "--all")
    call(folder, "dvc", "repro", "-q", *(SYSTEMS[name].target for name in systems))
    scores = folder / "runs/score"
    return [numbers_of(folder / SYSTEMS[name].evaluation, scores if scores.exists() else None) for name in systems]


if __name__ == "__main__":
    run(main)
