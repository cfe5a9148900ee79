import io
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from PIL import Image

from stpp.report import plots
from stpp.report.labels import LABELS, one_line

NAN = math.nan
CLASSES = ("background", "disk", "ring")
CURVE = [{"epoch": f"{e}.0", "train/loss": f"{2 / e}", "val/miou": f"{0.1 * e}"} for e in range(1, 6)]
SCORES = {f"i{n}": n / 10 for n in range(11)}
RELIABLE = {"i8", "i9", "i10"}
HOSTILE = ("$x^2$", "$\\frac$", "_hidden", "a\nb\t\x00", "\ud800", "天", "\u202eabc", "", "x" * 300, "%s {0}", "\\")

Draw = Callable[[Path], None]
ORDINARY: dict[str, Draw] = {
    "curves": lambda path: plots.curves({"teacher": CURVE, "student": CURVE[:3]}, path),
    "stability": lambda path: plots.stability(SCORES, RELIABLE, {"i1": 0.2, "i3": 0.5, "i9": 0.4}, path),
    "quality": lambda path: plots.quality({"reliable": 0.8, "boosted": 0.6}, path),
    "per_class": lambda path: plots.per_class({"suponly": [0.5, 0.2, 0.9], "stpp": [0.6, 0.3, 0.9]}, CLASSES, path),
    "confusion": lambda path: plots.confusion([[9, 1, 0], [2, 5, 5], [0, 0, 7]], CLASSES, path),
}
HARD: dict[str, Draw] = {
    "no model": lambda path: plots.curves({}, path),
    "no epoch": lambda path: plots.curves({"teacher": []}, path),
    "one model without an epoch": lambda path: plots.curves({"teacher": CURVE, "student": []}, path),
    "one epoch": lambda path: plots.curves({"teacher": CURVE[:1]}, path),
    "no miou": lambda path: plots.curves({"teacher": [{"epoch": "1", "train/loss": "nan", "val/miou": ""}]}, path),
    "no scores": lambda path: plots.stability({}, set(), {"i1": 0.5}, path),
    "scores of NaN": lambda path: plots.stability({"a": NAN}, {"a"}, {"a": 0.5}, path),
    "equal scores": lambda path: plots.stability({"a": 1.0, "b": 1.0}, {"a"}, {"a": 0.5, "b": NAN}, path),
    "a score above 1": lambda path: plots.stability({"a": 1.0000001}, {"a"}, {}, path),
    "no group": lambda path: plots.quality({}, path),
    "quality of NaN": lambda path: plots.quality({"reliable": NAN}, path),
    "no system": lambda path: plots.per_class({}, CLASSES, path),
    "no class": lambda path: plots.per_class({"stpp": []}, (), path),
    "classes of NaN": lambda path: plots.per_class({"stpp": [NAN, NAN, NAN]}, CLASSES, path),
    "no pixels": lambda path: plots.confusion([[0, 0], [0, 0]], ("a", "b"), path),
    "one class": lambda path: plots.confusion([[3]], ("a",), path),
    "no classes": lambda path: plots.confusion([], (), path),
}


def size(path: Path) -> tuple[int, int]:
    with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
        image.load()
        return image.size


@pytest.mark.parametrize("name", ORDINARY)
def test_a_figure_is_a_png_of_readable_size_with_equal_bytes_for_equal_inputs(name: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "new" / "two.png"
    ORDINARY[name](one)
    with plots.matplotlib.style.context("dark_background"):  # a user's matplotlibrc could do the same
        ORDINARY[name](two)
    assert one.read_bytes() == two.read_bytes()
    assert 900 <= size(one)[0] <= 1200
    assert 200 <= size(one)[1] <= 1200
    with Image.open(one) as image:
        assert set(image.info) <= {"dpi"}
    assert [p.name for p in one.parent.glob("*.p*")] == ["one.png"]


@pytest.mark.parametrize("name", HARD)
def test_empty_and_missing_numbers_still_draw(name: str, tmp_path: Path) -> None:
    HARD[name](tmp_path / "figure.png")
    assert 900 <= size(tmp_path / "figure.png")[0] <= 1200


def test_names_are_drawn_as_text_not_as_markup(tmp_path: Path) -> None:
    values = [0.5] * len(HOSTILE)
    plots.curves(dict.fromkeys(HOSTILE, CURVE), tmp_path / "curves.png")
    plots.quality(dict.fromkeys(HOSTILE, 0.5), tmp_path / "quality.png")
    plots.per_class({"$_$": values, "_": values}, HOSTILE, tmp_path / "per_class.png")
    plots.confusion(np.eye(len(HOSTILE), dtype=int).tolist(), HOSTILE, tmp_path / "confusion.png")
    assert all(size(path)[0] == 1045 for path in tmp_path.iterdir())
    plots.quality({"$a$": 0.5}, tmp_path / "dollars.png")
    plots.quality({"a": 0.5}, tmp_path / "none.png")
    plots.quality({"$\\mathrm{a}$": 0.5}, tmp_path / "upright.png")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in ("dollars", "none", "upright")}) == 3


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "per_class.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="stpp: 1 values for 3 classes"):
        plots.per_class({"stpp": [0.5]}, CLASSES, path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_every_model_has_a_legend_entry_and_its_own_style() -> None:
    names = ["teacher", "student_1", "student", "_x", "$"]
    for ax in plots.curves_figure(dict.fromkeys(names, CURVE)).axes:
        legend = ax.get_legend()
        assert legend is not None
        shown = [text.get_text().split(":")[0].strip() for text in legend.get_texts()]
        assert shown == [LABELS.get(name, name) for name in names]
        assert len({line.get_color() for line in ax.lines}) == len(names)
        assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == len(names)


def test_curves_show_loss_and_miou_in_percent_by_epoch() -> None:
    loss, miou = plots.curves_figure({"teacher": CURVE}).axes
    assert np.allclose(loss.lines[0].get_xydata(), [(e, 2 / e) for e in range(1, 6)])
    assert np.allclose(miou.lines[0].get_xydata(), [(e, 10 * e) for e in range(1, 6)])
    legend = miou.get_legend()
    assert legend is not None and legend.get_texts()[0].get_text() == "Teacher (SupOnly): 50.0"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1) | st.just(NAN), min_size=1), st.data())
def test_the_histogram_counts_every_scored_image_once(scores: dict[str, float], data: st.DataObject) -> None:
    reliable = data.draw(st.sets(st.sampled_from(sorted(scores))))
    figure = plots._stability(scores, reliable, {})
    known = {name for name, value in scores.items() if not math.isnan(value)}
    if not known:
        assert not figure.axes
        return
    (ax,) = figure.axes
    counted = [sum(bar.get_height() for bar in group) for group in ax.containers]
    assert counted == [len(known - reliable), len(known & reliable)]
    for below, above in zip(*ax.containers, strict=True):
        assert above.get_y() == below.get_height()  # the bars are stacked, so neither hides the other


def test_the_scatter_plot_has_the_images_with_both_numbers() -> None:
    quality = {"i1": 0.3, "i2": 0.2, "i9": 0.9, "i10": NAN, "other": 0.5}
    _, ax = plots._stability({**SCORES, "i2": NAN, "i3": 0.3}, RELIABLE, quality | {"i3": 0.4}).axes
    points = [p for group in ax.collections if isinstance(group, PathCollection) for p in group.get_offsets()]
    assert np.allclose(points, [(0.1, 30), (0.3, 40), (0.9, 90)])
    assert ax.get_title() == "Spearman rank correlation 1.00, n = 3"


def test_bars_have_the_height_of_the_quality_written_above_them() -> None:
    (ax,) = plots._quality({"reliable": 0.8125, "boosted": NAN, "rest": 0.0}).axes
    heights = [bar.get_height() for group in ax.containers for bar in group]
    assert np.allclose(heights, [81.25, NAN, 0], equal_nan=True)
    assert [text.get_text() for text in ax.texts] == ["81.2", "n/a", "0.0"]


@pytest.mark.parametrize("classes", [2, 21])
def test_bars_of_a_class_are_at_its_name_in_the_order_of_models(classes: int) -> None:
    rng = np.random.default_rng(0)
    scores = {model: [float(v) for v in rng.random(classes)] for model in ("suponly", "student_1", "stpp")}
    scores["stpp"][1] = NAN
    (ax,) = plots._per_class(scores, tuple(f"c{i}" for i in range(classes))).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"c{i}" for i in range(classes)]
    for values, group in zip(scores.values(), ax.containers, strict=True):
        assert np.allclose([bar.get_width() for bar in group], 100 * np.array(values), equal_nan=True)
    middles = [[bar.get_y() + bar.get_height() / 2 for bar in group] for group in ax.containers]
    assert all(np.array_equal(np.round(row), np.arange(classes)) for row in middles)
    assert np.all(np.diff(middles, axis=0) > 0)
    assert sum(text.get_text() == "n/a" for text in ax.texts) == 1
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_texts()[2].get_text() == f"ST++: mIoU {100 * np.nanmean(scores['stpp']):.1f}"


def test_rows_of_the_confusion_matrix_are_percentages_of_the_true_class() -> None:
    ax, _ = plots._confusion([[3, 1, 0], [0, 0, 0], [1, 0, 1]], CLASSES).axes
    shown = np.ma.filled(ax.images[0].get_array(), NAN)
    assert np.allclose(shown, [[75, 25, 0], [NAN] * 3, [50, 0, 50]], equal_nan=True)
    assert [t.get_text() for t in ax.texts] == ["75.0", "25.0", "0", "n/a", "n/a", "n/a", "50.0", "0", "50.0"]


def test_only_small_confusion_matrices_are_annotated() -> None:
    for classes, texts in ((12, 144), (13, 0), (120, 0)):
        ax, _ = plots._confusion(np.eye(classes, dtype=int).tolist(), tuple(map(str, range(classes)))).axes
        assert len(ax.texts) == texts
        assert len(ax.get_xticks()) <= 48
        assert [t.get_text() for t in ax.get_xticklabels()] == [str(int(x)) for x in ax.get_xticks()]


@settings(deadline=None)
@given(st.text(), st.integers(2, 40))
def test_a_shown_name_is_one_printable_line_that_keeps_both_ends(name: str, length: int) -> None:
    shown = one_line(name, length)
    assert shown.isprintable() or "\ufffd" in shown
    assert len(shown) == min(len(name), length)
    assert not set(shown) & set("\n\r\t\x00\u202e\u2028")
    if name.isprintable() and len(name) > length > 2:
        assert shown[0] == name[0] and shown[-1] == name[-1]


def test_drawing_imports_neither_torch_nor_mlflow_nor_dvc_nor_pyplot() -> None:
    heavy = "{'torch', 'mlflow', 'dvc', 'matplotlib.pyplot'} & set(sys.modules)"
    code = f"import sys, stpp.report.plots, stpp.report.panels; print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("models", [1, 3, 8])
def test_the_legends_of_curves_cover_no_curve(models: int) -> None:
    falling = [CURVE[i] | {"epoch": f"{i + 1}"} for i in range(5)]
    drawn = plots.curves_figure({f"a model with a longer name {n}": falling for n in range(models)})
    drawn.set_layout_engine("constrained")
    drawn.draw_without_rendering()
    for ax in drawn.axes:
        legend = ax.get_legend()
        assert legend is not None
        for other in (ax, ax.xaxis.label, *ax.get_xticklabels()):
            assert not legend.get_window_extent().overlaps(other.get_window_extent())
        assert drawn.bbox.contains(*legend.get_window_extent().min)
