"""What MLflow is told: runs that group, resume, and survive a server that dies. Real MLflow on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import BIN, TINY

from stpp.params import Params
from stpp.tracking.attach import attach, link
from stpp.tracking.champion import Measured, register
from stpp.tracking.client import client, tracking_uri
from stpp.tracking.models import Checkpoint, log_checkpoints
from stpp.tracking.read import datasets_of, run_of
from stpp.tracking.run import Run, track


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
    names = {r.info.run_name for r in runs(root) if r.info.run_id in parent.values()}
    assert all(name.startswith("stpp tiny ") for name in names)


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


def test_a_prediction_is_an_image_beside_its_masks_by_step(root: Path, params: Params) -> None:
    image = np.full((60, 600, 3), 90, np.uint8)
    truth, predicted = np.zeros((60, 600), np.uint8), np.ones((60, 600), np.uint8)
    truth[:, 300:] = 255
    with track("teacher", "key", params, params, TAGS, root, root / "id") as run:
        for step in (1, 2):
            run.prediction("val/ä+1", image, (truth, predicted), ((0, 0, 0), (10, 200, 30)), step)
        run.prediction("thin", image[:1], (truth[:1],), ((0, 0, 0),), 1)  # MLflow fails to make it smaller
        run.log({"train/loss": 1.0}, 2)
    [found] = runs(root, "tags.`stpp.key` = 'key'")
    paths = [a.path for a in client(root).list_artifacts(found.info.run_id, "images") if a.path.endswith(".png")]
    assert len(paths) == 2 and found.data.metrics["train/loss"] == 1.0
    with Image.open(client(root).download_artifacts(found.info.run_id, paths[0])) as shown:
        pixels = np.asarray(shown.convert("RGB"))
    assert pixels.shape == (51, 3 * 512, 3)
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
    first, said = student("first", Measured(0.5, VAL, "whole"))
    assert champion() == first
    assert "version 2 (val mIoU 50.0) is the first champion" in said
    _, said = student("worse", Measured(0.4, VAL, "whole"))
    assert champion() == first
    assert "the champion, version 2 (50.0), stays; version 3 (val mIoU 40.0) is not better" in said
    _, said = student("equal", Measured(0.5, VAL, "whole"))
    assert champion() == first
    for measured in (Measured(0.9, "w" * 32, "whole"), Measured(0.9, VAL, "sliding")):
        _, said = student(measured.how + measured.val[:1], measured)
        assert champion() == first
        assert "was measured on another val or in another way, and stays" in said
    better, said = student("better", Measured(0.6, VAL, "whole"))
    assert champion() == better
    assert "before it was version 2 (50.0)" in said
    register(root / "better.json", "tiny", measured_as(Measured(0.6, VAL, "whole")), root)
    assert len(client(root).search_model_versions("name = 'tiny'")) == 7, "a report drawn again registers nothing"
    assert run_of("models:/tiny/2", root) == first

    assert "MLFLOW_TRACKING_URI" not in os.environ, "another project in this process has another store"
    models = client(root).search_logged_models([runs(root)[0].info.experiment_id])
    assert {model.source_run_id for model in models} >= {first, better}
    metrics = [metric for model in models for metric in model.metrics or ()]
    assert {(m.key, m.dataset_digest) for m in metrics} == {("val/miou_final", VAL), ("val/miou_final", "w" * 32)}


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
    register(root / "run.json", "tiny", measured_as(Measured(0.5, VAL, "whole")), root)
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
    link(root / "evaluate.json", [root / "teacher.json", root / "evaluate.json"], root)
    evaluated = client(root).get_run(ids["evaluate"])
    parent = client(root).get_run(evaluated.data.tags["mlflow.parentRunId"])
    assert parent.data.metrics == {"val/stpp/miou": 0.5}
    assert parent.data.params["train.epochs"] == "3"
    assert {parent.data.tags["stpp.run.teacher"], parent.data.tags["stpp.run.evaluate"]} == set(ids.values())


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
    assert said.count("going on without it") == 1
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
