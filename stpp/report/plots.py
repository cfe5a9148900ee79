"""Figures of a run. Each function draws its arguments into a PNG file and reads nothing else.

Equal inputs give equal bytes.
"""

import warnings
from collections.abc import Callable
from functools import partial
from itertools import cycle
from math import isfinite, isnan, nan
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from stpp.report.labels import LABELS, one_line
from stpp.report.statistics import rank_correlation
from stpp.store.files import atomic_write

# The colours of Okabe and Ito. Lines, markers and hatches differ, too, so that figures can be printed in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
HATCHES = ("", "////", "....", "xxxx", r"\\\\", "++++", "oooo", "----", "||||")
GROUPS = {"unreliable": (COLOURS[1], "////", "s"), "reliable": (COLOURS[0], "", "o")}

DPI = 110
WIDTH = 9.5  # inches: 1045 px
BINS = 20
ANNOTATED = 12  # up to this many classes, the cells of a confusion matrix show their values
TICKS = 48  # up to this many classes, every class has a tick in a confusion matrix
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "hatch.linewidth": 0.6,
    "legend.edgecolor": "none",
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # names of classes and models are no formulas, even with dollar signs
}


def curves(rows: dict[str, list[dict[str, str]]], path: Path) -> None:
    """Plot training loss and val mIoU (%) against the epoch.

    rows: by model, the rows of curve.csv (epoch, train/loss, val/miou in [0, 1], ...). A missing value leaves a gap.
    """
    save(partial(curves_figure, rows), path)


def stability(scores: dict[str, float], reliable: set[str], quality: dict[str, float], path: Path) -> None:
    """Plot the stability scores of the unlabelled images, and how well they rank the true quality of the pseudo masks.

    scores: s_i / (K - 1) by id, in [0, 1]. reliable: ids that were selected as reliable. quality: mIoU of an image's
    pseudo mask against its true mask by id, in [0, 1] or NaN. If no image has both numbers, there is no second panel.
    """
    save(partial(_stability, scores, reliable, quality), path)


def quality(groups: dict[str, float], path: Path) -> None:
    """Plot mIoU (%) of pseudo masks against true masks. groups: mIoU by mask set, in [0, 1] or NaN."""
    save(partial(_quality, groups), path)


def quality_histogram(known: dict[str, list[float]], path: Path) -> None:
    """Plot a histogram of the quality of pseudo masks (paper, Figure 2).

    known: by group, the mIoU of every mask, in [0, 1] or NaN.
    """
    save(partial(_quality_histogram, known), path)


def per_class(scores: dict[str, list[float]], classes: tuple[str, ...], path: Path) -> None:
    """Plot IoU (%) of every class.

    scores: by model, one value per class in [0, 1], or NaN if the class never occurs. Raises ValueError if a model does
    not have one value per class.
    """
    save(partial(_per_class, scores, classes), path)


def confusion(matrix: list[list[int]], classes: tuple[str, ...], path: Path) -> None:
    """Plot a confusion matrix in % of the pixels of each true class. matrix: pixels by (true, predicted) class."""
    save(partial(_confusion, matrix, classes), path)


# -- drawing ----------------------------------------------------------------------------------------------------------


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure in the project's style and write it to `path` as a PNG, by an atomic write.

    The user's matplotlibrc has no effect.
    """
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings(), atomic_write(path) as unfinished:
        # A name in a script that the font lacks shows as boxes. That is no reason to warn or to fail.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        draw().savefig(unfinished, format="png", dpi=DPI, metadata={"Software": None})


def figure(height: float = 4.2) -> Figure:
    """Return an empty figure of the common width. height: inches."""
    return Figure(figsize=(WIDTH, height))  # savefig uses Agg for PNG, so pyplot and its global state are not needed


def label(name: str) -> str:
    """Return the name of a model or a mask set in a figure."""
    shown = one_line(LABELS.get(name, name))
    return f" {shown}" if shown.startswith("_") else shown  # legends leave out names that start with an underscore


def percent(value: float) -> str:
    """Return a number in [0, 1] in % with one decimal, or `n/a` if it is not finite."""
    return f"{100 * value:.1f}" if isfinite(value) else "n/a"


def empty(text: str) -> Figure:
    """Return a small figure with only a text, which says why there is nothing to plot."""
    drawn = figure(1.2)
    drawn.text(0.5, 0.5, text, ha="center", va="center", color="#555555")
    return drawn


def curves_figure(rows: dict[str, list[dict[str, str]]], names: dict[str, str] | None = None) -> Figure:
    """Draw the figure of `curves`. names: names in the legend for models whose usual name (`label`) does not fit."""
    if not any(rows.values()):
        return empty("no epoch trained yet")
    drawn = figure(4.1 + 0.22 * len(rows))
    panels = (
        ("train/loss", 1, "Training", "cross-entropy (nats per pixel)"),
        ("val/miou", 100, "Validation", "mIoU (%)"),
    )
    for ax, (key, unit, title, name) in zip(drawn.subplots(1, 2), panels, strict=True):
        looks = zip(cycle(COLOURS), cycle(LINES), cycle(MARKERS), strict=False)
        for (model, table), (colour, line, marker) in zip(rows.items(), looks, strict=False):
            x, y = (np.array([float(row.get(k) or nan) for row in table]) for k in ("epoch", key))
            last = f"{unit * y[-1]:.{1 if unit == 100 else 3}f}" if len(y) and isfinite(y[-1]) else "n/a"
            every = max(1, len(y) // 8)
            ax.plot(x, unit * y, color=colour, ls=line, marker=marker, ms=5, markevery=(every - 1, every))
            ax.lines[-1].set_label(f"{(names or {}).get(model, label(model))}: {last}")
        ax.set(title=title, xlabel="epoch", ylabel=name, xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        # The legend stands below the axis: curves may fill the panel, and it must not cover them.
        below = ax.transAxes + ScaledTranslation(0, -0.5, drawn.dpi_scale_trans)
        place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below}
        ax.legend(title="after the last epoch", alignment="left", **place)
    return drawn


def _stability(scores: dict[str, float], reliable: set[str], quality: dict[str, float]) -> Figure:
    known = {name: value for name, value in scores.items() if isfinite(value)}
    pairs = {name: (value, quality[name]) for name, value in known.items() if isfinite(quality.get(name, nan))}
    if not known:
        return empty("no stability scores")
    drawn = figure()
    left, *right = drawn.subplots(1, 2 if pairs else 1, squeeze=False)[0]
    edges = np.linspace(0, max(1.0, *known.values()), BINS + 1)
    below = np.zeros(BINS)
    for group, (colour, hatch, marker) in GROUPS.items():
        names = [name for name in known if (name in reliable) == (group == "reliable")]
        counts, _ = np.histogram([known[name] for name in names], edges)
        left.bar(edges[:-1], counts, np.diff(edges), below, align="edge", color=colour, hatch=hatch, ec="white")
        left.containers[-1].set_label(f"{group} ({len(names)})")
        below += counts
        for ax in right:
            x, y = ([pairs[name][side] for name in names if name in pairs] for side in (0, 1))
            points = ax.scatter(x, 100 * np.array(y), s=22, color=colour, marker=marker, alpha=0.7, linewidths=0)
            points.set_label(f"{group} ({len(x)})")
    left.set(title=f"Stability of {len(known)} unlabelled images", xlim=(edges[0], edges[-1]))
    left.set(xlabel="stability score", ylabel="images")
    left.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    left.grid(visible=False, axis="x")
    left.legend()
    for ax in right:
        rho = rank_correlation([s for s, _ in pairs.values()], [q for _, q in pairs.values()])
        shown = f"{rho:.2f}" if isfinite(rho) else "n/a"
        ax.set(title=f"Spearman rank correlation {shown}, n = {len(pairs)}")
        ax.set(xlabel="stability score", ylabel="true mIoU of the pseudo mask (%)")
        ax.legend()
    return drawn


def _quality(groups: dict[str, float]) -> Figure:
    if not groups:
        return empty("no pseudo masks with true ones to compare")
    drawn = figure()
    ax = drawn.subplots()
    looks = zip(cycle(COLOURS), cycle(HATCHES), strict=False)
    for x, (value, (colour, hatch)) in enumerate(zip(groups.values(), looks, strict=False)):
        ax.bar(x, 100 * value, 0.6, color=colour, hatch=hatch, ec="white")
        at = (x, 100 * value if isfinite(value) else 0)
        ax.annotate(percent(value), at, (0, 3), textcoords="offset points", ha="center")
    ax.set_xticks(range(len(groups)), [label(group) for group in groups])
    ax.set(title="Pseudo masks against true masks", xlabel="pseudo masks", ylabel="mIoU (%)")
    beside = max(0.8, 2 - len(groups) / 2)  # room for at least three bars, with the drawn bars in the middle
    ax.set(xlim=(-beside, len(groups) - 1 + beside), ylim=(0, 105))
    ax.grid(visible=False, axis="x")
    return drawn


def _quality_histogram(known: dict[str, list[float]]) -> Figure:
    finite = {group: [value for value in values if isfinite(value)] for group, values in known.items()}
    if not any(finite.values()):
        return empty("no pseudo masks with true ones to compare")
    drawn = figure()
    ax = drawn.subplots()
    edges = np.linspace(0, 100, BINS + 1)
    below = np.zeros(BINS)
    looks = zip(cycle(COLOURS), cycle(HATCHES), strict=False)
    for (group, values), (colour, hatch) in zip(finite.items(), looks, strict=False):
        counts, _ = np.histogram(100 * np.array(values), edges)
        ax.bar(edges[:-1], counts, np.diff(edges), below, align="edge", color=colour, hatch=hatch, ec="white")
        ax.containers[-1].set_label(f"{label(group)} ({len(values)})")
        below += counts
    ax.set(title="Pseudo masks by quality", xlabel="true mIoU of the pseudo mask (%)", ylabel="images", xlim=(0, 100))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.grid(visible=False, axis="x")
    ax.legend()
    return drawn


def _per_class(scores: dict[str, list[float]], classes: tuple[str, ...]) -> Figure:
    if not scores or not classes:
        return empty("no model evaluated")
    bars = len(classes) * (len(scores) + 1)  # between classes there is a gap as wide as a bar
    drawn = figure(1.3 + bars * min(0.24, max(0.145, 5 / bars)))
    ax = drawn.subplots()
    looks = zip(cycle(COLOURS), cycle(HATCHES), strict=False)
    bar = 1 / (len(scores) + 1)
    for index, ((model, values), (colour, hatch)) in enumerate(zip(scores.items(), looks, strict=False)):
        if len(values) != len(classes):
            raise ValueError(f"{model}: {len(values)} values for {len(classes)} classes")
        known = [value for value in values if isfinite(value)]
        mean = percent(sum(known) / len(known) if known else nan)
        y = np.arange(len(classes)) + (index - (len(scores) - 1) / 2) * bar
        named = f"{label(model)}: mIoU {mean}"
        ax.barh(y, 100 * np.array(values), bar, color=colour, hatch=hatch, ec="white", lw=0.5, label=named)
        for at, value in zip(y, values, strict=True):
            end = (100 * value if isfinite(value) else 0, at)
            ax.annotate(percent(value), end, (3, 0), textcoords="offset points", va="center_baseline", fontsize=7.5)
    ax.set_yticks(range(len(classes)), [one_line(name) for name in classes])
    ax.set(xlabel="IoU (%)", xlim=(0, 105), ylim=(len(classes) - 0.4, -0.6))
    ax.grid(visible=False, axis="y")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return drawn


def _confusion(matrix: list[list[int]], classes: tuple[str, ...]) -> Figure:
    if not classes:
        return empty("no classes")
    counts = np.array(matrix, dtype=np.float64).reshape(len(classes), len(classes))
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    drawn = figure(7.8)
    drawn.set_layout_engine("compressed")
    ax = drawn.subplots()
    image = ax.imshow(shares, cmap=mpl.colormaps["Blues"].with_extremes(bad="#E8E8E8"), vmin=0, vmax=100)
    if len(classes) <= ANNOTATED:
        for (true, predicted), share in np.ndenumerate(shares):
            text = "n/a" if isnan(share) else f"{share:.1f}" if share else "0"
            colour = "white" if share > 55 else "black"
            ax.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=9)
    ticks = range(0, len(classes), 1 + (len(classes) - 1) // TICKS)
    names = [one_line(classes[tick]) for tick in ticks]
    size = 10 if len(classes) <= ANNOTATED else 8
    ax.set_xticks(ticks, names, rotation=45, rotation_mode="anchor", ha="right", fontsize=size)
    ax.set_yticks(ticks, names, fontsize=size)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.grid(visible=False)
    drawn.colorbar(image, label="pixels of the true class (%)", shrink=0.8)
    return drawn
