"""Evidence over seeds: the numbers of every seed, which claims of the paper hold, and IoU by class."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from stpp.paper.results import Numbers, Result
from stpp.report.grid import Grid
from stpp.report.labels import LABELS
from stpp.report.statistics import paired_t
from stpp.report.verdict import read_facts
from stpp.store.files import read_csv
from stpp.store.records import MetricsJson, read

SETS = ("val", "test", "masks")
BOTH = ("val", "test")
CLAIMS = (
    ("ST above SupOnly", "suponly", "st", BOTH),
    ("ST++ above SupOnly", "suponly", "stpp", BOTH),
    ("ST above SupOnly at equal iterations", "suponly_long", "st", BOTH),
    ("ST++ above SupOnly at equal iterations", "suponly_long", "stpp", BOTH),
    ("ST++ above ST", "st", "stpp", BOTH),
    ("ST++ above student 1", "student_1", "stpp", BOTH),
    ("ST above plain self-training", "plain", "st", BOTH),
    ("ST++ above blind two-stage", "blind", "stpp", BOTH),
    ("ST above online labelling", "online", "st", BOTH),
    ("reliable masks above the others", "unreliable", "reliable", ("masks",)),
    ("student 1's masks above the teacher's", "unreliable", "boosted", ("masks",)),
)
"""Claims of the paper (Tables 1, 4 and 5, Figure 3): a text, two models or mask sets, and the sets they are tested on.

Each claims that the second model or mask set has the higher mIoU.
"""


def numbers_of(evaluation: Path, scores: Path | None) -> Numbers:
    """Read the numbers of a run.

    evaluation: folder that `stpp evaluate` wrote. scores: folder that `stpp score` wrote, if there is one.
    """
    metrics = read(evaluation / "metrics.json", MetricsJson)
    parts = {"val": "val", "test": "test", "masks": "pseudo"}
    miou = {on: {name: one["miou"] for name, one in metrics.get(part, {}).items()} for on, part in parts.items()}
    classes: dict[str, dict[str, dict[str, float]]] = {}
    for row in read_csv(evaluation / "per_class.csv", ("set", "model", "class", "iou")):
        if not math.isnan(iou := float(row["iou"])):
            classes.setdefault(row["set"], {}).setdefault(row["model"], {})[row["class"]] = iou
    return Numbers(miou=miou, correlation=read_facts({}, scores, ()).correlation, classes=classes)


def by_seed(results: Iterable[Result]) -> dict[int, Numbers]:
    """Return the numbers of a setting's finished cells by seed.

    If two cells of a seed hold the same number, the first cell counts. Cells from before results had `numbers` give
    the numbers of their `metrics`.
    """
    found: dict[int, Numbers] = {}
    for result in results:
        bare = {
            on: {name: one["miou"] for name, one in models.items()} for on, models in result.get("metrics", {}).items()
        }
        more = Numbers.model_validate(result.get("numbers") or {"miou": bare})
        known = found.get(result["seed"], Numbers())
        found[result["seed"]] = Numbers(
            miou={on: more.miou.get(on, {}) | known.miou.get(on, {}) for on in SETS},
            correlation=more.correlation if known.correlation is None else known.correlation,
            classes={on: more.classes.get(on, {}) | known.classes.get(on, {}) for on in BOTH},
        )
    return dict(sorted(found.items()))


def grids(seeds: Mapping[int, Numbers], systems: Sequence[str] = ()) -> list[Grid]:
    """Return tables of every seed with mean and deviation, of the claims, and of IoU by class. Empty ones are left out.

    systems: the systems of a table. Besides the paper's claims, each is compared with the first system and with the
    system before it.
    """
    found = [_every(seeds), _claims(seeds, systems), *(_classes(seeds, subset) for subset in BOTH)]
    return [grid for grid in found if grid.rows]


def _in_order(names: Iterable[str]) -> list[str]:
    """Return each name once: SupOnly and student 1 first, then the names in CLAIMS, then the others as given."""
    present = dict.fromkeys(names)
    claimed = dict.fromkeys(("suponly", "student_1", *(name for _, a, b, _ in CLAIMS for name in (a, b))))
    return [*(name for name in claimed if name in present), *(name for name in present if name not in claimed)]


def _every(seeds: Mapping[int, Numbers]) -> Grid:
    """Return a table of mIoU by model and seed on every set, and of the rank correlation of stability and quality."""
    rows = []
    for on in SETS:
        of_set = [one.miou.get(on, {}) for one in seeds.values()]
        for name in _in_order(name for one in of_set for name in one):
            values = [one.get(name) for one in of_set]
            rows.append((LABELS.get(name, name), on, *_spread(values, 1)))
    correlations = [one.correlation for one in seeds.values()]
    if any(value is not None for value in correlations):
        rows.append(("rank correlation of stability and quality", "masks", *_spread(correlations, 2)))
    header = ("mIoU in %", "on", *(f"seed {seed}" for seed in seeds), "mean", "deviation")
    return Grid("Every seed", header, rows)


def _spread(values: Sequence[float | None], digits: int) -> list[str]:
    """Return as text every value, their mean, and their sample standard deviation if there are at least two."""
    known = [value for value in values if value is not None]
    ends = [mean(known), stdev(known) if len(known) > 1 else None]
    return ["" if value is None else f"{value:.{digits}f}" for value in [*values, *ends]]


def _claims(seeds: Mapping[int, Numbers], systems: Sequence[str]) -> Grid:
    """Return a table that tests each claim by the paired Student's t, if at least two seeds have both numbers."""
    claims = {(first, second): (claim, sets) for claim, first, second, sets in CLAIMS}
    for i, second in enumerate(systems):
        for first in (systems[0], systems[i - 1]) if i else ():
            shown = f"{LABELS.get(second, second)} above {LABELS.get(first, first)}"
            claims.setdefault((first, second), (shown, BOTH))
    rows = []
    for (first, second), (claim, sets) in claims.items():
        for on in sets:
            of_set = [one.miou.get(on, {}) for one in seeds.values()]
            pairs = [(one[first], one[second]) for one in of_set if {first, second} <= one.keys()]
            if len(pairs) < 2:
                continue
            found = paired_t(*zip(*pairs, strict=True))
            verdict = {1: "holds", 0: "open", -1: "reversed"}[found.sign]
            ahead = f"{sum(after > before for before, after in pairs)} of {len(pairs)}"
            interval = f"{found.low:+.1f} to {found.high:+.1f}"
            rows.append((claim, on, f"{found.mean:+.1f}", interval, ahead, verdict))
    header = ("claim", "on", "mean difference", "95 % interval", "seeds for it", "")
    return Grid("Claims, by the paired Student's t over seeds", header, rows)


def _classes(seeds: Mapping[int, Numbers], subset: str) -> Grid:
    """Return a table of IoU by class and model on one set, as the mean over seeds."""
    of_set = [one.classes.get(subset, {}) for one in seeds.values()]
    models = _in_order(model for one in of_set for model in one)
    names = dict.fromkeys(name for one in of_set for by_class in one.values() for name in by_class)
    rows = []
    for name in names:
        values = [[one[m][name] for one in of_set if name in one.get(m, {})] for m in models]
        rows.append((name, *(f"{mean(found):.1f}" if found else "" for found in values)))
    header = ("IoU in %", *(LABELS.get(model, model) for model in models))
    return Grid(f"Classes on {subset}, mean over seeds", header, rows)
