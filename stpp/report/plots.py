"""Figures of a run. Each function draws its arguments into a PNG file and reads nothing else.

Equal inputs give equal bytes.
"""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle
from math import isfinite, isnan, nan
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
COLUMN = 30  # up to this many classes, the bars of all classes stand in one column
ANNOTATED = 12  # up to this many classes, the cells of a confusion matrix show their values with one decimal
WHOLE = 24  # up to this many classes, they show whole numbers
TICKS = 64  # up to this many classes, every class has a tick in a confusion matrix
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


def curves(rows: dict[str, list[dict[str, str]]], on: str, path: Path) -> None:
    """Plot training loss and val mIoU (%) against the epoch.

    rows: by model, the rows of curve.csv (epoch, train/loss, val/miou, ...). A missing value leaves a gap.
    on: the data set and set of images in the title.
    """
    save(partial(curves_figure, rows, on), path)


def stability(scores: dict[str, float], reliable: set[str], quality: dict[str, float], on: str, path: Path) -> None:
    """Plot the stability scores of the unlabelled images, and how well they rank the true quality of the pseudo masks.

    scores: s_i / (K - 1) by id, in [0, 1]. reliable: ids that were selected as reliable. quality: mIoU of an image's
    pseudo mask against its true mask by id (%), or NaN. If no image has both numbers, there is no second panel.
    A line shows the lowest score of a reliable image if all unreliable images score lower. on: the data set in the
    title.
    """
    save(partial(_stability, scores, reliable, quality, on), path)


def quality(groups: dict[str, tuple[float, int]], on: str, path: Path) -> None:
    """Plot mIoU (%) of pseudo masks against true masks.

    groups: by mask set, its mIoU or NaN, and its number of images. on: the data set in the title.
    """
    save(partial(_quality, groups, on), path)


def quality_histogram(known: dict[str, list[float]], on: str, path: Path) -> None:
    """Plot a histogram of the quality of pseudo masks (paper, Figure 2).

    known: by group, the mIoU (%) of every mask, or NaN. on: the data set in the title.
    """
    save(partial(_quality_histogram, known, on), path)


def per_class(scores: dict[str, list[float]], classes: tuple[str, ...], on: str, path: Path) -> None:
    """Plot IoU (%) of every class.

    scores: by model, one value per class, or NaN if the class never occurs. on: the data set and set of
    images in the title. Raises ValueError if a model does not have one value per class.
    """
    save(partial(_per_class, scores, classes, on), path)


def reliability(bins: dict[str, list[dict[str, str]]], errors: dict[str, float], on: str, path: Path) -> None:
    """Plot accuracy against confidence, and the share of pixels by confidence.

    bins: by model, the rows of calibration.csv (pixels, accuracy, confidence). errors: by model, the expected
    calibration error (%) or NaN. on: the data set and set of images in the title.
    """
    save(partial(_reliability, bins, errors, on), path)


def confusion(matrix: list[list[int]], classes: tuple[str, ...], on: str, path: Path) -> None:
    """Plot a confusion matrix in % of the pixels of each true class.

    matrix: pixels by (true, predicted) class. on: the model, data set and set of images in the title.
    """
    save(partial(_confusion, matrix, classes, on), path)


# -- drawing ----------------------------------------------------------------------------------------------------------


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure in the project's style and write it to `path` as a PNG, by an atomic write.

    The user's matplotlibrc has no effect.
    """
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings(), atomic_write(path) as unfinished:
        # A name in a script that the font lacks shows as boxes. That is no reason to warn or to fail.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        draw().savefig(unfinished, format="png", dpi=DPI, metadata={"Software": None})


def figure(height: float, title: str) -> Figure:
    """Return an empty figure of the common width with a title. height: inches."""
    drawn = Figure(figsize=(WIDTH, height))  # savefig uses Agg for PNG, so pyplot and its global state are not needed
    drawn.suptitle(title)
    return drawn


def label(name: str) -> str:
    """Return the name of a model or a mask set in a figure."""
    shown = one_line(LABELS.get(name, name))
    return f" {shown}" if shown.startswith("_") else shown  # legends leave out names that start with an underscore


def rounded(value: float) -> str:
    """Return a number with one decimal, or `n/a` if it is not finite."""
    return f"{value:.1f}" if isfinite(value) else "n/a"


def empty(text: str) -> Figure:
    """Return a small figure with only a text, which says why there is nothing to plot."""
    return figure(1.2, text)


def named(models: Iterable[str]) -> str:
    """Return the models of a figure for its title: the name of a single one, else their number."""
    names = [label(model).strip() for model in models]
    return names[0] if len(names) == 1 else f"{len(names)} models"


def legend(drawn: Figure, ax: Axes, title: str = "") -> None:
    """Draw the legend of `ax` below all panels of a figure, where it covers nothing."""
    handles, names = ax.get_legend_handles_labels()
    columns = max(1, 100 // (8 + max(map(len, names))))  # about 100 characters are as wide as a figure
    drawn.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)), title=title or None)


def curves_figure(rows: dict[str, list[dict[str, str]]], on: str = "", names: dict[str, str] | None = None) -> Figure:
    """Draw the figure of `curves`. names: names in the legend for models whose usual name (`label`) does not fit."""
    if not any(rows.values()):
        return empty("no epoch trained yet")
    drawn = figure(4.2 + 0.22 * len(rows), f"Training of {named(rows)}" + (f" on {on}" if on else ""))
    panels = (("train/loss", "training loss (nats per pixel)"), ("val/miou", "mIoU on val (%)"))
    for ax, (key, name) in zip(drawn.subplots(1, 2), panels, strict=True):
        looks = zip(cycle(COLOURS), cycle(LINES), cycle(MARKERS), strict=False)
        for (model, table), (colour, line, marker) in zip(rows.items(), looks, strict=False):
            x, y = (np.array([float(row.get(k) or nan) for row in table]) for k in ("epoch", key))
            every = max(1, len(y) // 8)
            ax.plot(x, y, color=colour, ls=line, marker=marker, ms=5, markevery=(every - 1, every))
            last = [float(table[-1].get(k) or nan) if table else nan for k, _ in panels]
            shown = f"loss {last[0]:.3f}" if isfinite(last[0]) else "loss n/a"
            ax.lines[-1].set_label(f"{(names or {}).get(model, label(model))}: {shown}, mIoU {rounded(last[1])}")
        ax.set(xlabel="epoch", ylabel=name, xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(drawn, drawn.axes[0], "after the last epoch")
    return drawn


def _stability(scores: dict[str, float], reliable: set[str], quality: dict[str, float], on: str) -> Figure:
    known = {name: value for name, value in scores.items() if isfinite(value)}
    pairs = {name: (value, quality[name]) for name, value in known.items() if isfinite(quality.get(name, nan))}
    if not known:
        return empty("no stability scores")
    drawn = figure(5.2, f"Stability of the teacher on unlabelled images of {on}, n = {len(known)}")
    left, *right = drawn.subplots(1, 2 if pairs else 1, squeeze=False)[0]
    top = max(1.0, *known.values())
    edges = np.linspace(0, top, BINS + 1)
    below = np.zeros(BINS)
    members = {group: [i for i in known if (i in reliable) == (group == "reliable")] for group in GROUPS}
    for group, (colour, hatch, marker) in GROUPS.items():
        counts, _ = np.histogram([known[name] for name in members[group]], edges)
        left.bar(edges[:-1], counts, np.diff(edges), below, align="edge", color=colour, hatch=hatch, ec="white")
        left.containers[-1].set_label(f"{group} ({len(members[group])})")
        below += counts
        for ax in right:
            x, y = ([pairs[name][side] for name in members[group] if name in pairs] for side in (0, 1))
            ax.scatter(x, y, s=22, color=colour, marker=marker, alpha=0.7, linewidths=0, clip_on=False)
    threshold = min((known[name] for name in members["reliable"]), default=nan)
    if threshold > max((known[name] for name in members["unreliable"]), default=-1):
        for ax in (left, *right):
            ax.axvline(threshold, color="black", ls="--", lw=1, label=f"threshold {threshold:.3f}")
    left.set(xlabel="stability score", ylabel="images", xlim=(0, top), ylim=(0, 1.1 * below.max()))
    left.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    left.grid(visible=False, axis="x")
    for ax in right:
        rho = rank_correlation([s for s, _ in pairs.values()], [q for _, q in pairs.values()])
        shown = f"{rho:.2f}" if isfinite(rho) else "n/a"
        ax.set(title=f"Spearman rank correlation {shown}, n = {len(pairs)}", aspect=1 / 100)
        ax.set(xlabel="stability score", ylabel="true mIoU of the pseudo mask (%)", xlim=(0, top), ylim=(0, 100 * top))
    legend(drawn, left)
    return drawn


def _quality(groups: dict[str, tuple[float, int]], on: str) -> Figure:
    if not groups:
        return empty("no pseudo masks with true ones to compare")
    drawn = figure(4.4, f"Pseudo masks of {on} against true masks")
    ax = drawn.subplots()
    looks = zip(cycle(COLOURS), cycle(HATCHES), strict=False)
    for x, ((value, _), (colour, hatch)) in enumerate(zip(groups.values(), looks, strict=False)):
        bar = ax.bar(x, np.nan_to_num(value), 0.6, color=colour, hatch=hatch, ec="white")
        ax.bar_label(bar, [rounded(value)], padding=3)
    ax.set_xticks(range(len(groups)), [f"{label(group)}\nn = {n}" for group, (_, n) in groups.items()])
    if len(groups) > 3:
        ax.tick_params(axis="x", rotation=90)
    ax.set(ylabel="mIoU (%)")
    beside = max(0.8, 2 - len(groups) / 2)  # room for at least three bars, with the drawn bars in the middle
    ax.set(xlim=(-beside, len(groups) - 1 + beside), ylim=(0, 110))
    ax.grid(visible=False, axis="x")
    return drawn


def _quality_histogram(known: dict[str, list[float]], on: str) -> Figure:
    finite = {group: [value for value in values if isfinite(value)] for group, values in known.items()}
    if not any(finite.values()):
        return empty("no pseudo masks with true ones to compare")
    n = sum(map(len, finite.values()))
    drawn = figure(4.4, f"Quality of the pseudo masks of unlabelled images of {on}, n = {n}")
    ax = drawn.subplots()
    edges = np.linspace(0, 100, BINS + 1)
    below = np.zeros(BINS)
    looks = zip(cycle(COLOURS), cycle(HATCHES), strict=False)
    for (group, values), (colour, hatch) in zip(finite.items(), looks, strict=False):
        counts, _ = np.histogram(values, edges)
        ax.bar(edges[:-1], counts, np.diff(edges), below, align="edge", color=colour, hatch=hatch, ec="white")
        ax.containers[-1].set_label(f"{label(group)} ({len(values)})")
        below += counts
    ax.set(xlabel="true mIoU of the pseudo mask (%)", ylabel="images", xlim=(0, 100), ylim=(0, 1.1 * below.max()))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.grid(visible=False, axis="x")
    legend(drawn, ax)
    return drawn


def _per_class(scores: dict[str, list[float]], classes: tuple[str, ...], on: str) -> Figure:
    if not scores or not classes:
        return empty("no model evaluated")
    for model, values in scores.items():
        if len(values) != len(classes):
            raise ValueError(f"{model}: {len(values)} values for {len(classes)} classes")
    columns = 1 if len(classes) <= COLUMN else 2
    rows = -(-len(classes) // columns)
    bars = rows * (len(scores) + 1)  # between classes there is a gap as wide as a bar
    drawn = figure(1.7 + bars * min(0.24, max(0.145, 5 / bars)), f"IoU by class: {named(scores)} on {on}")
    for column, ax in enumerate(drawn.subplots(1, columns, squeeze=False)[0]):
        part = slice(rows * column, rows * (column + 1))
        _class_bars(ax, {model: values[part] for model, values in scores.items()}, classes[part], rows)
    for model, bar in zip(scores, drawn.axes[0].containers, strict=True):
        known = [value for value in scores[model] if isfinite(value)]
        bar.set_label(f"{label(model)}: mIoU {rounded(sum(known) / len(known) if known else nan)}")
    legend(drawn, drawn.axes[0])
    return drawn


def _class_bars(ax: Axes, scores: dict[str, list[float]], classes: tuple[str, ...], rows: int) -> None:
    """Draw the bars of the models for some classes. rows: number of classes that the panel has room for."""
    looks = zip(cycle(COLOURS), cycle(HATCHES), strict=False)
    height = 1 / (len(scores) + 1)
    for index, (values, (colour, hatch)) in enumerate(zip(scores.values(), looks, strict=False)):
        y = np.arange(len(classes)) + (index - (len(scores) - 1) / 2) * height
        bar = ax.barh(y, np.nan_to_num(values), height, color=colour, hatch=hatch, ec="white", lw=0.5)
        ax.bar_label(bar, [rounded(value) for value in values], padding=3, fontsize=7.5)
    ax.set_yticks(range(len(classes)), [one_line(name) for name in classes])
    ax.set(xlabel="IoU (%)", xlim=(0, 110), ylim=(rows - 0.4, -0.6))
    ax.grid(visible=False, axis="y")


def _reliability(bins: dict[str, list[dict[str, str]]], errors: dict[str, float], on: str) -> Figure:
    if not any(float(row["pixels"]) for rows in bins.values() for row in rows):
        return empty("no pixels with a true class")
    drawn = figure(4.8 + 0.22 * len(bins), f"Reliability of the confidence: {named(bins)} on {on}")
    left, right = drawn.subplots(1, 2)
    left.plot((0, 100), (0, 100), color="#888888", lw=1, label="accuracy = confidence")
    looks = zip(cycle(COLOURS), cycle(LINES), cycle(MARKERS), strict=False)
    for (model, rows), (colour, line, marker) in zip(bins.items(), looks, strict=False):
        pixels, accuracy, confidence = (
            np.array([float(row[key]) for row in rows]) for key in ("pixels", "accuracy", "confidence")
        )
        there = pixels > 0
        look = {"color": colour, "ls": line, "marker": marker, "ms": 5}
        name = f"{label(model)}: calibration error {rounded(errors.get(model, nan))}"
        left.plot(confidence[there], accuracy[there], label=name, **look)
        right.plot(confidence[there], 100 * pixels[there] / pixels.sum(), **look)
    left.set(ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    right.set(ylabel="pixels (%)", xlim=(0, 100), ylim=(0, None))
    for ax in (left, right):
        ax.set(xlabel="confidence (%), mean of each bin")
    legend(drawn, left)
    return drawn


def _confusion(matrix: list[list[int]], classes: tuple[str, ...], on: str) -> Figure:
    if not classes:
        return empty("no classes")
    counts = np.array(matrix, dtype=np.float64).reshape(len(classes), len(classes))
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    drawn = figure(7.8 if len(classes) <= ANNOTATED else 8.8, f"True and predicted class: {on}")
    drawn.set_layout_engine("compressed")
    ax = drawn.subplots()
    image = ax.imshow(shares, cmap=mpl.colormaps["Blues"].with_extremes(bad="#E8E8E8"), vmin=0, vmax=100)
    for (true, predicted), share in np.ndenumerate(shares) if len(classes) <= WHOLE else ():
        digits = 1 if len(classes) <= ANNOTATED else 0
        text = "n/a" if isnan(share) else f"{share:.{digits}f}" if share else "0"
        size = 9 if digits else 6.5
        ax.text(
            predicted, true, text, ha="center", va="center", color="white" if share > 55 else "black", fontsize=size
        )
    ticks = range(0, len(classes), 1 + (len(classes) - 1) // TICKS)
    names = [one_line(classes[tick]) for tick in ticks]
    size = 10 if len(classes) <= ANNOTATED else 8 if len(classes) <= WHOLE else 5.5
    ax.set_xticks(ticks, names, rotation=90, fontsize=size)
    ax.set_yticks(ticks, names, fontsize=size)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.grid(visible=False)
    drawn.colorbar(image, label="pixels of the true class (%); every row adds up to 100", shrink=0.8)
    return drawn
