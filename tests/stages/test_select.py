"""Tests of the stage `select`: the reliable half for every `select.by`, and errors."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from small import TINY

from stpp.stages.select import select
from stpp.store.files import StppError, read_ids, write_csv

STABILITY = {"a": 0.9, "b": 0.2, "c": 0.5, "d": 0.7}
CONFIDENCE = {"a": 0.3, "b": 0.8, "c": 0.6, "d": 0.4}
PIXELS = {"b": 3, "c": 3}
"""Pixels of the second class; only b and c show it."""
QUALITY = {"a": 50.0, "b": 10.0, "c": 30.0, "d": 60.0}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(name, STABILITY[name], CONFIDENCE[name]) for name in STABILITY]
    write_csv(Path("score/scores.csv"), ("id", "stability", "confidence"), rows)
    write_csv(Path("score/quality.csv"), ("id", "miou"), list(QUALITY.items()))
    write_csv(Path("score/classes.csv"), ("id", "road", "id"), [(name, 9, PIXELS.get(name, 0)) for name in STABILITY])


def run(**values: object) -> tuple[list[str], list[str]]:
    with Path("params.yaml").open("w") as file:
        YAML().dump(TINY | {"select": values}, file)
    select(Path("score"), Path("selection"))
    return read_ids(Path("selection/reliable.txt")), read_ids(Path("selection/unreliable.txt"))


@pytest.mark.parametrize(
    ("by", "reliable"),
    [("stability", "ad"), ("inverse", "bc"), ("confidence", "bc"), ("oracle", "da"), ("balanced", "ac")],
)
def test_the_reliable_half_is_chosen_by_select_by(by: str, reliable: str) -> None:
    assert run(by=by)[0] == list(reliable)


def test_a_random_selection_depends_only_on_its_seed() -> None:
    assert run(by="random", seed=1) == run(by="random", seed=1)
    assert len({tuple(run(by="random", seed=seed)[0]) for seed in range(20)}) > 3


def test_the_oracle_without_all_true_masks_is_an_error() -> None:
    write_csv(Path("score/quality.csv"), ("id", "miou"), [("a", 50.0)])
    with pytest.raises(
        StppError, match=r"select\.by `oracle` needs the true masks of all .* 3 have none \(b, \.\.\.\)"
    ):
        run(by="oracle")
    assert not Path("selection").exists()
    assert run(by="stability")[0] == ["a", "d"], "no other way needs a true mask"


def test_a_ratio_that_leaves_nothing_on_one_side_is_an_error() -> None:
    with pytest.raises(StppError, match="leaves 0 reliable and 4 unreliable"):
        run(ratio=0.1)
