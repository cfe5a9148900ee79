"""Tests of figures over systems: they show the measured numbers, also if some systems were not run."""

from pathlib import Path

import pytest
from matplotlib.container import BarContainer
from matplotlib.text import Text
from PIL import Image

from stpp.paper.systems import SYSTEMS
from stpp.report import compare
from stpp.report.compare import FIGURES, Measured, draw, merge_metrics

MIOU = {name: 50.0 + i for i, name in enumerate(SYSTEMS)}
PSEUDO = {"reliable": 61.0, "unreliable": 43.0, "boosted": 47.0}
CURVE = [{"epoch": str(e), "train/loss": str(1 / e), "val/miou": str(10 * e)} for e in (1, 2, 3)]
IMAGES = {"reliable": 88, "unreliable": 87, "boosted": 87}
ALL = Measured(MIOU, PSEUDO, IMAGES, {"plain": CURVE, "st": CURVE})


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_png_of_readable_size_with_equal_bytes_for_equal_numbers(tmp_path: Path, name: str) -> None:
    for file in ("a.png", "b.png"):
        draw(name, ALL, "toy", tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.width >= 1000
        assert image.height >= 400


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_results_says_so(name: str) -> None:
    drawn = FIGURES[name](Measured())
    said = [text.get_text() for text in drawn.findobj(Text) if text.get_text()]
    assert said in (["no results for this figure yet"], ["no epoch trained yet"])


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("figure_3a", ["suponly", "plain", "st", "both_sets"]),
        (
            "figure_3b",
            ["plain"]
            + [f"{which}_{part}" for which in ("only", "no") for part in ("jitter", "grayscale", "blur", "cutout")]
            + ["st", "cutout_labeled"],
        ),
        ("figure_4", ["reliable", "unreliable", "boosted"]),
    ],
)
def test_a_bar_has_the_height_of_its_number_and_systems_that_were_not_run_have_none(
    name: str, models: list[str]
) -> None:
    for missing in (None, models[1]):
        miou = {k: v for k, v in MIOU.items() if k != missing}
        pseudo = {k: v for k, v in PSEUDO.items() if k != missing}
        (ax,) = FIGURES[name](Measured(miou, pseudo, IMAGES)).axes
        heights = [bar.get_height() for c in ax.containers if isinstance(c, BarContainer) for bar in c]
        expected = [(MIOU | PSEUDO)[model] for model in models if model != missing]
        assert heights == pytest.approx(expected)
        assert len(ax.get_xticklabels()) == len(expected)
        top = ax.get_ylim()[1]
        assert all(height < top for height in heights)


def test_figure_6_shows_the_stages_as_a_line_and_st_as_another() -> None:
    (ax,) = FIGURES["figure_6"](ALL).axes
    steps, other = ax.lines
    assert list(steps.get_ydata()) == pytest.approx([MIOU[m] for m in ("suponly", "student_1", "stpp")])
    assert set(other.get_ydata()) == {MIOU["st"]}
    low, high = ax.get_ylim()
    assert low < min(steps.get_ydata())
    assert high > max(steps.get_ydata())


def test_metrics_of_several_evaluations_are_merged_and_the_first_one_counts() -> None:
    first = {"val": {"suponly": {"miou": 40.0}}, "pseudo": {"reliable": {"miou": 60.0, "images": 3}}, "evaluation": "x"}
    second = {"val": {"suponly": {"miou": 10.0}, "st": {"miou": 50.0}}}
    assert merge_metrics([first, second], {}) == Measured(
        {"suponly": 40.0, "st": 50.0}, {"reliable": 60.0}, {"reliable": 3}, {}
    )


def test_a_figure_of_several_systems_names_the_data_set() -> None:
    titles = [compare._titled(name, ALL, "toy").get_suptitle() for name in ("figure_1", "figure_6")]
    assert titles == ["Training of 2 models: toy", "ST++ stage by stage: toy"]


def test_every_entry_of_looks_belongs_to_a_name_in_a_figure() -> None:
    names = {*MIOU, *PSEUDO}
    assert all(any(name.startswith(start) for name in names) for start in compare.LOOKS)
