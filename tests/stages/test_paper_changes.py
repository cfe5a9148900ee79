"""What `paper run` hands to `dvc exp run -S`, through DVC's own reader of it."""

import json
from pathlib import Path

import pytest
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides

from stpp.paper.published import SETTINGS, params_of
from stpp.params import Params
from stpp.params_file import load
from stpp.stages.paper import _changes, _seeded

ROOT = Path(__file__).resolve().parents[2]
PRESENT = [ROOT / "params.yaml", ROOT / "pipelines/presets/camvid.yaml"]


def applied(params: Params) -> Params:
    words = [word for values in to_path_overrides(_changes(params)).values() for word in values]
    apply_overrides("params.yaml", words)
    return load([Path("params.yaml")])


@pytest.mark.parametrize("present", PRESENT, ids=lambda p: p.stem)
@pytest.mark.parametrize("name", [*SETTINGS][::4])
def test_the_experiments_params_mean_the_setting_whatever_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(present.read_text())
    wanted = _seeded(Params.model_validate(params_of(SETTINGS[name])), 3)
    got = applied(wanted)
    for section in set(Params.model_fields) - {"runtime", "toy"}:
        assert getattr(got, section) == getattr(wanted, section), section


@pytest.mark.parametrize("present", PRESENT, ids=lambda p: p.stem)
def test_on_own_data_nothing_but_the_seeds_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(present.read_text())
    own = load([Path("params.yaml")])
    assert _changes(_seeded(own, 0)) == []
    assert _changes(_seeded(own, 2)) == ["++train.seed=2", "++select.seed=2"]
    assert applied(_seeded(own, 2)) == _seeded(own, 2)
    assert json.loads(own.model_dump_json())["train"]["seed"] == 0
