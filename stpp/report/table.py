"""The table of a run's results, as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stpp.report.labels import LABELS

if TYPE_CHECKING:
    from stpp.report.statistics import Interval

NAMES = 28
GAIN = 24
SCORE, BESIDE = 7, 6
"""Width in characters: of the column of names at least; of columns of gains, of scores, of scores beside them."""
FOREGROUND = {"IoU": "foreground_iou", "Dice": "foreground_dice"}
"""The columns of the foreground: their keys in metrics.json by name."""


def table(
    metrics: list[dict[str, Any]], name: str, gains: "Mapping[str, Mapping[str, Interval]]", foreground: str = ""
) -> str:
    """Return a table of mIoU (%): of every model on val and test, and of pseudo masks against true masks.

    metrics: contents of metrics.json files. Later files only add what earlier files lack. name: the data set.
    gains: by set and model, how far the model's mIoU is above SupOnly's. foreground: the class whose IoU and Dice stand
    beside mIoU, if there are two classes.
    """
    rows: dict[str, dict[str, dict[str, float]]] = {}
    pseudo: dict[str, float] = {}
    for one in metrics:
        for subset in ("val", "test"):
            for model, scores in one.get(subset, {}).items():
                rows.setdefault(model, {}).setdefault(subset, scores)
        for group, scores in one.get("pseudo", {}).items():
            pseudo.setdefault(group, scores["miou"])
    subsets = [s for s in ("val", "test") if any(s in row for row in rows.values())]
    width = max(NAMES, *(len(LABELS.get(one, one)) + 2 for one in (*rows, *pseudo)))
    if foreground:  # a block for each set: side by side they are wider than a terminal
        lines = [f"{name}: mIoU (%); IoU and Dice (%) of {foreground}"]
        for s in subsets:
            lines += _block(rows, [s], "", width, gains, FOREGROUND)
    else:
        lines = _block(rows, subsets, f"{name}: mIoU (%)", width, gains, {})
    if pseudo:
        lines.append("pseudo masks: mIoU (%)")
        lines += [f"  {LABELS.get(g, g)}".ljust(width) + _column(v) for g, v in pseudo.items()]
    return "\n".join(line.rstrip() for line in lines)


def _block(
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
    subsets: Sequence[str],
    title: str,
    width: int,
    gains: "Mapping[str, Mapping[str, Interval]]",
    beside: Mapping[str, str],
) -> list[str]:
    """Return the lines of the models, with columns for each set. beside: further columns, by name: a key of scores."""
    from stpp.report.statistics import in_points

    widths = {s: GAIN if gains.get(s) else 0 for s in subsets}
    of_beside = "".join(column.rjust(BESIDE) for column in beside)
    lines = [title.ljust(width) + "".join(s.rjust(SCORE) + " " * widths[s] + of_beside for s in subsets)]
    for model, row in rows.items():
        line = f"  {LABELS.get(model, model)}".ljust(width)
        for s in subsets:
            gain, scores = gains.get(s, {}).get(model), row.get(s, {})
            line += _column(scores.get("miou")) + (f"  {in_points(gain)}" if gain else "").ljust(widths[s])
            line += "".join(_column(scores.get(key), BESIDE) for key in beside.values())
        lines.append(line)
    return lines


def _column(value: float | None, width: int = SCORE) -> str:
    """Return a number as a column; `-` if it is not known."""
    return ("-" if value is None else f"{value:.1f}").rjust(width)
