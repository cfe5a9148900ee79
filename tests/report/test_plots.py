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
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from stpp.paper.systems import SYSTEMS
from stpp.report import plots
from stpp.report.compare import FIGURES, Measured
from stpp.report.labels import LABELS, one_line
from stpp.store.files import UNSEEN

NAN = math.nan
CLASSES = ("background", "disk", "ring")
ON = "toy, val, n = 5"
CURVE = [{"epoch": f"{e}.0", "train/loss": f"{2 / e}", "val/miou": f"{10 * e}"} for e in range(1, 6)]
SCORES = {f"i{n}": n / 10 for n in range(11)}
BINS = [
    {"pixels": f"{n}", "accuracy": f"{right}", "confidence": f"{sure}"}
    for n, right, sure in ((30, 40, 50), (0, NAN, NAN), (70, 90, 80))
]
RELIABLE = {"i8", "i9", "i10"}
HOSTILE = ("$x^2$", "$\\frac$", "_hidden", "a\nb\t\x00", "\ud800", "天", "\u202eabc", "", "x" * 300, "%s {0}", "\\")

Draw = Callable[[Path], None]
ORDINARY: dict[str, Draw] = {
    "curves": lambda path: plots.curves({"teacher": CURVE, "student": CURVE[:3]}, ON, path),
    "stability": lambda path: plots.stability(SCORES, RELIABLE, {"i1": 20, "i3": 50, "i9": 40}, ON, path),
    "quality": lambda path: plots.quality({"reliable": (80, 88), "boosted": (60, 9)}, ON, path),
    "per_class": lambda path: plots.per_class({"suponly": [50, 20, 90], "stpp": [60, 30, 90]}, CLASSES, ON, path),
    "reliability": lambda path: plots.reliability({"suponly": BINS, "stpp": BINS[:1]}, {"stpp": 2}, ON, path),
    "confusion": lambda path: plots.confusion([[9, 1, 0], [2, 5, 5], [0, 0, 7]], CLASSES, ON, path),
}
HARD: dict[str, Draw] = {
    "no model": lambda path: plots.curves({}, ON, path),
    "no epoch": lambda path: plots.curves({"teacher": []}, ON, path),
    "one model without an epoch": lambda path: plots.curves({"teacher": CURVE, "student": []}, ON, path),
    "one epoch": lambda path: plots.curves({"teacher": CURVE[:1]}, ON, path),
    "no miou": lambda path: plots.curves({"teacher": [{"epoch": "1", "train/loss": "nan", "val/miou": ""}]}, ON, path),
    "no scores": lambda path: plots.stability({}, set(), {"i1": 50}, ON, path),
    "scores of NaN": lambda path: plots.stability({"a": NAN}, {"a"}, {"a": 50}, ON, path),
    "equal scores": lambda path: plots.stability({"a": 1.0, "b": 1.0}, {"a"}, {"a": 50, "b": NAN}, ON, path),
    "a score above 1": lambda path: plots.stability({"a": 1.0000001}, {"a"}, {}, ON, path),
    "no group": lambda path: plots.quality({}, ON, path),
    "quality of NaN": lambda path: plots.quality({"reliable": (NAN, 0)}, ON, path),
    "no system": lambda path: plots.per_class({}, CLASSES, ON, path),
    "no class": lambda path: plots.per_class({"stpp": []}, (), ON, path),
    "classes of NaN": lambda path: plots.per_class({"stpp": [NAN, NAN, NAN]}, CLASSES, ON, path),
    "no model with confidence": lambda path: plots.reliability({}, {}, ON, path),
    "confidence of no pixel": lambda path: plots.reliability({"stpp": BINS[1:2]}, {"stpp": NAN}, ON, path),
    "no pixels": lambda path: plots.confusion([[0, 0], [0, 0]], ("a", "b"), ON, path),
    "one class": lambda path: plots.confusion([[3]], ("a",), ON, path),
    "no classes": lambda path: plots.confusion([], (), ON, path),
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
    values = [50.0] * len(HOSTILE)
    plots.curves(dict.fromkeys(HOSTILE, CURVE), ON, tmp_path / "curves.png")
    plots.quality(dict.fromkeys(HOSTILE, (50, 3)), ON, tmp_path / "quality.png")
    plots.per_class({"$_$": values, "_": values}, HOSTILE, ON, tmp_path / "per_class.png")
    plots.confusion(np.eye(len(HOSTILE), dtype=int).tolist(), HOSTILE, ON, tmp_path / "confusion.png")
    assert all(size(path)[0] == 1045 for path in tmp_path.iterdir())
    plots.quality({"$a$": (50, 3)}, ON, tmp_path / "dollars.png")
    plots.quality({"a": (50, 3)}, ON, tmp_path / "none.png")
    plots.quality({"$\\mathrm{a}$": (50, 3)}, ON, tmp_path / "upright.png")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in ("dollars", "none", "upright")}) == 3


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "per_class.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="stpp: 1 values for 3 classes"):
        plots.per_class({"stpp": [50]}, CLASSES, ON, path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_every_model_has_a_legend_entry_and_its_own_style() -> None:
    names = ["teacher", "student_1", "student", "_x", "$"]
    figure = plots.curves_figure(dict.fromkeys(names, CURVE), ON)
    assert [text.split(":")[0].strip() for text in legend_of(figure)] == [LABELS.get(name, name) for name in names]
    for ax in figure.axes:
        assert len({line.get_color() for line in ax.lines}) == len(names)
        assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == len(names)


def test_curves_show_loss_and_miou_in_percent_by_epoch() -> None:
    figure = plots.curves_figure({"teacher": CURVE}, ON)
    loss, miou = figure.axes
    assert np.allclose(loss.lines[0].get_xydata(), [(e, 2 / e) for e in range(1, 6)])
    assert np.allclose(miou.lines[0].get_xydata(), [(e, 10 * e) for e in range(1, 6)])
    assert legend_of(figure) == ["Teacher (SupOnly): loss 0.400, mIoU 50.0"]


def test_titles_name_the_model_the_data_set_and_the_number_of_images() -> None:
    half = [50.0] * 3
    figures = {
        "Training of ST++ on toy, val, n = 5": plots.curves_figure({"stpp": CURVE}, ON),
        "IoU by class: 2 models on toy, val, n = 5": plots._per_class({"st": half, "stpp": half}, CLASSES, ON),
        "True and predicted class: ST on toy, val, n = 5": plots._confusion([[1]], ("a",), f"ST on {ON}"),
        "Reliability of the confidence: ST on toy, val, n = 5": plots._reliability({"st": BINS}, {}, ON),
        "Stability of the teacher on unlabelled images of toy, n = 11": plots._stability(SCORES, RELIABLE, {}, "toy"),
        "Quality of the pseudo masks of unlabelled images of toy, n = 2": plots._quality_histogram(
            {"teacher": [10, NAN, 20]}, "toy"
        ),
        "Pseudo masks of toy against true masks": plots._quality({"reliable": (50, 7)}, "toy"),
    }
    assert [figure.get_suptitle() for figure in figures.values()] == list(figures)
    (name,) = figures["Pseudo masks of toy against true masks"].axes[0].get_xticklabels()
    assert name.get_text() == "reliable, by the teacher\nn = 7"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1) | st.just(NAN), min_size=1), st.data())
def test_the_histogram_counts_every_scored_image_once(scores: dict[str, float], data: st.DataObject) -> None:
    reliable = data.draw(st.sets(st.sampled_from(sorted(scores))))
    figure = plots._stability(scores, reliable, {}, "toy")
    known = {name for name, value in scores.items() if not math.isnan(value)}
    if not known:
        assert not figure.axes
        return
    (ax,) = figure.axes
    counted = [sum(bar.get_height() for bar in group) for group in ax.containers]
    assert counted == [len(known - reliable), len(known & reliable)]
    assert ax.get_ylim()[1] >= 1.05 * max(bar.get_y() + bar.get_height() for group in ax.containers for bar in group)
    for below, above in zip(*ax.containers, strict=True):
        assert above.get_y() == below.get_height()  # the bars are stacked, so neither hides the other


def test_the_scatter_plot_has_the_images_with_both_numbers_on_equal_axes() -> None:
    quality = {"i1": 30, "i2": 20, "i9": 90, "i10": NAN, "other": 50}
    _, ax = plots._stability({**SCORES, "i2": NAN, "i3": 0.3}, RELIABLE, quality | {"i3": 40}, "toy").axes
    points = [p for group in ax.collections if isinstance(group, PathCollection) for p in group.get_offsets()]
    assert np.allclose(points, [(0.1, 30), (0.3, 40), (0.9, 90)])
    assert ax.get_title() == "Spearman rank correlation 1.00, n = 3"
    assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == ((0, 1), (0, 100), 0.01)  # a square


def test_the_threshold_is_shown_if_all_reliable_images_are_above_it() -> None:
    figure = plots._stability(SCORES, RELIABLE, dict.fromkeys(SCORES, 50), "toy")
    assert [line.get_xdata() for ax in figure.axes for line in ax.lines] == [[0.8, 0.8], [0.8, 0.8]]
    assert "threshold 0.800" in legend_of(figure)
    by_chance = plots._stability(SCORES, {"i1", "i9"}, {}, "toy")
    assert not by_chance.axes[0].lines and legend_of(by_chance) == ["unreliable (9)", "reliable (2)"]


def test_bars_have_the_height_of_the_quality_written_above_them() -> None:
    (ax,) = plots._quality({"reliable": (81.25, 3), "boosted": (NAN, 0), "rest": (0.0, 1)}, "toy").axes
    heights = [bar.get_height() for group in ax.containers for bar in group]
    assert np.allclose(heights, [81.25, 0, 0])
    assert [text.get_text() for text in ax.texts] == ["81.2", "n/a", "0.0"]


@pytest.mark.parametrize("classes", [2, 21, 61])
def test_bars_of_a_class_are_at_its_name_in_the_order_of_models(classes: int) -> None:
    rng = np.random.default_rng(0)
    scores = {model: [float(v) for v in 100 * rng.random(classes)] for model in ("suponly", "student_1", "stpp")}
    scores["stpp"][1] = NAN
    figure = plots._per_class(scores, tuple(f"c{i}" for i in range(classes)), ON)
    names = [text.get_text() for ax in figure.axes for text in ax.get_yticklabels()]
    assert names == [f"c{i}" for i in range(classes)]
    for index, values in enumerate(scores.values()):
        widths = [bar.get_width() for ax in figure.axes for bar in ax.containers[index]]
        assert np.allclose(widths, np.nan_to_num(values))
    for ax in figure.axes:
        middles = [[bar.get_y() + bar.get_height() / 2 for bar in group] for group in ax.containers]
        assert all(np.array_equal(np.round(row), ax.get_yticks()) for row in middles)
        assert np.all(np.diff(middles, axis=0) > 0)
    assert sum(text.get_text() == "n/a" for ax in figure.axes for text in ax.texts) == 1
    assert legend_of(figure)[2] == f"ST++: mIoU {np.nanmean(scores['stpp']):.1f}"


def test_reliability_shows_accuracy_and_share_of_pixels_over_the_confidence_of_the_bins_that_have_pixels() -> None:
    figure = plots._reliability({"stpp": BINS}, {"stpp": 10}, ON)
    (_, curve), (shares,) = (ax.lines for ax in figure.axes)
    assert np.allclose(curve.get_xydata(), [(50, 40), (80, 90)])
    assert np.allclose(shares.get_xydata(), [(50, 30), (80, 70)])
    assert legend_of(figure) == ["accuracy = confidence", "ST++: calibration error 10.0"]


def test_rows_of_the_confusion_matrix_are_percentages_of_the_true_class() -> None:
    ax, _ = plots._confusion([[3, 1, 0], [0, 0, 0], [1, 0, 1]], CLASSES, ON).axes
    shown = np.ma.filled(ax.images[0].get_array(), NAN)
    assert np.allclose(shown, [[75, 25, 0], [NAN] * 3, [50, 0, 50]], equal_nan=True)
    assert [t.get_text() for t in ax.texts] == ["75.0", "25.0", "0", "n/a", "n/a", "n/a", "50.0", "0", "50.0"]


def test_only_small_confusion_matrices_are_annotated() -> None:
    for classes, texts in ((12, 144), (24, 576), (25, 0), (120, 0)):
        ax, _ = plots._confusion(np.eye(classes, dtype=int).tolist(), tuple(map(str, range(classes))), ON).axes
        assert len(ax.texts) == texts
        assert len(ax.get_xticks()) == min(classes, 60)
        assert [t.get_text() for t in ax.get_xticklabels()] == [str(int(x)) for x in ax.get_xticks()]


def assert_texts_are_apart(figure: Figure) -> None:
    """Assert that the visible texts of a figure lie inside it, and that no two of them cover the same pixel."""
    figure.draw_without_rendering()
    hidden = set()  # labels of ticks outside the limits of their axis, which are not drawn
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    texts = {text for text in figure.findobj(Text) if text.get_visible() and text.get_text()} - hidden
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert len(boxes) > 5
    covered = np.zeros((int(figure.bbox.height) + 1, int(figure.bbox.width) + 1), dtype=bool)
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
        place = np.s_[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)]
        assert not covered[place].any(), text
        covered[place] = True


@pytest.mark.parametrize("name", ["class {}", "a class with a name that is long {}"])
@pytest.mark.parametrize("classes", [2, 6, 21, 60])
def test_no_text_of_a_figure_overlaps_another_or_is_cut(name: str, classes: int) -> None:
    names = tuple(name.format(i) for i in range(classes))
    models = ("suponly", "a model with a longer name", "another model with a long name")
    values = {model: [10 * (7 * i % 11) for i in range(classes)] for model in models}
    matrix = np.full((classes, classes), 2) + 90 * np.eye(classes, dtype=int)
    matrix[1] = 0
    on = "a data set with a long name, val, n = 1449"
    with plots.matplotlib.style.context(["default", plots.STYLE]):
        for figure in (plots._per_class(values, names, on), plots._confusion(matrix.tolist(), names, f"ST++ on {on}")):
            assert_texts_are_apart(figure)


def test_no_text_of_the_other_figures_overlaps_another_or_is_cut() -> None:
    models = [f"a model with a longer name {n}" for n in range(8)]
    groups = ["reliable", "boosted", "pixel_confident", "pixel_all", "for_round_1"]
    high = dict.fromkeys(SCORES, 1.0)
    systems = Measured(
        dict.fromkeys(SYSTEMS, 50),
        dict.fromkeys(groups, 50),
        dict.fromkeys(groups, 9),
        dict.fromkeys(("plain", "st"), CURVE),
    )
    with plots.matplotlib.style.context(["default", plots.STYLE]):
        for figure in (
            plots.curves_figure({"stpp": CURVE}, ON),
            plots.curves_figure(dict.fromkeys(models, CURVE), ON),
            plots._reliability(dict.fromkeys(models, BINS), {}, ON),
            plots._stability(SCORES, RELIABLE, dict.fromkeys(SCORES, 100), "a data set with a long name"),
            plots._stability(high, set(SCORES), {}, "toy"),
            plots._quality(dict.fromkeys(groups[:2], (100, 88)), "toy"),
            plots._quality(dict.fromkeys(groups, (100, 88)), "toy"),
            plots._quality_histogram({"teacher": [100] * 9}, "toy"),
            *(draw(systems) for draw in FIGURES.values()),
        ):
            assert_texts_are_apart(figure)


@settings(deadline=None)
@given(st.text(), st.integers(2, 40))
def test_a_shown_name_is_one_printable_line_that_keeps_both_ends(name: str, length: int) -> None:
    shown = one_line(name, length)
    assert not UNSEEN.search(shown)
    assert len(shown) == min(len(name), length)
    assert not set(shown) & set("\n\r\t\x00\u202e\u2028")
    if name.isprintable() and len(name) > length > 2:
        assert shown[0] == name[0] and shown[-1] == name[-1]


def test_drawing_imports_neither_torch_nor_mlflow_nor_dvc_nor_pyplot() -> None:
    heavy = "{'torch', 'mlflow', 'dvc', 'matplotlib.pyplot'} & set(sys.modules)"
    code = f"import sys, stpp.report.plots, stpp.report.panels; print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
