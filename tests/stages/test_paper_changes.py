"""Tests of the changes that `paper run` passes to `dvc exp run -S`; DVC's own parser reads them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides

from stpp.paper.plan import expected_of, files_of, seeded_with
from stpp.paper.published import SETTINGS, params_of
from stpp.params.file import load
from stpp.params.models import Params
from stpp.stages.paper import _changes

ROOT = Path(__file__).resolve().parents[2]
PRESENT = [ROOT / "params.yaml", ROOT / "pipelines/presets/camvid.yaml"]


def applied(params: Params) -> Params:
    words = [word for values in to_path_overrides(_changes(params)).values() for word in values]
    apply_overrides("params.yaml", words)
    return load([Path("params.yaml")])


@pytest.mark.parametrize("present", PRESENT, ids=lambda p: p.stem)
@pytest.mark.parametrize("name", [*SETTINGS][::4])
def test_the_parameters_of_an_experiment_equal_the_setting_for_any_earlier_params_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(present.read_text())
    wanted = seeded_with(Params.model_validate(params_of(SETTINGS[name])), 3)
    got = applied(wanted)
    for section in set(Params.model_fields) - {"runtime", "toy"}:
        assert getattr(got, section) == getattr(wanted, section), section


@pytest.mark.parametrize("present", PRESENT, ids=lambda p: p.stem)
def test_on_own_data_only_the_seeds_are_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(present.read_text())
    own = load([Path("params.yaml")])
    assert _changes(seeded_with(own, 0)) == []
    assert _changes(seeded_with(own, 2)) == ["++train.seed=2", "++select.seed=2"]
    assert applied(seeded_with(own, 2)) == seeded_with(own, 2)
    assert json.loads(own.model_dump_json())["train"]["seed"] == 0


def change_weights() -> None:
    Path("weights/start.pth").write_text("other")


def change_list() -> None:
    Path("splits/mine.txt").write_text("b\n")


def change_image() -> None:
    Path("data/mine/a.png").write_text("other")


def add_to_dvc() -> None:
    Path("data/mine.dvc").write_text("outs: [{md5: 1}]")


def change_overlay() -> None:
    Path("pipelines/pixel/params.yaml").write_text("label: {threshold: 0.9}\n")


@pytest.mark.parametrize("change", [change_weights, change_list, change_image, add_to_dvc, change_overlay])
def test_a_change_of_any_input_makes_a_result_outdated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights/start.pth", "splits/mine.txt", "data/mine/a.png", "pipelines/pixel/params.yaml"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("label: {threshold: 0.5}\n")
    raw = json.loads(load([ROOT / "params.yaml"]).model_dump_json())
    raw["data"] = {"name": "mine", "kind": "folder", "root": "data/mine", "images": "{name}.png", "classes": ["a", "b"]}
    raw["model"]["weights"] = "start.pth"
    raw["split"]["labeled"] = {"list": "mine.txt"}
    params = Params.model_validate_json(json.dumps(raw))

    def expected(system: str) -> object:
        return expected_of(params, files_of(params, {}), system)

    before = {system: expected(system) for system in ("st", "pixel_1")}
    assert before == {system: expected(system) for system in before}
    change()
    assert expected("pixel_1") != before["pixel_1"]
    assert (expected("st") != before["st"]) == (change is not change_overlay)
