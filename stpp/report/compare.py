"""The paper's figures that compare several systems.

This module reads no files: the stage `figure` reads the numbers that a figure needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stpp.report.labels import PARTS
from stpp.report.plots import COLOURS, HATCHES, LINES, MARKERS, curves_figure, empty, figure, label, rounded, save

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """The measured numbers that the figures use, of all given systems."""

    miou: dict[str, float] = field(default_factory=dict)
    """mIoU (%) on val by model."""
    pseudo: dict[str, float] = field(default_factory=dict)
    """mIoU (%) of pseudo masks by mask set."""
    images: dict[str, int] = field(default_factory=dict)
    """Number of pseudo masks with a true mask, by mask set."""
    curves: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Rows of curve.csv by model."""


def merge_metrics(metrics: list[Metrics], curves: dict[str, list[dict[str, str]]]) -> Measured:
    """Merge the numbers of several metrics.json. If two of them have the same model or mask set, the first counts."""
    miou: dict[str, float] = {}
    pseudo: dict[str, float] = {}
    images: dict[str, int] = {}
    for one in metrics:
        for model, scores in one.get("val", {}).items():
            miou.setdefault(model, scores["miou"])
        for group, scores in one.get("pseudo", {}).items():
            pseudo.setdefault(group, scores["miou"])
            images.setdefault(group, scores["images"])
    return Measured(miou, pseudo, images, curves)


def draw(name: str, what: Measured, on: str, path: Path) -> None:
    """Draw the figure `name` (a key of FIGURES) and write it to `path` as a PNG. on: data and images in the title."""
    save(partial(_titled, name, what, on), path)


def _titled(name: str, what: Measured, on: str) -> Figure:
    drawn = FIGURES[name](what)
    if drawn.axes and on:
        drawn.suptitle(f"{drawn.get_suptitle()}: {on}")
    return drawn


def _sda_curves(what: Measured) -> Figure:
    """Figure 1: loss and mIoU with and without A_s."""
    return curves_figure(what.curves, names={"plain": "without A_s (plain self-training)", "st": "with A_s (ST)"})


def _sda_sets(what: Measured) -> Figure:
    """Figure 3a: A_s on no set, on the unlabelled set, and on both sets."""
    bars = {"suponly": "SupOnly", "plain": "on none", "st": "on unlabelled\n(ST)", "both_sets": "on both"}
    return _bars(what.miou, bars, "Strong augmentation, by the images that get it")


def _sda_parts(what: Measured) -> Figure:
    """Figure 3b: each part of A_s alone, each part left out, and CutOut on labelled images, too."""
    bars = {"plain": "none"}
    bars |= {f"only_{part}": f"{shown}\nalone" for part, shown in PARTS.items()}
    bars |= {f"no_{part}": f"no\n{shown}" for part, shown in PARTS.items()}
    bars |= {"st": "all (ST)", "cutout_labeled": "ST, CutOut on\nlabelled, too"}
    return _bars(what.miou, bars, "Parts of the strong augmentation of unlabelled images")


def _boosted(what: Measured) -> Figure:
    """Figures 4 and 5: quality of the masks of reliable and of unreliable images, the latter also by student 1."""
    bars = {"reliable": "reliable,\nby the teacher", "unreliable": "unreliable,\nby the teacher"}
    bars |= {"boosted": "unreliable,\nby student 1"}
    bars = {key: f"{name}\nn = {what.images[key]}" for key, name in bars.items() if key in what.images}
    return _bars(what.pseudo, bars, "Pseudo masks against true ones", on="")


def _stages(what: Measured) -> Figure:
    """Figure 6: mIoU after each stage of ST++, compared with ST."""
    steps = {"suponly": "teacher\n(SupOnly)", "student_1": "student 1", "stpp": "student 2\n(ST++)"}
    return _steps(what.miou, steps, "st", "ST", "ST++ stage by stage")


def _iterations(what: Measured) -> Figure:
    """Figure 8: mIoU after extra rounds of re-training that follow ST++."""
    steps = {"stpp": "ST++"} | {f"round_{n}": f"{n} round{'s' if n > 1 else ''}\nmore" for n in (1, 2, 3)}
    return _steps(what.miou, steps, "suponly", "SupOnly", "Iterative re-training")


FIGURES: dict[str, Callable[[Measured], Figure]] = {
    "figure_1": _sda_curves,
    "figure_3a": _sda_sets,
    "figure_3b": _sda_parts,
    "figure_4": _boosted,
    "figure_6": _stages,
    "figure_8": _iterations,
}


# Colour and hatch of a bar by the prefix of its key, so that related bars look alike. Other bars are plain.
LOOKS = {
    "only_": (COLOURS[4], HATCHES[1]),
    "no_": (COLOURS[1], HATCHES[4]),
    "suponly": ("#888888", ""),
    "plain": ("#888888", HATCHES[2]),
    "unreliable": (COLOURS[1], HATCHES[1]),
    "boosted": (COLOURS[2], HATCHES[2]),
}


def _bars(values: dict[str, float], names: dict[str, str], title: str, on: str = " on val") -> Figure:
    """Draw mIoU (%) as bars, with the difference to the first bar in small print.

    values: mIoU (%) by key. names: text under each bar by key, in the order of the bars. Keys without a value are
    left out.
    """
    shown = {key: name for key, name in names.items() if key in values}
    if not shown:
        return empty("no results for this figure yet")
    drawn = figure(4.4, title)
    ax = drawn.subplots()
    first = values[next(iter(shown))]
    for x, key in enumerate(shown):
        value = values[key]
        colour, hatch = next((look for start, look in LOOKS.items() if key.startswith(start)), (COLOURS[0], ""))
        bar = ax.bar(x, value, 0.65, color=colour, hatch=hatch, ec="white")
        text = rounded(value) if x == 0 else f"{rounded(value)}\n({value - first:+.1f})"
        ax.bar_label(bar, [text], padding=3, fontsize=9)
    ax.set_xticks(range(len(shown)), list(shown.values()), fontsize=9 if len(shown) < 8 else 7.5)
    ax.set(ylabel=f"mIoU{on} (%)", xlim=(-0.6, max(len(shown), 3) - 0.4))
    if len(shown) > 1:
        name = " ".join(names[next(iter(shown))].partition("\nn = ")[0].split())
        ax.set_xlabel(f'in brackets: difference to "{name}"')
    ax.set_ylim(0, min(112, 1.18 * max(values[key] for key in shown) + 4))
    ax.grid(visible=False, axis="x")
    return drawn


def _steps(values: dict[str, float], names: dict[str, str], other: str, other_name: str, title: str) -> Figure:
    """Draw mIoU (%) on val from stage to stage, and the model `other` as a horizontal line to compare with.

    values: mIoU (%) by key. names: text under each stage by key. Keys without a value are left out.
    """
    shown = {key: name for key, name in names.items() if key in values}
    if not shown:
        return empty("no results for this figure yet")
    drawn = figure(4.4, title)
    ax = drawn.subplots()
    y = np.array([values[key] for key in shown])
    ax.plot(range(len(y)), y, color=COLOURS[0], ls=LINES[0], marker=MARKERS[0], ms=7, label=label("stpp"))
    for x, value in enumerate(y):
        behind = {"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.85}  # keeps the number readable on a line
        ax.annotate(f"{value:.1f}", (x, value), (0, 8), textcoords="offset points", ha="center", bbox=behind)
    if other in values:
        ax.axhline(values[other], color=COLOURS[3], ls=LINES[1], label=f"{other_name}: {rounded(values[other])}")
    ax.set_xticks(range(len(shown)), list(shown.values()))
    ax.set(ylabel="mIoU on val (%)", xlim=(-0.4, max(len(shown), 3) - 0.6))
    every = [*y, *([values[other]] if other in values else [])]
    margin = max(2.0, 0.25 * (max(every) - min(every)))
    ax.set_ylim(max(0, min(every) - margin), min(100, max(every) + margin))
    ax.grid(visible=False, axis="x")
    ax.legend()
    return drawn
