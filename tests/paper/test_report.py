"""Tests of reports of the paper's tables: they read only files, and contain only what was run."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stpp.paper import report, results
from stpp.paper.plan import setting_params
from stpp.paper.published import TABLES, table
from stpp.paper.systems import SYSTEMS
from stpp.params.file import load, overlays_of, read_yaml
from stpp.report.grid import Grid
from stpp.store.files import StppError, write_json


def cell(folder: Path, name: str, setting: str, system: str, seed: int, miou: float, /, **more: Any) -> None:
    result = {
        "setting": setting,
        "system": system,
        "seed": seed,
        "commit": "c",
        "unit": "%",
        "metrics": {"val": {system: {"miou": miou}}},
        "evaluation": "original resolution, whole images, one scale",
        "keep": "last",
        "params": {"train.seed": seed, "train.lr": 0.001},
        "split_digest": "s",
        "data_digest": "d",
        "finished": "2030-01-01T00:00:00+00:00",
    }
    write_json(results.path_of(folder, name, setting, system, seed), result | more)


@pytest.mark.parametrize("name", TABLES)
def test_cells_without_runs_are_reported_as_not_run_and_never_as_published(tmp_path: Path, name: str) -> None:
    rows = report.rows(table(name), results.of_table(tmp_path, name)[0])
    assert rows
    for row in rows:
        fields = dict(zip(report.HEADER, row.fields(), strict=True))
        assert fields["ours"] == report.NOT_RUN
        assert (fields["deviation"], fields["n"], fields["difference"]) == ("", "0", "")
        assert fields["seeds"] == ""
    assert sum(row.published is not None for row in rows) == len(table(name).numbers)


def grids_of(folder: Path, name: str, setting: str) -> dict[str, list[dict[str, str]]]:
    """Return the evidence over the seeds of a setting. Each row is a dict with the names in the header."""
    found = report.grids(table(name), results.of_table(folder, name)[0])[setting]
    return {grid.title: [dict(zip(grid.header, row, strict=True)) for row in grid.rows] for grid in found}


def test_systems_are_compared_over_seeds_if_there_are_two_or_more(tmp_path: Path) -> None:
    numbers = {"suponly": (50, 60, 70), "st": (53, 62, 74), "stpp": (52, 66)}
    for system, values in numbers.items():
        for seed, miou in enumerate(values):
            cell(tmp_path, "table-1", "own", system, seed, miou)
    cell(tmp_path, "table-1", "pascal-1_8-deeplabv3plus-resnet50", "st", 0, 70)
    seeds, claims = grids_of(tmp_path, "table-1", "own").values()
    assert [list(row.values()) for row in seeds] == [
        ["SupOnly", "val", "50.0", "60.0", "70.0", "60.0", "10.0"],
        ["ST", "val", "53.0", "62.0", "74.0", "63.0", "10.5"],
        ["ST++", "val", "52.0", "66.0", "", "59.0", "9.9"],
    ]
    assert [list(row.values()) for row in claims] == [
        ["ST above SupOnly", "val", "+3.0", "+0.5 to +5.5", "3 of 3", "holds"],  # 3 +- 4.303 * 1 / sqrt(3)
        ["ST++ above SupOnly", "val", "+4.0", "-21.4 to +29.4", "2 of 2", "open"],
        ["ST++ above ST", "val", "+1.5", "-30.3 to +33.3", "1 of 2", "open"],
    ]
    assert list(grids_of(tmp_path, "table-1", "pascal-1_8-deeplabv3plus-resnet50")) == ["Every seed"]


def test_a_cell_has_every_model_mask_set_and_class_of_its_run(tmp_path: Path) -> None:
    for seed in (0, 1):
        numbers = {
            "miou": {
                "val": {"suponly": 50, "stpp": 60 - 10 * seed},
                "test": {"suponly": 40, "stpp": 30},
                "masks": {"unreliable": 20, "reliable": 30 + seed},
            },
            "correlation": 0.5 + seed / 10,
            "classes": {"val": {"suponly": {"cat": 50}, "stpp": {"cat": 25, "dog": 50 * seed}}},
        }
        cell(tmp_path, "table-1", "own", "stpp", seed, 60 - 10 * seed, numbers=numbers)
    seeds, claims, classes = grids_of(tmp_path, "table-1", "own").values()
    assert {(row["mIoU in %"], row["on"]): row["mean"] for row in seeds} == {
        ("SupOnly", "val"): "50.0",
        ("ST++", "val"): "55.0",
        ("SupOnly", "test"): "40.0",
        ("ST++", "test"): "30.0",
        ("unreliable, by the teacher", "masks"): "20.0",
        ("reliable, by the teacher", "masks"): "30.5",
        ("rank correlation of stability and quality", "masks"): "0.55",
    }
    assert {(row["claim"], row["on"]): row[""] for row in claims} == {
        ("ST++ above SupOnly", "val"): "open",
        ("ST++ above SupOnly", "test"): "reversed",
        ("reliable masks above the others", "masks"): "holds",
    }
    assert classes == [
        {"IoU in %": "cat", "SupOnly": "50.0", "ST++": "25.0"},
        {"IoU in %": "dog", "SupOnly": "", "ST++": "25.0"},
    ]


def test_our_number_is_the_mean_over_seeds_with_the_sample_deviation(tmp_path: Path) -> None:
    setting = "pascal-1_8-deeplabv3plus-resnet50"
    for seed, miou in enumerate((73.0, 73.6, 74.5)):
        cell(tmp_path, "table-4", setting, "blind", seed, miou)
    cell(tmp_path, "table-4", setting, "st", 0, 73.33)
    found, _ = results.of_table(tmp_path, "table-4")
    rows = {(r.labels, r.system): r.fields() for r in report.rows(table("table-4"), found)}
    assert rows["1/8 (1323)", "blind two-stage"][3:] == ("73.9", "73.7", "0.8", "3", "-0.2", "73.0 73.6 74.5")
    assert rows["1/8 (1323)", "ST"][3:] == ("73.3", "73.3", "", "1", "+0.0", "73.3")
    assert rows["1/4 (2645)", "ST"][4] == report.NOT_RUN


def test_a_result_of_an_older_version_has_fractions_and_is_read_in_percent(tmp_path: Path) -> None:
    numbers = {"miou": {"val": {"st": 0.5}}, "correlation": 0.5, "classes": {"val": {"st": {"cat": 0.25}}}}
    cell(tmp_path, "table-1", "own", "st", 0, 0.5, unit=None, numbers=numbers)
    cell(tmp_path, "table-1", "own", "suponly", 0, 0.25, unit=None)
    seeds, classes = grids_of(tmp_path, "table-1", "own").values()
    correlation = "rank correlation of stability and quality"
    assert {row["mIoU in %"]: row["mean"] for row in seeds} == {"SupOnly": "25.0", "ST": "50.0", correlation: "0.50"}
    assert classes == [{"IoU in %": "cat", "ST": "25.0"}]
    assert [row.ours for row in report.rows(table("table-1"), results.of_table(tmp_path, "table-1")[0])][-3:-1] == [
        (25,),
        (50,),
    ]


@pytest.mark.parametrize("change", [{"metrics": {"val": {"st": {"miou": 55.0}}}}, {"unit": "points"}])
def test_a_result_of_another_unit_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    cell(tmp_path, "table-1", "own", "st", 0, 0.5, **{"unit": None} | change)
    with pytest.raises(StppError, match=r"0\.json: (metrics\.val\.st\.miou|unit): Input should be"):
        results.of_table(tmp_path, "table-1")


def test_own_data_has_rows_without_a_published_number(tmp_path: Path) -> None:
    cell(tmp_path, "table-1", "mine-half-pspnet-resnet18", "st", 0, 50)
    rows = report.rows(table("table-1"), results.of_table(tmp_path, "table-1")[0])
    own = [row for row in rows if row.labels == "mine-half-pspnet-resnet18"]
    assert [row.published for row in own] == [None] * 3
    assert [row.fields()[4] for row in own] == [report.NOT_RUN, "50.0", report.NOT_RUN]
    assert all(row.fields()[7] == "" for row in own)


def test_every_format_has_the_same_fields(tmp_path: Path) -> None:
    cell(tmp_path, "table-3", "cityscapes-1_8-deeplabv3plus-resnet50", "stpp", 0, 72)
    found, left_out = results.of_table(tmp_path, "table-3")
    rows, notes = report.rows(table("table-3"), found), report.notes(found, left_out)
    shown, fields = report.table_of(table("table-3"), rows), [row.fields() for row in rows]
    assert [tuple(line) for line in csv.reader(io.StringIO(report.as_csv(rows)))][1:] == fields
    of_markdown = [
        tuple(part.strip() for part in line.strip("|").split("|"))
        for line in report.markdown(shown, {}, notes).splitlines()
        if line.startswith("| ")
    ]
    assert of_markdown[1:] == fields
    page = report.as_html(shown, {}, notes)
    assert page.count("<tr>") == len(rows) + 1
    assert all(f"<td>{field}</td>" in page for row in fields for field in row)
    assert "whole images" in page


def test_names_are_escaped_in_the_page(tmp_path: Path) -> None:
    rows = [report.Row("", "<script>alert(1)</script>", "a|b", None, ())]
    shown = report.table_of(table("table-1"), rows)
    below = {"<script>": [Grid("<script>", ["<script>"], [["<script>"]])]}
    assert "<script>" not in report.as_html(shown, below, ["<script>"])
    assert "| a/b |" in report.markdown(shown, {}, [])


def test_a_finished_cell_counts_only_with_the_same_parameters_and_lists(tmp_path: Path) -> None:
    params, lists = setting_params(load([Path("params.yaml")])), {"splits/a.txt": "1"}
    cell(tmp_path, "table-1", "s", "st", 0, 70, params=params, lists=lists)
    assert results.finished(tmp_path, "s", "st", 0, {"params": params, "lists": lists}) is not None
    assert results.finished(tmp_path, "s", "st", 0, {"params": params | {"train.lr": 0.002}, "lists": lists}) is None
    assert results.finished(tmp_path, "s", "st", 0, {"params": params, "lists": {"splits/a.txt": "2"}}) is None
    assert results.finished(tmp_path, "s", "st", 1, {"params": params, "lists": lists}) is None


def test_an_older_cell_counts_with_the_defaults_of_parameters_that_it_lacks(tmp_path: Path) -> None:
    setting, params = "own", setting_params(load([Path("params.yaml")]))
    params.pop("data.root")
    old = {key: value for key, value in params.items() if key not in ("train.val_points", "split.stratify")}
    cell(tmp_path, "table-1", setting, "st", 0, 70, params=old)
    for points, stratify, found in ((None, False, True), (5, False, False), (None, True, False)):
        expected = params | {"train.val_points": points, "split.stratify": stratify}
        assert (results.finished(tmp_path, setting, "st", 0, {"params": expected}) is not None) == found
    cell(tmp_path, "table-1", setting, "st", 1, 80, params=params | {"train.seed": 1, "train.val_points": None})
    assert len(results.of_table(tmp_path, "table-1")[0][setting, "st"]) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"params": {"train.seed": 0, "train.lr": 0.1}},
        {"split_digest": "x"},
        {"data_digest": "x"},
        {"files": {"weights/start.pth": "x"}},
    ],
)
def test_a_mean_is_never_taken_over_runs_that_differ_in_more_than_the_seed(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    setting = "pascal-1_8-deeplabv3plus-resnet50"
    cell(tmp_path, "table-4", setting, "st", 0, 60, **other)
    for seed in (1, 2):
        cell(tmp_path, "table-4", setting, "st", seed, 70, finished="2030-01-02T00:00:00+00:00")
    found, left_out = results.of_table(tmp_path, "table-4")
    (row,) = (r for r in report.rows(table("table-4"), found) if r.ours)
    assert row.ours == (70.0, 70.0)
    assert [path.name for path in left_out] == ["0.json"]
    assert any("Left out" in note and "0.json" in note for note in report.notes(found, left_out))


def test_a_cell_counts_in_the_report_of_every_table_that_has_it(tmp_path: Path) -> None:
    setting = "pascal-1_8-deeplabv3plus-resnet50"
    cell(tmp_path, "table-1", setting, "st", 0, 70)
    cell(tmp_path, "table-5", setting, "st", 0, 71, finished="2030-01-02T00:00:00+00:00")
    cell(tmp_path, "table-1", "own-mine-half-pspnet-resnet18", "st", 0, 50)
    for name in ("table-1", "table-4", "table-5", "table-6"):
        rows = report.rows(table(name), results.of_table(tmp_path, name)[0])
        assert [r.ours for r in rows if (r.labels, r.system, r.published) == ("1/8 (1323)", "ST", 73.3)] == [(71.0,)]
        assert bool([r for r in rows if "own-" in r.labels]) == (name == "table-1")


def test_runs_with_different_overlays_are_not_averaged(tmp_path: Path) -> None:
    setting = "pascal-1_8-deeplabv3plus-resnet50"
    for seed, threshold in ((0, 0.5), (1, 0.9)):
        overlay = {"label": {"threshold": threshold}}
        finished = f"2030-01-0{seed + 1}T00:00:00+00:00"
        cell(tmp_path, "table-6", setting, "pixel_1", seed, 60 + 10 * seed, overlay=overlay, finished=finished)
    found, left_out = results.of_table(tmp_path, "table-6")
    (row,) = (r for r in report.rows(table("table-6"), found) if r.ours)
    assert row.ours == (70.0,)
    assert [path.name for path in left_out] == ["0.json"]


def test_other_files_among_the_results_are_ignored(tmp_path: Path) -> None:
    cell(tmp_path, "table-1", "own-mine", "st", 0, 50)
    write_json(tmp_path / "table-1/own-mine/st/notes.json", {"why": "to remember"})
    assert len(results.of_table(tmp_path, "table-1")[0]["own-mine", "st"]) == 1


def test_the_overlay_of_a_result_is_the_one_that_its_pipeline_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    seen = 0
    for name, system in SYSTEMS.items():
        pipeline, _, one = system.target.partition(":")
        key = one.partition("@")[2]
        text = (root / pipeline).read_text().replace("${item}", key).replace("${key}", key)
        named = set(re.findall(r"--params (pipelines/\S+)", text))
        assert overlays_of(system.target) == {Path(file).stem: read_yaml(Path(file)) for file in named}, name
        seen += len(named)
    assert seen > 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "it is the result of pascal-1_8-deeplabv3plus-resnet50/st, seed 1"),
        ({"params": {"train.seed": 7}}, "it was trained with train.seed 7"),
        ({"system": "stpp"}, "it is the result of pascal-1_8-deeplabv3plus-resnet50/stpp"),
        ({"setting": "another"}, "it is the result of another/st"),
        ({"metrics": {"val": {"stpp": {"miou": 50}}}}, "metrics.val.st is missing"),
        (
            {"metrics": {"val": {"st": {"miou": 155.0}}}},
            "metrics.val.st.miou: Input should be less than or equal to 100",
        ),
        ({"metrics": {"val": {"st": {"miou": float("nan")}}}}, "metrics.val.st.miou: Input should be"),
        ({"metrics": {"val": {"st": {"miou": "high"}}}}, "metrics.val.st.miou: Input should be a valid number"),
        ({"finished": None}, "finished: Input should be a valid string"),
        ({"params": []}, "params: Input should be a valid dictionary"),
    ],
)
def test_a_result_that_contradicts_its_path_or_itself_is_named(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """For example, a result that was copied to another seed would count twice."""
    setting = "pascal-1_8-deeplabv3plus-resnet50"
    cell(tmp_path, "table-4", setting, "st", 0, 70, **change)
    with pytest.raises(StppError) as error:
        results.of_table(tmp_path, "table-4")
    assert f"{tmp_path}/table-4/{setting}/st/0.json: " in str(error.value)
    assert said in str(error.value)
    assert "remove it" in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "1"])
def test_the_error_for_a_damaged_result_has_a_remedy(tmp_path: Path, text: str) -> None:
    path = results.path_of(tmp_path, "table-4", "s", "st", 0)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StppError, match="remove it"):
        results.finished(tmp_path, "s", "st", 0, {})


def test_a_note_names_the_commits_if_there_are_several(tmp_path: Path) -> None:
    setting = "pascal-1_8-deeplabv3plus-resnet50"
    for seed, commit in enumerate(("aaaa", "bbbb")):
        cell(tmp_path, "table-4", setting, "st", seed, 70, commit=commit)
    notes = report.notes(*results.of_table(tmp_path, "table-4"))
    assert "The code is that of 2 commits: aaaa, bbbb." in notes


def test_reports_are_written_even_if_the_reader_of_the_output_stops(tmp_path: Path) -> None:
    reading = f"{sys.executable} -m stpp paper report | head -n 1"
    env = os.environ | {"STPP_TRACKING": "off"}
    subprocess.run(["bash", "-c", reading], cwd=tmp_path, env=env, check=True, capture_output=True)
    written = {path.name for path in (tmp_path / "results/report").iterdir()}
    assert written == {f"{name}.{suffix}" for name in TABLES for suffix in ("md", "csv", "html")}
