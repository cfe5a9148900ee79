"""The MLflow run of a stage: its metrics, tables, images, tags and artifacts."""

import hashlib
import importlib.util
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpp.params.file import flatten, overlays_of, system_of
from stpp.params.models import Params
from stpp.run.distributed import is_main
from stpp.run.git import git
from stpp.store.files import StppError, write_text
from stpp.tracking.client import client, get_or_create_experiment, limit, reason, tracking_uri
from stpp.tracking.secrets import link, without_secrets

ELSEWHERE: dict[str, Any] = {
    "runtime": True,
    "toy": True,
    "data": True,
    "score": True,
    "label": {"batch_size", "shards"},
}
"""Parameters that do not count in `stpp.group`, which names a parent run.

They say how to compute, or the digest of the data covers their meaning.
"""
COMPARED = ELSEWHERE | {"select": True, "online": True}
"""Parameters that do not count in `stpp.setting`: also those that make a system.

Two systems may differ in these and still be compared.
"""
SHOWN = 512
"""Largest width of an image or mask in a logged prediction, in pixels."""
DIFFERENCES = 4
"""The most differences that the name of a parent run holds."""
WRITTEN = (":!dvc.lock", ":!pipelines/*/dvc.lock", ":!runs")
"""Git pathspecs that exclude what DVC writes while a stage runs."""


class Run:
    """The MLflow run of one stage, created when the first entry is sent.

    If MLflow fails, a warning is printed once; the entries are kept and sent again later. Entries are sent only by the
    main process (rank 0), only if MLflow is installed, and not with STPP_TRACKING=off.
    """

    def __init__(self, name: str, key: str, params: Params, tags: dict[str, str], root: Path, memory: Path) -> None:
        self.name = name
        self.key = key
        self.params = params
        self.tags = tags
        self.root = root
        self.memory = memory
        self.run_id: str | None = None
        self.parent_id: str | None = None
        self.enabled = (
            is_main() and os.environ.get("STPP_TRACKING") != "off" and importlib.util.find_spec("mlflow") is not None
        )
        self._client: Any = None
        self._ended = threading.Event()
        self._pending: list[Callable[[], None]] = []
        self._known: dict[str, int] = {}
        self._tables: list[dict[str, str]] = []
        self._refused = 0
        self._warned = False

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log the metrics of a step. NaN values and the key `epoch` are left out.

        A step that an earlier attempt of the stage logged is not logged again.
        """
        now = int(time.time() * 1000)  # taken once, so that a metric that is sent twice is stored once

        def send() -> None:
            from mlflow.entities import Metric

            new = {k: v for k, v in metrics.items() if step > self._known.get(k, -1)}
            batch = [Metric(k, v, now, step) for k, v in new.items() if k != "epoch" and not math.isnan(v)]
            for start in range(0, len(batch), 1000):
                self._client.log_batch(self.run_id, metrics=batch[start : start + 1000])

        self._send(send)

    def table(self, columns: dict[str, list[Any]], name: str) -> None:
        """Log a table that MLflow's UI shows.

        columns: column name -> values. If the table is sent twice, it replaces itself; MLflow's own log_table would
        append the rows again.
        """
        rows = [[None if is_nan(value) else value for value in row] for row in zip(*columns.values(), strict=True)]
        text = json.dumps({"columns": list(columns), "data": rows}, ensure_ascii=False)
        self._send(lambda: self._client.log_text(self.run_id, text, name))
        self._tables.append({"path": name, "type": "table"})
        self.tag("mlflow.loggedArtifacts", json.dumps(self._tables))

    def predictions(
        self,
        name: str,
        rows: "Sequence[Sequence[NDArray[np.uint8]]]",
        palette: Sequence[tuple[int, int, int]],
        step: int,
    ) -> None:
        """Log images beside masks of them, as one picture that MLflow's UI shows by step.

        rows: for each image, its RGB (H, W, 3), then masks of class ids (H, W). palette: RGB colours of the classes;
        other ids become white. Every image and mask is drawn at the largest width of an image, at most 512 pixels.
        """

        def send() -> None:
            colours = np.full((256, 3), 255, np.uint8)  # ignored pixels are white
            colours[: len(palette)] = palette
            width = min(SHOWN, max(image.shape[1] for image, *_ in rows))
            drawn = []
            for image, *masks in rows:
                size = width, max(1, round(image.shape[0] * width / image.shape[1]))
                cells = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)]
                cells += [Image.fromarray(colours[mask]).resize(size, Image.Resampling.NEAREST) for mask in masks]
                drawn.append(np.concatenate([np.asarray(cell) for cell in cells], axis=1))
            self._client.log_image(self.run_id, np.concatenate(drawn), key=name, step=step)

        self._send(send)

    def summary(self, metrics: dict[str, float]) -> None:
        """Log final metrics to the parent run, as the result of the whole system, and end the parent run."""
        now = int(time.time() * 1000)

        def send() -> None:
            from mlflow.entities import Metric

            batch = [Metric(k, v, now, 0) for k, v in metrics.items() if not math.isnan(v)]
            self._client.log_batch(self.parent_id, metrics=batch)
            self._client.set_terminated(self.parent_id, "FINISHED")

        self._send(send)

    def tag(self, key: str, value: str) -> None:
        self._send(lambda: self._client.set_tag(self.run_id, key, value))

    def artifact(self, file: Path) -> None:
        self._send(lambda: self._client.log_artifact(self.run_id, str(file)))

    def end(self, status: str) -> None:
        """Close the run, after one last attempt to send the pending entries, with a time limit.

        status: FINISHED, FAILED or KILLED. If entries are lost, their number is printed.
        """
        if not self.enabled:
            return
        self._ended.set()
        if self._client is not None:
            self._client.once_more()
        self._send(lambda: self._close(status), time.monotonic() + 2 * limit())
        if lost := len(self._pending) + self._refused:
            print(f"{self.name}: {lost} entries did not reach MLflow; metrics are in the stage's files", flush=True)

    def _close(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)
        if status != "FINISHED" and self._client.get_run(self.parent_id).info.status == "RUNNING":
            self._client.set_terminated(self.parent_id, status)

    def _send(self, action: Callable[[], None], until: float = math.inf) -> None:
        """Send an entry to MLflow after the pending ones, or keep it for later if MLflow fails.

        until: the value of time.monotonic() after which no further entry is sent.
        """
        if not self.enabled:
            return
        self._pending.append(action)
        try:
            if self.run_id is None:
                self._open()
            while self._pending and time.monotonic() < until:
                try:
                    self._pending[0]()
                except Exception as error:
                    # An entry that MLflow always refuses must not block the entries after it.
                    refused = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
                    if not refused and getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                        raise
                    if not self._refused:
                        print(f"{self.name}: MLflow refuses an entry: {reason(error)}", flush=True)
                    self._refused += 1
                del self._pending[0]
        except Exception as error:  # noqa: BLE001 - a failure of tracking must not stop the stage
            if not self._warned:
                print(f"{self.name}: MLflow at {without_secrets(tracking_uri(self.root))} failed: {reason(error)}")
                print(
                    f"{self.name}: continuing without it; metrics are on disk, and sending is retried later", flush=True
                )
                self._warned = True

    def _open(self) -> None:
        """Create the run and its parent, or continue the run that an earlier attempt of the stage began."""
        self._client = client(self.root)
        experiment = get_or_create_experiment(self._client, self.params.data.name, self.root)
        self.parent_id = self._group(experiment)
        earlier = self._client.search_runs([experiment], f"tags.`stpp.key` = '{self.key}'", max_results=10)
        tags = self.tags | {"stpp.key": self.key, "mlflow.parentRunId": self.parent_id, "mlflow.source.name": "stpp"}
        remembered = self.memory.read_text(encoding="utf-8") if self.memory.exists() else ""
        begun = [run for run in earlier if run.info.run_id == remembered]
        if begun:
            run_id = remembered
            self._client.update_run(run_id, status="RUNNING")
            for name in (n for n in begun[0].data.metrics if not n.startswith("system/")):
                self._known[name] = max(m.step for m in self._client.get_metric_history(run_id, name))
        else:
            run_id = self._client.create_run(experiment, tags=tags, run_name=self.name).info.run_id
            write_text(self.memory, run_id)
        if not begun or not begun[0].data.params:  # the earlier attempt may have failed before this
            self._describe(run_id)
            for run in earlier:
                if run.info.status == "FINISHED":
                    self._client.set_tag(run.info.run_id, "stpp.superseded_by", run_id)
        self.run_id = run_id
        if self._client.uri.startswith("http"):
            print(f"{self.name}: {link(self._client.uri)}/#/experiments/{experiment}/runs/{run_id}", flush=True)
        self._watch(resumed=bool(begun))

    def _watch(self, resumed: bool) -> None:
        """Log system metrics (system/cpu_utilization_percentage, ...) until the run ends.

        MLflow's default is every ten seconds.
        """
        from mlflow.entities import Metric
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() not in ("true", "1"):
            return
        about = {"resume_logging": resumed, "tracking_uri": self._client.uri}
        monitor: Any = SystemMetricsMonitor
        machine = self._client.call(lambda: monitor(self.run_id, **about), limit())

        def record(metrics: dict[str, float], step: int) -> None:
            now = int(time.time() * 1000)
            self._client.log_batch(self.run_id, metrics=[Metric(k, v, now, step) for k, v in metrics.items()])

        def watch() -> None:
            while True:
                for _ in range(machine.samples_before_logging):
                    machine.collect_metrics()
                    if self._ended.wait(machine.sampling_interval):
                        return
                with suppress(Exception):  # a failure shows when the stage's own entries are sent
                    machine.publish_metrics(machine.aggregate_metrics())

        # MLflow's own logger and thread would wait without a time limit.
        machine.mlflow_logger = SimpleNamespace(record_metrics=record)
        threading.Thread(target=watch, daemon=True).start()

    def _group(self, experiment: str) -> str:
        """Return the id of the system's parent run; create it if it does not exist.

        The parent run groups the stages of one system, split and set of parameters. It is RUNNING until `summary`.
        """
        group = self.tags["stpp.group"]
        found = self._client.search_runs([experiment], f"tags.`stpp.is_group` = '{group}'", max_results=1)
        if found and found[0].data.params:
            run_id = str(found[0].info.run_id)
            if found[0].info.status in ("FAILED", "KILLED"):
                self._client.update_run(run_id, status="RUNNING")
            return run_id
        tags = {k: v for k, v in self.tags.items() if k != "stpp.dvc.stage"} | {"stpp.is_group": group}
        run = found[0] if found else self._client.create_run(experiment, tags=tags, run_name=self._title(experiment))
        self._describe(str(run.info.run_id))
        return str(run.info.run_id)

    def _title(self, experiment: str) -> str:
        """Return a name for the parent run: the system, and what differs from the first parent run of the system."""
        like = f"tags.`stpp.system` = '{self.tags['stpp.system']}' AND tags.`stpp.is_group` LIKE '%'"
        first = self._client.search_runs([experiment], like, max_results=1, order_by=["attributes.start_time ASC"])
        different = _differences(self.params, self.tags, first[0].data) if first else []
        return " ".join(
            [self.tags.get("stpp.label", self.tags["stpp.system"]), *(different or [self.params.split.name])]
        )

    def _describe(self, run_id: str) -> None:
        """Log the parameters, the data and the split."""
        self._log_datasets(run_id)
        self._log_params(run_id)

    def _log_datasets(self, run_id: str) -> None:
        """Log data and split as MLflow's inputs: the search `dataset.digest = '...'` finds every run that used them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        names = {"stpp.data.digest": self.params.data.name, "stpp.split.digest": self.params.split.name}
        inputs = [
            DatasetInput(
                Dataset(name, self.tags[key], source_type="stpp", source=json.dumps({key: self.tags[key]})),
                [InputTag("mlflow.data.context", key.split(".")[1])],
            )
            for key, name in names.items()
            if key in self.tags
        ]
        self._client.log_inputs(run_id, inputs)

    def _log_params(self, run_id: str) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(k, v) for k, v in _as_logged(self.params).items()])


def _as_logged(params: Params) -> dict[str, str]:
    return {k: str(v)[:6000] for k, v in flatten(params).items() if v is not None}


def _differences(params: Params, tags: Mapping[str, str], first: Any) -> list[str]:
    """Return how a parent run differs from the first one of its system: `ratio=0.25`, at most DIFFERENCES of these.

    first: the data of the first parent run. Parameters that do not count in `stpp.group` are left out.
    """
    counted = list(flatten(params.model_dump(exclude=ELSEWHERE)))
    short = {key: key.rpartition(".")[2] for key in counted}
    unique = {name for name, n in Counter(short.values()).items() if n == 1}
    now, before = _as_logged(params), first.params
    changed = [
        f"{short[key] if short[key] in unique else key}={now.get(key, 'null')}"
        for key in counted
        if now.get(key) != before.get(key)
    ]
    contents = [
        name for name in ("data", "split") if tags.get(f"stpp.{name}.digest") != first.tags.get(f"stpp.{name}.digest")
    ]
    changed = changed or [f"other {name}" for name in contents]
    more = len(changed) - DIFFERENCES
    return [*changed[:DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


@contextmanager
def track(
    name: str, key: str, params: Params, setting: Params, tags: dict[str, str], root: Path, memory: Path
) -> Iterator[Run]:
    """Open the MLflow run of one execution of a stage; its status is FINISHED, FAILED or KILLED at the end.

    setting: the parameters of params.yaml alone, without the overlays that make the system.
    memory: a file that holds the run's id and survives a kill, so that a killed stage continues in the same run.
    """
    stage = os.environ.get("DVC_STAGE", name)
    system = system_of(stage)
    try:
        overlays = overlays_of(stage)
    except StppError:
        overlays = {}  # the stage that reads the overlay reports the error
    context = {
        "stpp.system": system,
        "stpp.setting": _name_of(setting, tags, COMPARED),
        "stpp.group": _name_of(setting, tags, ELSEWHERE, system, overlays),
        "stpp.dvc.stage": stage,
        "stpp.dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
    }
    run = Run(name, key, params, tags | context | _git(), root, memory)
    try:
        yield run
    except KeyboardInterrupt:
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def _name_of(params: Params, tags: dict[str, str], without: dict[str, Any], *more: Any) -> str:
    """Return a hash (32 hex digits) of data, split, parameters and `more`.

    without: the parameters that do not count.
    """
    chosen = params.model_dump(mode="json", exclude=without)
    what = [chosen, *more, tags.get("stpp.data.digest"), tags.get("stpp.split.digest")]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _git() -> dict[str, str]:
    """Return the tags for the commit of the running code and for uncommitted changes.

    What DVC writes while a stage runs does not count as a change.
    """
    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN))
    return {"mlflow.source.git.commit": commit, "stpp.git.dirty": str(dirty).lower()}
