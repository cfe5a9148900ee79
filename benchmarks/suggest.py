"""Compares labels that `stpp suggest` selects with random ones, on the embedded data set.

For every seed (of split and training), it runs ST++ up to its pseudo masks. Then it adds twelve labels, either
suggested or random ones, and trains a teacher on each of the two sets. Run in a clone, with a new folder WORK:
`python benchmarks/suggest.py WORK --seeds 4`.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Annotated, Any

from projects import call, project
from typer import Argument, Option, run

N = 12


def main(
    work: Annotated[Path, Argument(help="New folder for the runs.")],
    seeds: Annotated[int, Option(help="0 .. SEEDS - 1.")] = 4,
    threads: Annotated[int, Option(help="Threads of torch.")] = 1,
) -> None:
    rows = []
    for seed in range(seeds):
        made = work / f"seed-{seed}"
        project(made, {"split.seed": seed, "train.seed": seed, "runtime.threads": threads})
        call(made, "stpp", "system", "use", "suponly")
        call(made, "dvc", "repro", "-q", "label_unreliable", "pipelines/suponly/dvc.yaml:evaluate")
        call(made, "stpp", "suggest", "--n", str(N), "--out", "next")
        unlabeled = (made / "runs/split/unlabeled.txt").read_text().split()
        chosen = {
            "suggested": (made / "next/suggested.txt").read_text().split(),
            "random": random.Random(seed).sample(unlabeled, N),
        }
        row: dict[str, Any] = {"seed": seed, "before": _measured(made)}
        for name, ids in chosen.items():
            arm = work / f"seed-{seed}-{name}"
            shutil.copytree(made, arm, symlinks=True)
            (arm / "new").mkdir()
            for i in ids:
                shutil.copyfile(arm / f"data/toy/masks/{i}.png", arm / f"new/{i}.png")
            call(arm, "stpp", "label", "add", "new", "--name", f"toy-36-{name}")
            call(arm, "dvc", "repro", "-q", "pipelines/suponly/dvc.yaml:evaluate")
            row[name] = _measured(arm)
            shutil.rmtree(arm)
        rows.append(row)
        print(json.dumps(row), flush=True)
        shutil.rmtree(made)
    for name in ("before", "suggested", "random"):
        means = {on: sum(row[name][on] for row in rows) / len(rows) for on in ("val", "test")}
        print(f"{name:10} " + "  ".join(f"{on} {mean:.1f}" for on, mean in means.items()))
    for on in ("val", "test"):
        gains = [row["suggested"][on] - row["random"][on] for row in rows]
        print(f"suggested - random, {on}: {', '.join(f'{gain:+.1f}' for gain in gains)}")


def _measured(folder: Path) -> dict[str, float]:
    """Return the mIoU (%) of the teacher on val and test."""
    metrics = json.loads((folder / "runs/suponly/evaluation/metrics.json").read_text())
    return {on: round(metrics[on]["suponly"]["miou"], 2) for on in ("val", "test")}


run(main)
