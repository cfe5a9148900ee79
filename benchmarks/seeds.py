"""Systems over seeds on the data set of a params.yaml, and which claims of the paper hold: a page of Markdown.

The seed draws split and training. Run in a clone: `python benchmarks/seeds.py WORK --seeds 8`. Every finished seed is a
line of WORK/seeds.jsonl; the same command goes on after a stop.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

from projects import call, project
from typer import Argument, Option, run

from stpp.paper.systems import SYSTEMS
from stpp.report.labels import LABELS
from stpp.report.statistics import paired
from stpp.report.verdict import known_of

CLAIMS = (
    ("ST above SupOnly", "suponly", "st", ("val", "test")),
    ("ST++ above SupOnly", "suponly", "stpp", ("val", "test")),
    ("ST++ above ST", "st", "stpp", ("val", "test")),
    ("ST++ above student 1", "student_1", "stpp", ("val", "test")),
    ("ST above plain self-training", "plain", "st", ("val", "test")),
    ("ST++ above blind two-stage", "blind", "stpp", ("val", "test")),
    ("ST above online labelling", "online", "st", ("val", "test")),
    ("reliable masks above the others", "unreliable", "reliable", ("masks",)),
    ("student 1's masks above the teacher's", "unreliable", "boosted", ("masks",)),
)


def main(
    work: Annotated[Path, Argument(help="Folder for the runs.")],
    seeds: Annotated[int, Option(min=2, help="0 .. SEEDS - 1.")] = 8,
    system: Annotated[list[str] | None, Option(help="Besides ST++ and its teacher.  [default: st]")] = None,
    at_once: Annotated[int, Option(help="So many seeds at a time, of one thread each.")] = 2,
    change: Annotated[list[str] | None, Option("--set", help="KEY=VALUE of params.yaml.")] = None,
) -> None:
    path = work / "seeds.jsonl"
    known = {row["seed"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}

    def measured(seed: int) -> None:
        if seed not in known:
            known[seed] = _seed(work / f"seed-{seed}", seed, system or ["st"], change or [])
            with path.open("a") as file:
                file.write(json.dumps(known[seed]) + "\n")

    work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(measured, range(seeds)))
    print(_page([known[seed] for seed in range(seeds)]))


def _seed(folder: Path, seed: int, systems: list[str], changes: list[str]) -> dict[str, Any]:
    """One seed's numbers in %: {seed, val, test, masks: {model or group: mIoU}, correlation}."""
    if not folder.exists():
        values = dict(change.split("=", 1) for change in changes)
        project(folder, {"split.seed": seed, "train.seed": seed, "select.seed": seed, "runtime.threads": 1, **values})
    call(folder, "dvc", "repro", "-q", "dvc.yaml", *(SYSTEMS[name].target for name in systems))
    row: dict[str, Any] = {"seed": seed, "val": {}, "test": {}, "masks": {}}
    for name in ("stpp", *systems):
        metrics = json.loads((folder / SYSTEMS[name].evaluation / "metrics.json").read_text())
        for on, key in (("val", "val"), ("test", "test"), ("masks", "pseudo")):
            row[on] |= {model: round(100 * scores["miou"], 2) for model, scores in metrics[key].items()}
    row["correlation"] = known_of({}, folder / "runs/score", ()).correlation or 0.0  # of what is constant, none
    shutil.rmtree(folder)
    return row


def _page(rows: list[dict[str, Any]]) -> str:
    seeds = [f"seed {row['seed']}" for row in rows]
    lines = ["| mIoU in % | on | " + " | ".join([*seeds, "mean", "deviation"]) + " |", "|---" * (len(rows) + 4) + "|"]
    for on in ("val", "test", "masks"):
        for name in rows[0][on]:
            values = [row[on][name] for row in rows]
            lines.append(_line(f"{LABELS.get(name, name)} | {on}", values, 1))
    lines.append(_line("rank correlation of stability and quality | masks", [row["correlation"] for row in rows], 2))
    lines += ["", "| claim | on | mean difference | 95 % of it | seeds for it | |", "|---" * 6 + "|"]
    for claim, first, second, sets in CLAIMS:
        for on in sets:
            if first in rows[0][on] and second in rows[0][on]:
                before, after = ([row[on][name] for row in rows] for name in (first, second))
                found = paired(before, after)
                verdict = {1: "holds", 0: "open", -1: "does not hold: the reverse does"}[found.sign]
                ahead = sum(b > a for a, b in zip(before, after, strict=True))
                interval = f"{found.low:+.1f} to {found.high:+.1f}"
                lines.append(
                    f"| {claim} | {on} | {found.mean:+.1f} | {interval} | {ahead} of {len(rows)} | {verdict} |"
                )
    return "\n".join(lines)


def _line(name: str, values: list[float], digits: int) -> str:
    shown = [f"{value:.{digits}f}" for value in [*values, mean(values), stdev(values)]]
    return f"| {name} | {' | '.join(shown)} |"


if __name__ == "__main__":
    run(main)
