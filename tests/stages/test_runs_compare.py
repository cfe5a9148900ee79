"""Tests of `stpp runs compare`: differences in parameters, code and data, and the results beside each other."""

import re
from pathlib import Path
from typing import Any

import pytest
from small import Project

from stpp.run.lineage import Content, Execution, as_json
from stpp.store.files import read_json, write_csv, write_json

CLASSES = ("road", "car", "sign")


def evaluated(folder: Path, model: str, ious: tuple[float, ...], *, lr: float = 0.1, **about: Any) -> Path:
    code = Content("stpp/engine/fit.py", about.pop("code", "a" * 32))
    behind = Execution("train", "x", (code,), {"params.yaml": {"train": {"lr": lr, "epochs": 3}}}, (), "", "")
    own = Execution("evaluate", "x", (), {"params.yaml": {"evaluate": {"flip": False}}}, (), "", "")
    miou = sum(ious) / len(ious)
    metrics = {
        "val": {"teacher": {"miou": 10}, model: {"miou": miou}},
        "test": {model: {"miou": miou / 2}},
        "pseudo": {"reliable": {"miou": 90, "images": 4}},
    }
    write_json(folder / "metrics.json", metrics)
    rows = [("val", "teacher", name, 10) for name in CLASSES]
    rows += [("val", model, name, iou) for name, iou in zip(CLASSES, ious, strict=True)]
    rows += [("test", model, name, iou / 2) for name, iou in zip(CLASSES, ious, strict=True)]
    write_csv(folder / "per_class.csv", ("set", "model", "class", "iou"), rows)
    about["lists"] = {"val": about.pop("val", "v" * 32)}
    record = {"stpp.data.digest": "d" * 32, "stpp.split.digest": "s" * 32, "lineage": as_json([own, behind])}
    write_json(folder / "run.json", record | {"unit": "%"} | about)
    return folder


def compare(project: Project, *words: str, rc: int = 0) -> str:
    output = project.run("stpp", "runs", "compare", *words, rc=rc)
    assert "Traceback" not in output
    return output


def test_differences_are_listed_and_every_class_is_side_by_side(project: Project) -> None:
    evaluated(project.folder / "a", "st", (50, 25, float("nan")), lr=0.1)
    evaluated(project.folder / "b", "stpp", (75, 12.5, 0), lr=0.2, code="b" * 32)
    output = compare(project, "a", "b")
    assert "parameters: 1 differ\n  params.yaml: train.lr: 0.1 -> 0.2" in output
    assert f"code: 1 differ\n  stpp/engine/fit.py: {'a' * 12} -> {'b' * 12}" in output
    assert "data and split: equal" in output
    assert output.endswith(
        "             ST  ST++  difference\n"
        "val mIoU      -  29.2           -\n"
        "  road     50.0  75.0       +25.0\n"
        "  car      25.0  12.5       -12.5\n"
        "  sign        -   0.0           -\n"
        "test mIoU     -  14.6           -\n"
        "  road     25.0  37.5       +12.5\n"
        "  car      12.5   6.2        -6.2\n"
        "  sign        -   0.0           -\n"
    )


def test_the_columns_of_one_system_are_named_by_what_differs(project: Project) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        evaluated(project.folder / name, "stpp", (50, 25, 50), lr=lr)
    assert re.search(r"\n +lr 0\.1 +lr 0\.2  difference\n", compare(project, "a", "b"))
    (project.folder / "b/run.json").unlink()
    assert re.search(r"\n +a +b  difference\n", compare(project, "a", "b"))


def test_a_run_of_an_older_version_has_fractions_and_is_shown_in_percent(project: Project) -> None:
    evaluated(project.folder / "a", "st", (0.5, 0.25, 0.5))
    about = read_json(project.folder / "a/run.json")
    write_json(project.folder / "a/run.json", {key: value for key, value in about.items() if key != "unit"})
    evaluated(project.folder / "b", "stpp", (50, 25, 50))
    output = compare(project, "a", "b")
    assert re.search(r"val mIoU +41\.7 +41\.7 +\+0\.0", output) and re.search(r"car +25\.0 +25\.0 +\+0\.0", output)


def test_equal_runs_are_reported_as_equal(project: Project) -> None:
    evaluated(project.folder / "a", "st", (50, 25, 50))
    output = compare(project, "a", "a")
    for what in ("parameters", "code", "data and split"):
        assert f"{what}: equal" in output
    assert re.search(r"val mIoU +41\.7 +41\.7 +\+0\.0", output)


def test_numbers_on_different_val_sets_are_reported_as_not_comparable(project: Project) -> None:
    evaluated(project.folder / "a", "st", (50, 25, 50))
    evaluated(project.folder / "b", "st", (50, 25, 50), val="w" * 32)
    output = compare(project, "a", "b")
    assert "these numbers cannot be compared" in output
    assert f"list val: {'v' * 12} -> {'w' * 12}" in output


def test_metrics_alone_are_enough_for_the_numbers(project: Project) -> None:
    evaluated(project.folder / "a/evaluation", "st", (50, 25, 50))
    evaluated(project.folder / "b", "stpp", (50, 25, 50))
    (project.folder / "a/evaluation/run.json").unlink()
    output = compare(project, "a", "b")
    assert "parameters and code of a/evaluation are not known" in output
    assert "road" in output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "not what `stpp evaluate` writes"),
        ('{"val": []}', "not what `stpp evaluate` writes"),
        ('{"val": {"st": {}}}', "not what `stpp evaluate` writes"),
        ("[", "not readable"),
    ],
)
def test_a_damaged_folder_is_named(project: Project, text: str, said: str) -> None:
    evaluated(project.folder / "a", "st", (50, 25, 50))
    evaluated(project.folder / "b", "st", (50, 25, 50))
    (project.folder / "b/metrics.json").write_text(text)
    assert said in compare(project, "a", "b", rc=2)


def test_the_error_names_an_argument_that_is_neither_a_folder_nor_a_run(project: Project) -> None:
    evaluated(project.folder / "a", "st", (50, 25, 50))
    (project.folder / "b").mkdir()
    assert "b: has no metrics.json" in compare(project, "a", "b", rc=2)
    assert "no MLflow runs: " in compare(project, "a", "0" * 32, rc=2)
    for word in ("nowhere", "runs/nowhere", "0" * 5, "0" * 33):
        for command in (("runs", "compare", "a"), ("audit",)):
            output = project.run("stpp", *command, word, rc=2)
            assert f"error: {word}: no such file or folder, and no MLflow runs: " in output
