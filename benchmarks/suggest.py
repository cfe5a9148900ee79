"""Whether labels that `stpp suggest` asks for are worth more than random ones, on the embedded data set.

For every seed (of split and training): ST++ up to its pseudo masks; then twelve more labels, suggested or random, and a
teacher on each of the two. `python benchmarks/suggest.py WORK --seeds 4` in a clone; WORK is a new folder.
"""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from ruamel.yaml import YAML
from typer import Argument, Option, run

N = 12
BIN = Path(sys.executable).parent
CODE = ("dvc.yaml", "params.yaml", "pipelines", "stpp", "splits", "weights", ".dvc/config", ".dvcignore", ".gitignore")


def main(
    work: Annotated[Path, Argument(help="New folder for the runs.")],
    seeds: Annotated[int, Option(help="0 .. SEEDS - 1.")] = 4,
    threads: Annotated[int, Option(help="Threads of torch.")] = 1,
) -> None:
    rows = []
    for seed in range(seeds):
        project = work / f"seed-{seed}"
        _project(project, seed, threads)
        _call(project, "dvc", "repro", "-q", "label_unreliable", "pipelines/suponly/dvc.yaml:evaluate")
        _call(project, "stpp", "suggest", "--n", str(N), "--out", "next")
        unlabeled = (project / "runs/split/unlabeled.txt").read_text().split()
        chosen = {
            "suggested": (project / "next/suggested.txt").read_text().split(),
            "random": random.Random(seed).sample(unlabeled, N),
        }
        row = {"seed": seed, "before": _measured(project)}
        for name, ids in chosen.items():
            arm = work / f"seed-{seed}-{name}"
            shutil.copytree(project, arm, symlinks=True)
            (arm / "new").mkdir()
            for i in ids:
                shutil.copyfile(arm / f"data/toy/masks/{i}.png", arm / f"new/{i}.png")
            _call(arm, "stpp", "label", "add", "new", "--name", f"toy-36-{name}")
            _call(arm, "dvc", "repro", "-q", "pipelines/suponly/dvc.yaml:evaluate")
            row[name] = _measured(arm)
            shutil.rmtree(arm)
        rows.append(row)
        print(json.dumps(row), flush=True)
        shutil.rmtree(project)
    for name in ("before", "suggested", "random"):
        means = {on: sum(row[name][on] for row in rows) / len(rows) for on in ("val", "test")}
        print(f"{name:10} " + "  ".join(f"{on} {mean:.1f}" for on, mean in means.items()))
    for on in ("val", "test"):
        gains = [row["suggested"][on] - row["random"][on] for row in rows]
        print(f"suggested - random, {on}: {', '.join(f'{gain:+.1f}' for gain in gains)}")


def _project(folder: Path, seed: int, threads: int) -> None:
    for name in CODE:
        source, target = Path(name), folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
        else:
            shutil.copyfile(source, target)
    yaml = YAML()
    params = yaml.load((folder / "params.yaml").read_text())
    params["split"]["seed"] = params["train"]["seed"] = seed
    params["runtime"]["threads"] = threads
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    _call(folder, "git", "init", "-q")


def _call(folder: Path, *words: str) -> None:
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "STPP_TRACKING": "off", "OMP_NUM_THREADS": "1", "HOME": str(Path.home())}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")


def _measured(folder: Path) -> dict[str, float]:
    """mIoU (%) of the teacher on val and test."""
    metrics = json.loads((folder / "runs/suponly/evaluation/metrics.json").read_text())
    return {on: round(100 * metrics[on]["suponly"]["miou"], 2) for on in ("val", "test")}


run(main)
