"""What MLflow is told: runs that group, resume, and survive a server that dies. Real MLflow on loopback."""

import contextlib
import importlib
import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from small import BIN, TINY, Project

from stpp.params.models import Params
from stpp.run.resume import Job
from stpp.stages.report import _only as only_class
from stpp.stages.runs import compare
from stpp.stages.stage import Inputs, Recipe, open_stage
from stpp.store.files import StppError, read_json, sha256, write_json
from stpp.tracking.attach import attach, conclude
from stpp.tracking.champion import FRACTION, MIOU, Measured, register
from stpp.tracking.client import Client, PausedError, client, reason, tracking_uri
from stpp.tracking.models import Checkpoint, log_checkpoints
from stpp.tracking.moved import foreign_root
from stpp.tracking.read import artifact_of, datasets_of, member_of, run_of
from stpp.tracking.run import Run, track
from stpp.tracking.secrets import link, without_secrets
from stpp.tracking.view import address as address_of


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite store, copied by tests: making one takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    client(folder).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [n for n in os.environ if n.startswith(("DVC_", "MLFLOW_TRACKING", "STPP_"))]:
        monkeypatch.delenv(name)
    shutil.copyfile(database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def params() -> Params:
    return Params.model_validate_json(json.dumps(TINY))


TAGS = {"stpp.data.digest": "d" * 32, "stpp.split.digest": "s" * 32}


def runs(root: Path, query: str = "") -> list[Any]:
    mlflow = client(root)
    ids = [e.experiment_id for e in mlflow.search_experiments()]
    return list(mlflow.search_runs(ids, query))


def test_a_run_holds_flat_parameters_metrics_by_step_and_tags(root: Path, params: Params) -> None:
    with track("teacher", "key", params, params, TAGS, root, root / "id") as run:
        for epoch in (1, 2, 3):
            run.log({"epoch": epoch, "train/loss": 1 / epoch, "val/iou/0": float("nan")}, epoch)
    [found] = runs(root, "tags.`stpp.key` = 'key'")
    assert found.info.status == "FINISHED"
    assert found.data.params["train.batch_size"] == "4"
    assert found.data.params["augment.weak.crop"] == "32"
    history = client(root).get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "val/iou/0" not in found.data.metrics
    assert found.data.tags["stpp.split.digest"] == "s" * 32


def test_stages_of_one_system_share_a_parent_and_another_split_has_another(root: Path, params: Params) -> None:
    for name, key, tags in (
        ("teacher", "a", TAGS),
        ("score", "b", TAGS),
        ("teacher", "c", TAGS | {"stpp.split.digest": "t" * 32}),
    ):
        with track(name, key, params, params, tags, root, root / key) as run:
            run.log({"x": 1.0}, 0)
    parent = {
        r.data.tags["stpp.key"]: r.data.tags["mlflow.parentRunId"] for r in runs(root, "tags.`stpp.key` LIKE '%'")
    }
    assert parent["a"] == parent["b"] != parent["c"]
    names = {r.info.run_id: r.info.run_name for r in runs(root)}
    assert (names[parent["a"]], names[parent["c"]]) == ("stpp tiny", "stpp other split")


def test_an_experiment_that_was_made_otherwise_gets_the_view_of_results(root: Path, params: Params) -> None:
    number = client(root).create_experiment("tiny", artifact_location=(root / "mlartifacts/tiny").as_uri())
    assert "viewStateShareKey" not in address_of(client(root).get_experiment(number))
    with track("teacher", "key", params, params, TAGS, root, root / "id"):
        pass
    assert "viewStateShareKey" in address_of(client(root).get_experiment(number))


def test_a_parent_run_is_named_by_what_differs_and_runs_until_its_summary(root: Path, params: Params) -> None:
    def parent(**changed: Any) -> Any:
        other = Params.model_validate(params.model_dump() | changed)
        key = json.dumps(sorted(changed))
        with track("teacher", key, other, other, TAGS | {"stpp.label": "ST++"}, root, root / key) as run:
            run.log({"x": 1.0}, 0)
            assert client(root).get_run(run.parent_id).info.status == "RUNNING"
        return client(root).get_run(run.parent_id)

    ratio, train = params.select.model_dump() | {"ratio": 0.25}, params.train.model_dump() | {"seed": 7}
    assert parent().info.run_name == "ST++ tiny"
    assert parent(select=ratio).info.run_name == "ST++ ratio=0.25"
    assert parent(select=ratio, train=train).info.run_name == "ST++ train.seed=7 ratio=0.25"
    many = train | {"lr": 0.5, "momentum": 0.1, "weight_decay": 0.2, "batch_size": 3}
    assert parent(train=many).info.run_name == "ST++ train.seed=7 train.batch_size=3 lr=0.5 momentum=0.1 and 1 more"
    with pytest.raises(RuntimeError), track("score", "s", params, params, TAGS, root, root / "s") as run:
        run.log({"x": 1.0}, 0)
        raise RuntimeError("killed")
    assert client(root).get_run(run.parent_id).info.status == "FAILED"
    with track("evaluate", "e", params, params, TAGS, root, root / "e") as run:
        run.log({"x": 1.0}, 0)
        assert client(root).get_run(run.parent_id).info.status == "RUNNING"
        run.summary({"val/stpp/miou": 0.5, "test/stpp/miou": float("nan")})
    ended = client(root).get_run(run.parent_id)
    assert (ended.info.status, ended.data.metrics) == ("FINISHED", {"val/stpp/miou": 0.5})


def test_a_run_that_failed_is_resumed_and_its_steps_are_not_logged_twice(root: Path, params: Params) -> None:
    with pytest.raises(RuntimeError), track("teacher", "key", params, params, TAGS, root, root / "id") as run:
        run.log({"train/loss": 3.0}, 1)
        run.log({"train/loss": 2.0}, 2)
        raise RuntimeError("killed")
    assert runs(root, "tags.`stpp.key` = 'key'")[0].info.status == "FAILED"
    with track("teacher", "key", params, params, TAGS, root, root / "id") as run:
        for step in (1, 2, 3):
            run.log({"train/loss": 4.0 - step}, step)
    [found] = runs(root, "tags.`stpp.key` = 'key'")
    history = client(root).get_metric_history(found.info.run_id, "train/loss")
    assert [m.step for m in history] == [1, 2, 3]


def test_a_run_says_what_its_machine_did_and_goes_on_where_it_stopped(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    for attempt in (1, 2):
        with pytest.raises(RuntimeError), track("teacher", "key", params, params, TAGS, root, root / "id") as run:
            run.log({"train/loss": 1.0}, attempt)
            time.sleep(1.5)
            raise RuntimeError("killed")
    [found] = runs(root, "tags.`stpp.key` = 'key'")
    history = client(root).get_metric_history(found.info.run_id, "system/cpu_utilization_percentage")
    steps = [m.step for m in history]
    assert len(steps) > 3 and len(set(steps)) == len(steps), "no step twice"

    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with track("teacher", "other", params, params, TAGS, root, root / "other") as run:
        run.log({"train/loss": 1.0}, 1)
        time.sleep(0.8)
    [found] = runs(root, "tags.`stpp.key` = 'other'")
    assert not [name for name in found.data.metrics if name.startswith("system/")]


def test_predictions_are_one_picture_a_step_with_images_beside_their_masks(root: Path, params: Params) -> None:
    image = np.full((60, 600, 3), 90, np.uint8)
    truth, predicted = np.zeros((60, 600), np.uint8), np.ones((60, 600), np.uint8)
    truth[:, 300:] = 255
    rows = [(image, truth, predicted), (image[:, :20], predicted[:, :20], predicted[:, :20])]
    with track("teacher", "key", params, params, TAGS, root, root / "id") as run:
        for step in (1, 2):
            run.predictions("val images", rows, ((0, 0, 0), (10, 200, 30)), step)
        run.predictions("thin", [(image[:1], truth[:1])], ((0, 0, 0),), 1)  # MLflow fails to make it smaller
        run.log({"train/loss": 1.0}, 2)
    [found] = runs(root, "tags.`stpp.key` = 'key'")
    paths = [a.path for a in client(root).list_artifacts(found.info.run_id, "images") if a.path.endswith(".png")]
    assert len(paths) == 2 and found.data.metrics["train/loss"] == 1.0
    with Image.open(client(root).download_artifacts(found.info.run_id, paths[0])) as shown:
        pixels = np.asarray(shown.convert("RGB"))
    assert pixels.shape == (51 + 3 * 512, 3 * 512, 3)
    seen = [tuple(map(int, pixels[20, x])) for x in (100, 612, 920, 1200)]
    assert seen == [(90, 90, 90), (0, 0, 0), (255, 255, 255), (10, 200, 30)]


def test_a_finished_run_is_superseded_not_overwritten(root: Path, params: Params) -> None:
    for i in range(2):
        with track("teacher", "key", params, params, TAGS, root, root / f"id {i}") as run:
            run.log({"train/loss": 1.0}, 1)
    first, second = sorted(runs(root, "tags.`stpp.key` = 'key'"), key=lambda r: r.info.start_time)
    assert first.data.tags["stpp.superseded_by"] == second.info.run_id


def test_the_data_and_the_split_of_a_run_find_it(root: Path, params: Params) -> None:
    tags = TAGS | {"stpp.data.digest": "d" * 32}
    with track("teacher", "a", params, params, tags, root, root / "a") as run:
        run.log({"x": 1.0}, 1)
    for digest in ("d" * 32, TAGS["stpp.split.digest"]):
        found = client(root).search_runs([runs(root)[0].info.experiment_id], f"dataset.digest = '{digest}'")
        assert {r.info.run_id for r in found} == {run.run_id, run.parent_id}
    assert datasets_of(str(run.run_id), root) == {"data": "d" * 32, "split": TAGS["stpp.split.digest"]}


VAL = "v" * 32


def measured_as(measured: Measured) -> Checkpoint:
    """A final student that was measured so."""
    file = Path("runs/student/model.safetensors")
    on = {"val/miou_final": measured.miou}
    return Checkpoint("student", file, "a" * 64, on, 3, measured.val, measured.tags)


def test_the_champion_is_beaten_only_by_a_better_model_on_the_same_images(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    def student(name: str, measured: Measured) -> tuple[str, str]:
        """Its run, and what was said."""
        with track(name, name, params, params, TAGS, root, root / name) as run:
            run.log({"val/miou": measured.miou}, 1)
        run_json = root / f"{name}.json"
        run_json.write_text(json.dumps({"run_id": run.run_id, "stage": "student"}))
        register(run_json, "tiny", measured_as(measured), root)
        return str(run.run_id), capsys.readouterr().out

    def champion() -> str:
        return run_of("models:/tiny@champion", root)

    _, said = student("nothing", Measured(float("nan"), VAL, "whole"))
    assert "no mIoU" in said
    first, said = student("first", Measured(50, VAL, "whole"))
    assert champion() == first
    assert "version 2 (val mIoU 50.0) is the first champion" in said
    _, said = student("worse", Measured(40, VAL, "whole"))
    assert champion() == first
    assert "the champion, version 2 (50.0), stays; version 3 (val mIoU 40.0) is not better" in said
    _, said = student("equal", Measured(50, VAL, "whole"))
    assert champion() == first
    for measured in (Measured(90, "w" * 32, "whole"), Measured(90, VAL, "sliding")):
        _, said = student(measured.how + measured.val[:1], measured)
        assert champion() == first
        assert "stays: it was measured on another val or in another way" in said
    better, said = student("better", Measured(60, VAL, "whole"))
    assert champion() == better
    assert "in place of version 2 (50.0)" in said
    register(root / "better.json", "tiny", measured_as(Measured(60, VAL, "whole")), root)
    assert len(client(root).search_model_versions("name = 'tiny'")) == 7, "a report drawn again registers nothing"
    assert run_of("models:/tiny/2", root) == first

    mlflow, version = client(root), client(root).get_model_version_by_alias("tiny", "champion").version
    mlflow.delete_model_version_tag("tiny", version, MIOU)
    mlflow.set_model_version_tag("tiny", version, FRACTION, "0.6")  # as older versions of stpp wrote it
    assert "(60.0), stays; version 8 (val mIoU 59.0)" in student("below", Measured(59, VAL, "whole"))[1]
    assert f"in place of version {version} (60.0)" in student("above", Measured(61, VAL, "whole"))[1]

    assert "MLFLOW_TRACKING_URI" not in os.environ, "another project in this process has another store"
    models = client(root).search_logged_models([runs(root)[0].info.experiment_id])
    assert {model.source_run_id for model in models} >= {first, better}
    metrics = [metric for model in models for metric in model.metrics or ()]
    assert {(m.key, m.dataset_digest) for m in metrics} == {("val/miou_final", VAL), ("val/miou_final", "w" * 32)}


def test_a_version_becomes_loadable_once_and_keeps_a_persons_description(root: Path, params: Params) -> None:
    with track("student", "k", params, params, TAGS, root, root / "memory") as run:
        run.log({"val/miou": 0.5}, 1)
    (root / "run.json").write_text(json.dumps({"run_id": run.run_id, "stage": "student"}))
    final, written = measured_as(Measured(50, VAL, "whole")), []

    def write(folder: Path) -> None:
        written.append(folder)
        folder.mkdir()
        (folder / "README.md").write_text("card")

    def version() -> Any:
        return client(root).get_model_version_by_alias("tiny", "champion")

    register(root / "run.json", "tiny", final, root, "card")
    assert version().description == "card" and not written
    client(root).update_model_version("tiny", "1", "mine")
    for _ in range(2):
        register(root / "run.json", "tiny", final, root, "card", write)
    assert (version().version, version().description, len(written)) == (1, "mine", 1)
    [card] = root.glob("mlartifacts/tiny/models/*/artifacts/README.md")
    assert card.read_text() == "card"
    tags = client(root).get_logged_model(version().source.removeprefix("models:/")).tags
    assert tags["stpp.loadable"] == "pyfunc" and "mlflow.model.isExternal" not in tags


def test_checkpoints_are_logged_models_with_their_metrics_once(root: Path, params: Params) -> None:
    with track("teacher", "k", params, params, TAGS, root, root / "memory") as run:
        run.log({"val/miou": 0.2}, 2)
    (root / "run.json").write_text(json.dumps({"run_id": run.run_id, "stage": "teacher"}))
    kept = [
        Checkpoint(f"teacher_f{j}", Path(f"runs/teacher/checkpoints/{j}.safetensors"), str(j) * 64, metrics, j, VAL)
        for j, metrics in ((1, {"val/miou_checkpoint": 0.1}), (2, {"val/miou_checkpoint": float("nan")}))
    ]
    for _ in range(2):
        log_checkpoints(root / "run.json", kept, "tiny", root)
    experiment = runs(root)[0].info.experiment_id
    one, two = sorted(client(root).search_logged_models([experiment]), key=lambda model: model.name)
    assert [(m.key, m.value, m.step, m.dataset_digest) for m in one.metrics] == [("val/miou_checkpoint", 0.1, 1, VAL)]
    assert not two.metrics
    assert one.source_run_id == run.run_id
    assert (one.tags["stpp.file"], one.tags["stpp.sha256"]) == ("runs/teacher/checkpoints/1.safetensors", "1" * 64)


def test_a_registry_that_fails_stops_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "run.json").write_text(json.dumps({"run_id": "nobody", "stage": "student"}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    register(root / "run.json", "tiny", measured_as(Measured(50, VAL, "whole")), root)
    out = capsys.readouterr().out
    assert "was not registered in MLflow" in out
    assert "secret" not in out


def test_figures_reach_the_run_that_run_json_names(root: Path, params: Params) -> None:
    with track("score", "key", params, params, TAGS, root, root / "id") as run:
        run.table({"id": ["a"], "stability": [0.5]}, "scores.json")
    (root / "run.json").write_text(json.dumps({"run_id": run.run_id}))
    (root / "plot.png").write_bytes(b"picture")
    attach(root / "run.json", [root / "plot.png"], root)
    mlflow = client(root)
    assert {a.path for a in mlflow.list_artifacts(run.run_id, "figures")} == {"figures/plot.png"}
    assert "scores.json" in {a.path for a in mlflow.list_artifacts(run.run_id)}


def test_the_environment_chooses_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(Path("/somewhere")) == "sqlite:////somewhere/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking_uri(Path("/somewhere")) == "http://127.0.0.1:1"


def test_a_system_shows_its_final_metrics_parameters_and_shared_runs(root: Path, params: Params) -> None:
    ids = {}
    for name, key, tags in (("teacher", "a", TAGS | {"stpp.data.digest": "e" * 32}), ("evaluate", "b", TAGS)):
        with track(name, key, params, params, tags, root, root / key) as run:
            run.summary({"val/stpp/miou": 0.5})
        ids[name] = run.run_id
        (root / f"{name}.json").write_text(json.dumps({"run_id": run.run_id, "stage": name}))
    (root / "panels.png").write_bytes(b"panels")
    members = [root / "teacher.json", root / "evaluate.json"]
    conclude(root / "evaluate.json", members, "ST++ gains", [root / "panels.png"], root)
    evaluated = client(root).get_run(ids["evaluate"])
    parent = client(root).get_run(evaluated.data.tags["mlflow.parentRunId"])
    assert parent.data.metrics == {"val/stpp/miou": 0.5}
    assert parent.data.params["train.epochs"] == "3"
    assert {parent.data.tags["stpp.run.teacher"], parent.data.tags["stpp.run.evaluate"]} == set(ids.values())
    assert evaluated.data.tags["mlflow.note.content"] == "ST++ gains"
    described = parent.data.tags["mlflow.note.content"]
    assert described.startswith("ST++ gains\n") and all(f"/runs/{run_id})" in described for run_id in ids.values())
    assert [a.path for a in client(root).list_artifacts(parent.info.run_id, "figures")] == ["figures/panels.png"]


def test_switched_off_it_is_silent(root: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPP_TRACKING", "off")
    with track("teacher", "key", params, params, TAGS, root, root / "id") as run:
        run.log({"train/loss": 1.0}, 1)
    assert run.run_id is None
    assert runs(root) == []


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def server(root: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real MLflow server on loopback, up and answering."""
    port = free_port()
    command = [
        str(BIN / "mlflow"),
        *("server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "artifacts")),
    ]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": f"{BIN}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 90
    while True:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None and time.monotonic() < end, "the server did not start"
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}", process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_stops_nothing_and_is_said_once(
    root: Path,
    params: Params,
    server: tuple[str, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with track("teacher", "key", params, params, TAGS, root, root / "id") as run:
        run.log({"train/loss": 2.0}, 1)
        assert run.run_id is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for step in (2, 3):
            run.log({"train/loss": 1.0}, step)
    said = capsys.readouterr().out
    assert said.count("continuing without it") == 1
    assert "did not reach MLflow" in said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert [m.step for m in client(root).get_metric_history(run.run_id, "train/loss")] == [1]


def test_a_server_that_was_never_there_stops_nothing(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    run = Run("teacher", "key", params, TAGS | {"stpp.group": "g", "stpp.system": "stpp"}, root, root / "key")
    run.log({"train/loss": 1.0}, 1)
    run.end("FINISHED")
    said = capsys.readouterr().out
    assert "failed" in said and "secret" not in said
    assert run.run_id is None


def test_a_time_limit_that_is_no_number_stops_no_stage(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "abc")
    run_id = read_json(a_stage(root))["run_id"]
    assert client(root).get_run(run_id).data.metrics["train/loss"] == 1.0
    assert "abc" not in capsys.readouterr().out


def test_tracking_loads_mlflow_only_when_there_is_something_to_say() -> None:
    code = "import sys, stpp.tracking; print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def seen(root: Path, params: Params, key: str) -> dict[str, str]:
    """The tags of a run that a stage with these parameters makes."""
    with track("stage", key, params, params, TAGS, root, root / key) as run:
        run.log({"x": 1.0}, 0)
    [found] = runs(root, f"tags.`stpp.key` = '{key}'")
    return dict(found.data.tags)


def changed(params: Params, section: str, **values: object) -> Params:
    raw = params.model_dump(mode="json")
    return Params.model_validate_json(json.dumps(raw | {section: raw[section] | values}))


@pytest.mark.parametrize(
    ("section", "values", "other_parent", "other_setting"),
    [
        ("select", {"ratio": 0.25}, True, False),
        ("label", {"flip": False}, True, True),
        ("train", {"lr": 0.5}, True, True),
        ("label", {"batch_size": 1, "shards": 1}, False, False),
        ("runtime", {"workers": 3}, False, False),
        ("data", {"root": "elsewhere"}, False, False),
    ],
)
def test_what_makes_another_result_has_another_parent_and_what_compares_shares_a_setting(
    root: Path, params: Params, section: str, values: dict[str, object], other_parent: bool, other_setting: bool
) -> None:
    first, second = seen(root, params, "a"), seen(root, changed(params, section, **values), "b")
    assert (first["mlflow.parentRunId"] != second["mlflow.parentRunId"]) == other_parent
    assert (first["stpp.setting"] != second["stpp.setting"]) == other_setting
    for tags, p in ((first, params), (second, changed(params, section, **values))):
        logged = client(root).get_run(tags["mlflow.parentRunId"]).data.params
        assert logged["select.ratio"] == str(p.select.ratio)
        assert logged["label.flip"] == str(p.label.flip)


def test_an_overlay_that_is_edited_makes_another_parent(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = root / "pipelines/pixel/params.yaml"
    overlay.parent.mkdir(parents=True)
    monkeypatch.chdir(root)
    (overlay.parent / "other.yaml").write_text("[not, an, overlay")
    (root / "x.yaml").write_text("[neither")
    parents = []
    for key, text in (("a", "{threshold: 0.5}"), ("b", "{ threshold: 0.5 }"), ("c", "{flip: true}"), ("d", "[broken")):
        overlay.write_text(f"label: {text}\n")
        # as DVC says it when it is called in pipelines/
        monkeypatch.setenv("DVC_STAGE", f"{'' if key == 'b' else 'pipelines/'}pixel/dvc.yaml:evaluate")
        parents.append(seen(root, params, key)["mlflow.parentRunId"])
    assert parents[0] == parents[1] != parents[2]
    monkeypatch.setenv("DVC_STAGE", "../../dvc.yaml:train_teacher")
    assert seen(root, params, "e")["mlflow.parentRunId"] not in parents


def test_without_git_a_run_has_no_commit_and_goes_on(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "mlflow.source.git.commit" not in seen(root, params, "a")


@pytest.mark.parametrize("uri", ["", "sqlite:///{root}/shared.db"])
def test_artifacts_beside_a_database_lie_in_the_project(
    root: Path, params: Params, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if uri:
        shutil.copyfile(root / "mlflow.db", root / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(root=root))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with track("stage", "a", params, params, TAGS, root, root / "id") as run:
        run.table({"x": [1]}, "x.json")
    [found] = runs(root, "tags.`stpp.key` = 'a'")
    assert found.info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    assert list((root / "mlartifacts").rglob("x.json"))
    assert list(Path.cwd().iterdir()) == []


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("http://u:hidden@h failed", "hidden"),
        ("http://u:hid/den@h failed", "den"),
        ("postgresql://u:hid@den@h/db", "den"),
        ("http://hidden@h", "hidden"),
        ("https://h/x?a=1&token=hidden&b=2", "hidden"),
        *(
            (f"GET /x?{name}=hid%2Fden of h", "den")
            for name in ("password", "access_token", "api_key", "apikey", "sig")
        ),
        *(
            (f"'/x?{name}=hidden'", "hidden")
            for name in ("X-Amz-Signature", "X-Amz-Credential", "sslpassword", "AWSAccessKeyId")
        ),
    ],
)
def test_no_secret_of_an_address_is_said(text: str, secret: str) -> None:
    said = reason(Exception(text))
    assert secret not in said and "***" in said


def test_no_secret_of_the_environment_is_said_in_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:pa/ss%40word@host:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a+key")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://TOK@registry")
    said = reason(
        Exception("port 'pa', at ss%40word, ss@word; t0ken a+key a%2Bkey; host 'tok'; passing user, path host:5000")
    )
    assert said == "port '***', at ***, ***; *** *** ***; host '***'; passing user, path host:5000"
    assert without_secrets("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"
    assert link("http://u:p@ss@h:5000/x/?token=1") == "http://h:5000/x"


def test_no_secret_is_logged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client(root).search_experiments()
    try:
        raise ValueError("http://u:hidden@h")
    except ValueError:
        logging.getLogger("mlflow.system_metrics").exception("Failed at %s", "http://u:hidden@h")
    said = capsys.readouterr().err
    assert "Failed at http://***@h" in said and "hidden" not in said


@pytest.mark.parametrize("uri", ["http://user:hid/den@127.0.0.1:5000", "https://hidden@127.0.0.1:5000/?token=hidden"])
def test_the_ui_of_a_server_is_an_address_without_secrets_even_if_it_does_not_answer(
    uri: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STPP_TRACKING", raising=False)
    project.env |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    assert re.fullmatch(r"https?://127.0.0.1:5000/?\n", project.run("stpp", "ui"))


def test_the_ui_without_runs_says_so(project: Project) -> None:
    assert "no MLflow runs: " in project.run("stpp", "ui", rc=2)


@pytest.mark.slow
def test_a_stage_keeps_the_secret_of_its_server(
    prepared: Project, root: Path, server: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """In what it prints, in its files, and in what it tells the server; whether that answers or not."""
    del prepared.env["STPP_TRACKING"]
    train = ("stpp", "train", "--name", "teacher", "--data", "runs/data", "--split", "runs/split")
    said = ""
    for at, address in enumerate((server[0], f"http://127.0.0.1:{free_port()}")):
        prepared.env["MLFLOW_TRACKING_URI"] = address.replace("://", "://user:s3cret@")
        out = prepared.folder / f"runs/teacher_{at}"
        said += prepared.run(*train, "--backbone", "runs/backbone.safetensors", "--out", str(out))
        assert (read_json(out / "run.json")["run_id"] is None) == bool(at)
    assert len(re.findall(rf"teacher: {server[0]}/#/experiments/\d+/runs/\w{{32}}\n", said)) == 1
    files = [path for folder in ("runs", ".stpp") for path in (prepared.folder / folder).rglob("*") if path.is_file()]
    assert len(files) > 20
    for text in (said.encode(), *(path.read_bytes() for path in [*files, *root.rglob("*")] if path.is_file())):
        assert b"s3cret" not in text


# -- servers that fail ------------------------------------------------------------------------------------------------


def answers(kind: str, connection: socket.socket) -> None:
    """What a server answers that is of no use to anyone."""
    with contextlib.suppress(OSError):
        connection.recv(2**16)
        connection.sendall(b"" if kind == "silent" else b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while kind != "silent":
            connection.sendall(b" " * (1 if kind == "dripping" else 2**16))
            time.sleep(0.3 if kind == "dripping" else 0)


@pytest.fixture(params=["silent", "dripping", "endless"])
def evil(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that accepts, and whose answer never ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(listening.accept()[0])
                    threading.Thread(target=answers, args=(request.param, kept[-1]), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        for one in kept:
            one.close()


def a_stage(folder: Path, work: Callable[[Job, Run], None] | None = None) -> Path:
    """A stage of no use, whole: tracked, its files published, in a project's folder that is the working directory."""
    write_json(folder / "params.yaml", TINY)
    write_json(folder / "runs/data/dataset.json", {"digest": "d" * 32})

    out, inputs = Path("runs/stage"), Inputs(Path("runs/data"), None, [])
    recipe, also = Recipe("stpp.data.seeds", ("train",)), {"at": time.monotonic()}
    with open_stage("stage", recipe, [Path("params.yaml")], inputs, out=out, outs=["x.txt"], also=also) as stage:
        (stage.folder / "x.txt").write_text("x")
        for step in range(1, 21):
            stage.run.log({"train/loss": 1.0}, step)
        if work is not None:
            work(stage.job, stage.run)
    return folder / out / "run.json"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of calls that were stopped
def test_a_server_whose_answer_never_ends_costs_a_stage_little(
    evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", evil)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    importlib.import_module("mlflow")
    begun = time.monotonic()
    run_json = a_stage(tmp_path)
    assert read_json(run_json)["run_id"] is None
    assert time.monotonic() - begun < 6, "once when it begins, and once at the end"
    said = capsys.readouterr().out
    assert said.count("no complete answer within") == 1 and "stage: 24 entries did not reach MLflow" in said
    write_json(tmp_path / "run.json", {"run_id": "a" * 32, "stage": "student"})
    begun = time.monotonic()
    for _ in range(10):
        attach(tmp_path / "run.json", [run_json], tmp_path)
    assert time.monotonic() - begun < 2, "it is left alone"
    assert capsys.readouterr().out.count("not called again for a while") == 10


def test_a_process_ends_at_once_whatever_a_server_still_sends(evil: str, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from stpp.tracking.client import client
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
mlflow, artifacts = client(Path({str(tmp_path)!r})), HttpArtifactRepository({evil!r} + "/mlflow-artifacts/artifacts/x")
artifacts.list_artifacts = lambda path=None: []  # so that a thread of MLflow's downloads, for which Python waits
for ask in (mlflow.search_experiments, lambda: mlflow.call(lambda: artifacts.download_artifacts("x.json"), 1)):
    mlflow.once_more()
    try:
        ask()
    except TimeoutError as error:
        print(error, flush=True)
"""
    env = os.environ | {"MLFLOW_TRACKING_URI": evil, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline(), process.stdout.readline()]
        begun = time.monotonic()
        assert all("no complete answer" in line for line in said)
        assert process.wait(20) == 0
    assert time.monotonic() - begun < 4


def test_after_a_failure_mlflow_is_left_alone_for_longer_and_longer() -> None:
    asked: list[float] = []

    def fail() -> None:
        asked.append(time.monotonic())
        time.sleep(0.02)
        raise ConnectionError("down")

    def say_no() -> None:
        error = ValueError("no such run")
        error.error_code = "RESOURCE_DOES_NOT_EXIST"  # type: ignore[attr-defined]
        raise error

    one = Client("http://127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(ValueError, match="no such run"):
            one.call(say_no, 1)
    while len(asked) < 4:
        with pytest.raises((ConnectionError, PausedError), match="down"):
            one.call(fail, 1)
        time.sleep(0.005)
    waited = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert waited[0] > 0.2 and waited[1] > 0.4 and waited[2] > 0.8
    one.once_more()
    assert one.call(lambda: 5, 1) == 5 and one.call(lambda: 6, 1) == 6


def test_a_deleted_experiment_is_said_first_with_what_restores_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    run_json = a_stage(root)
    [number] = {r.info.experiment_id for r in runs(root)}
    client(root).delete_experiment(number)
    capsys.readouterr()

    def work(job: Job, run: Run) -> None:
        assert f"mlflow experiments restore --experiment-id {number}`" in capsys.readouterr().out, "before it trains"
        print("it trains")

    attach(run_json, [run_json], root)
    command = f"`MLFLOW_TRACKING_URI='sqlite:///{root}/mlflow.db' mlflow experiments restore --experiment-id {number}`"
    assert f"figures did not reach MLflow: experiment tiny is deleted; {command}" in capsys.readouterr().out
    a_stage(root, work)
    said = capsys.readouterr().out
    assert "it trains" in said and "entries did not reach MLflow" in said
    client(root).restore_experiment(number)
    a_stage(root)
    assert "MLflow" not in capsys.readouterr().out

    run_id = read_json(run_json)["run_id"]
    client(root).delete_run(run_id)
    attach(run_json, [run_json], root)
    assert f"run {run_id} is deleted; `MLFLOW_TRACKING_URI=" in (said := capsys.readouterr().out)
    assert f"mlflow runs restore --run-id {run_id}` restores it" in said


def test_what_is_sent_twice_is_there_once(root: Path, params: Params) -> None:
    with track("stage", "key", params, params, TAGS, root, root / "id") as run:
        run.log({"x": 1.0}, 1)
        again = [*run._pending]
        run._client.once_more()
        for name in ("one.json", "two.json"):
            run.table({"class": ["a", "b"], "iou": [0.5, float("nan")]}, name)
            run.table({"class": ["a", "b"], "iou": [0.5, float("nan")]}, name)
        assert again == []
    mlflow = client(root)
    table = json.loads(Path(mlflow.download_artifacts(run.run_id, "one.json")).read_text())
    assert table == {"columns": ["class", "iou"], "data": [["a", 0.5], ["b", None]]}
    tagged = json.loads(mlflow.get_run(run.run_id).data.tags["mlflow.loggedArtifacts"])
    assert {one["path"] for one in tagged} == {"one.json", "two.json"}


def test_a_runs_description_is_ours_until_a_person_writes_another(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    run_json = a_stage(root)
    mlflow, run_id = client(root), read_json(run_json)["run_id"]

    def shown() -> str:
        return str(mlflow.get_run(run_id).data.tags["mlflow.note.content"])

    for text in ("first", "second"):
        conclude(run_json, [], text, [], root)
        assert shown() == text
    mlflow.set_tag(run_id, "mlflow.note.content", "a person's")
    conclude(run_json, [], "third", [], root)
    assert shown() == "a person's"


# -- what is never overwritten ----------------------------------------------------------------------------------------


def figures(root: Path, run_json: Path) -> dict[str, bytes]:
    mlflow, run_id = client(root), read_json(run_json)["run_id"]
    paths = [one.path for one in mlflow.list_artifacts(run_id, "figures")]
    return {Path(path).name: Path(mlflow.download_artifacts(run_id, path)).read_bytes() for path in paths}


def test_a_figure_that_is_there_stays_and_another_stands_beside_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    run_json, plot = a_stage(root), root / "plot.png"
    for content in (b"first", b"second", b"first", b"second"):
        plot.write_bytes(content)
        attach(run_json, [plot], root)
    assert figures(root, run_json) == {"plot.png": b"first", f"plot-{sha256(plot)[:8]}.png": b"second"}


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
@pytest.mark.parametrize("uri", ["", "sqlite:///{}/mlflow.db"])
def test_a_project_that_was_copied_or_moved_writes_into_its_own_folder(
    root: Path,
    how: Callable[[Path, Path], object],
    uri: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(root))
    run_json = a_stage(root).relative_to(root)
    (root / "plot.png").write_bytes(b"of the first")
    attach(run_json, [root / "plot.png"], root)
    register(run_json, "tiny", measured_as(Measured(50, VAL, "whole")), root)
    before = contents(root)

    here = tmp_path_factory.mktemp("a place") / "project"
    monkeypatch.chdir(here.parent)
    how(root, here)
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(here))
    as_a_new_process()
    (here / "other.png").write_bytes(b"of the copy")
    attach(run_json, [here / "other.png"], here)
    a_stage(here)
    register(run_json, "tiny", measured_as(Measured(60, VAL, "whole")), here)
    said = capsys.readouterr()
    assert "did not reach" not in said.out and "was not" not in said.out
    assert said.err.count(f"its artifacts are now in {here}/mlartifacts") == 1
    assert contents(root) == (before if how is shutil.copytree else {})
    assert len([*here.glob("mlartifacts/tiny/*/artifacts/run.json")]) == 2
    assert [path.read_bytes() for path in sorted(here.glob("mlartifacts/tiny/*/artifacts/figures/*"))] == [
        b"of the copy",
        b"of the first",
    ]
    with contextlib.closing(sqlite3.connect(here / "mlflow.db")) as db:
        assert root.as_uri() not in "\n".join(db.iterdump())


def test_who_only_asks_in_a_copied_project_reads_its_own_artifacts_and_changes_nothing(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    run_id = read_json(a_stage(root))["run_id"]
    here = tmp_path_factory.mktemp("a place") / "project"
    shutil.copytree(root, here)
    monkeypatch.chdir(here)
    as_a_new_process()
    [kept] = here.glob(f"mlartifacts/tiny/{run_id}/artifacts/run.json")
    kept.write_text(json.dumps({"of": "the copy"}))
    before = contents(root), contents(here)
    assert artifact_of(run_id, "run.json", here) == {"of": "the copy"}
    assert (contents(root), contents(here)) == before


def test_a_copy_of_dvc_for_an_experiment_tracks_in_the_project(
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    a_stage(root)
    temporary = root / ".dvc/tmp/exps/temporary"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    run_json = a_stage(temporary)
    attach(run_json, [run_json], root)
    assert len([*root.glob("mlartifacts/tiny/*/artifacts/run.json")]) == 2
    assert len([*root.glob("mlartifacts/tiny/*/artifacts/figures/run.json")]) == 1
    assert {path.name for path in temporary.iterdir()} == {"params.yaml", "runs"}
    said = capsys.readouterr()
    assert not said.err and "MLflow" not in said.out


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a project's MLflow store."""
    paths = [path for name in ("mlartifacts", "mlflow.db") for path in [folder / name, *(folder / name).rglob("*")]]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def as_a_new_process() -> None:
    """MLflow remembers by run where artifacts lie, for as long as a process lasts."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


def test_in_a_store_of_others_no_artifact_is_written_into_another_project(
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = tmp_path_factory.mktemp("shared") / "mlflow.db"
    shutil.move(root / "mlflow.db", shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    monkeypatch.chdir(root)
    run_json = a_stage(root)
    before, here = contents(root), tmp_path_factory.mktemp("other") / "project"
    shutil.copytree(root, here)
    monkeypatch.chdir(here)
    as_a_new_process()
    capsys.readouterr()
    a_stage(here)
    attach(run_json, [run_json], here)
    register(run_json, "tiny", measured_as(Measured(60, VAL, "whole")), here)
    said = capsys.readouterr().out
    assert said.count("choose another data.name") == 1 and "no artifacts are written" in said
    assert contents(root) == before and contents(here) == before
    assert len(client(here).get_metric_history(read_json(here / "runs/stage/run.json")["run_id"], "train/loss")) == 20


def test_a_folder_under_another_name_is_the_same_project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("names") / "other"
    other.symlink_to(root)
    assert foreign_root(f"{other.as_uri()}/mlartifacts/tiny", root) is None
    for place in (f"{root.as_uri()}/mlartifacts/tiny", "mlflow-artifacts:/1", "s3://b/mlartifacts/x", "file:///disk/x"):
        assert foreign_root(place, root) is None
    assert foreign_root("file:///a%20b/mlartifacts/c/mlartifacts/tiny", root) == "file:///a%20b/mlartifacts/c"


@pytest.mark.slow
def test_a_copy_draws_its_own_report_and_another_selection_its_own_figure(
    finished: Project, copied: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    [evaluation, score] = (Path("runs", name, "run.json") for name in ("evaluation", "score"))
    of_finished = contents(finished.folder)
    before = {path: figures(copied.folder, copied.folder / path) for path in (evaluation, score)}
    assert "stability.png" in before[evaluation] and before[score] == {}

    stage = YAML(typ="safe").load(copied.folder / "dvc.yaml")["stages"]["report"]["cmd"].split()
    copied.params(select={"by": "stability", "ratio": 0.25})
    copied.run("stpp", "select", "--scores", "runs/score", "--out", "runs/selection")
    copied.run(*stage)
    copied.run(*stage)
    after = figures(copied.folder, copied.folder / evaluation)
    assert {name: after[name] for name in before[evaluation]} == before[evaluation]
    [new] = set(after) - set(before[evaluation])
    assert re.fullmatch(r"stability-\w{8}\.png", new)
    assert after[new] == (copied.folder / "runs/report/stability.png").read_bytes()
    assert figures(copied.folder, copied.folder / score) == {}
    assert {k: v for k, v in contents(finished.folder).items() if k in of_finished} == of_finished

    (copied.folder / "runs/label_reliable/run.json").write_text("{}")
    shutil.rmtree(copied.folder / "runs/report")
    assert "runs/label_reliable/run.json: not what its stage writes (run_id: Field required)" in copied.run(
        *stage, rc=2
    )
    assert not (copied.folder / "runs/report").exists()


# -- the champion -----------------------------------------------------------------------------------------------------


def test_a_model_that_predicts_one_class_is_never_the_champion(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    one, other = (read_json(a_stage(root)) for _ in range(2))
    for name, about in (("one", one), ("other", other)):
        write_json(root / f"{name}.json", about)
    register(root / "one.json", "tiny", measured_as(Measured(50, VAL, "whole")), root)  # as it was before
    constant = measured_as(Measured(50, VAL, "whole", only="background"))
    for name in ("one", "other"):
        register(root / f"{name}.json", "tiny", constant, root)
    said = capsys.readouterr().out
    assert said.count("predicts background for every pixel of val and cannot be the champion") == 2
    assert not client(root).get_registered_model("tiny").aliases
    register(root / "other.json", "tiny", measured_as(Measured(0.1, VAL, "whole")), root)
    register(root / "one.json", "tiny", constant, root)
    assert run_of("models:/tiny@champion", root) == other["run_id"]


def test_a_confusion_matrix_tells_a_model_that_predicts_one_class() -> None:
    assert only_class([[0, 5], [0, 3]], ("a", "b")) == "b"
    assert only_class([[5, 0], [3, 0]], ("a", "b")) == "a"
    assert only_class([[0, 0], [3, 1]], ("a", "b")) == only_class([[0, 0], [0, 0]], ("a", "b")) == ""


def test_runs_of_mlflow_compare_where_val_lacks_a_class(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)

    def work(job: Job, run: Run) -> None:
        write_json(job.folder / "metrics.json", {"val": {"stpp": {"miou": 0.5}}})
        run.artifact(job.folder / "metrics.json")
        row = {"set": ["val"] * 2, "model": ["stpp"] * 2, "class": ["car", "sign"], "iou": [0.5, float("nan")]}
        run.table(row, "per_class.json")

    run_id = read_json(a_stage(root, work))["run_id"]
    compare(run_id, run_id)
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["sign"] == ["-", "-", "-"] and lines["car"] == ["50.0", "50.0", "+0.0"]


def test_a_run_is_found_by_the_first_digits_of_its_id_and_by_the_name_of_its_parent(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    run_id = read_json(a_stage(root))["run_id"]
    mlflow = client(root)
    parent = mlflow.get_run(mlflow.get_run(run_id).data.tags["mlflow.parentRunId"])
    whole, shown, group = parent.info.run_id, parent.info.run_name, parent.data.tags["stpp.is_group"]
    assert run_of(run_id[:6], root) == run_of(f"runs:/{run_id[:20]}", root) == run_of(run_id, root) == run_id
    assert run_of(shown, root) == run_of(whole[:8], root) == run_of(group[:8], root) == whole
    assert member_of(whole, "attributes.run_name = 'stage'", root) == run_id

    other = mlflow.create_run("0", tags={"stpp.is_group": f"{group[:8]}0"}, run_name=shown).info.run_id
    for name in (shown, group[:8]):
        with pytest.raises(StppError, match="stands for several MLflow runs") as error:
            run_of(name, root)
        assert f"{other} ({shown})" in str(error.value) and whole in str(error.value)
    with pytest.raises(StppError, match="000000: no such file or folder, and no MLflow run with this id or name"):
        run_of("000000", root)
