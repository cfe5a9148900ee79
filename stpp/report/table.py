"""The table of a run's results, as text for a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stpp.report.labels import LABELS

if TYPE_CHECKING:
    from stpp.report.statistics import Interval

NAMES = 28
GAIN = 24
"""Least width in characters of the column of names, and width of a column of gains."""


def table(metrics: list[dict[str, Any]], name: str, gains: "Mapping[str, Mapping[str, Interval]]") -> str:
    """Return a table of mIoU (%): of every model on val and test, and of pseudo masks against true masks.

    metrics: contents of metrics.json files. Later files only add what earlier files lack. name: the data set.
    gains: by set and model, how far the model's mIoU is above SupOnly's.
    """
    from stpp.report.statistics import in_points

    rows: dict[str, dict[str, float]] = {}
    pseudo: dict[str, float] = {}
    for one in metrics:
        for subset in ("val", "test"):
            for model, scores in one.get(subset, {}).items():
                rows.setdefault(model, {}).setdefault(subset, scores["miou"])
        for group, scores in one.get("pseudo", {}).items():
            pseudo.setdefault(group, scores["miou"])
    subsets = [s for s in ("val", "test") if any(s in row for row in rows.values())]
    widths = {s: GAIN if gains.get(s) else 0 for s in subsets}
    width = max(NAMES, *(len(LABELS.get(one, one)) + 4 for one in (*rows, *pseudo)))
    lines = [f"{name}: mIoU (%)".ljust(width) + "".join(s.rjust(8) + " " * widths[s] for s in subsets)]
    for model, row in rows.items():
        line = f"  {LABELS.get(model, model)}".ljust(width)
        for s in subsets:
            gain = gains.get(s, {}).get(model)
            line += (f"{100 * row[s]:.1f}" if s in row else "-").rjust(8)
            line += (f"  {in_points(gain)}" if gain else "").ljust(widths[s])
        lines.append(line)
    if pseudo:
        lines.append("pseudo masks: mIoU (%)")
        lines += [f"  {LABELS.get(g, g)}".ljust(width) + f"{100 * v:.1f}".rjust(8) for g, v in pseudo.items()]
    return "\n".join(line.rstrip() for line in lines)
