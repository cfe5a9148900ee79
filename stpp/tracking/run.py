"""The MLflow run of a stage."""

import hashlib
import importlib.util
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from stpp.run.distributed import is_main
from stpp.run.git import git
from stpp.store.files import StppError, write_text
from stpp.tracking.client import client, experiment_of, limit, reason, tracking_uri
from stpp.tracking.secrets import link, without_secrets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stpp.params.models import Params

ELSEWHERE = {"runtime": True, "toy": True, "data": True, "score": True, "label": {"batch_size", "shards"}}
"""Parameters that say how to compute, or whose meaning is in the digest of the data."""
COMPARED = ELSEWHERE | {"select": True, "online": True}
"""Besides, what makes a system: two systems need not share it to compare."""
SHOWN = 512
"""Pixels: an image of a prediction is at most so wide."""
WRITTEN = (":!dvc.lock", ":!pipelines/*/dvc.lock", ":!runs")


class Run:
    """One stage's MLflow run, made when there is something to say. A failure is said once, and tried again later."""

    def __init__(self, name: str, key: str, params: "Params", tags: dict[str, str], root: Path, memory: Path) -> None:
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
        """Metrics of a step; a step that an earlier attempt logged is not logged again. NaN is left out."""
        now = int(time.time() * 1000)  # sent twice, it is one

        def send() -> None:
            from mlflow.entities import Metric

            new = {k: v for k, v in metrics.items() if step > self._known.get(k, -1)}
            batch = [Metric(k, v, now, step) for k, v in new.items() if k != "epoch" and not math.isnan(v)]
            for start in range(0, len(batch), 1000):
                self._client.log_batch(self.run_id, metrics=batch[start : start + 1000])

        self._send(send)

    def table(self, columns: dict[str, list[Any]], name: str) -> None:
        """A table that the UI shows: column name -> values. Sent twice, it is one (MLflow's own would be appended)."""
        rows = [[None if is_nan(value) else value for value in row] for row in zip(*columns.values(), strict=True)]
        text = json.dumps({"columns": list(columns), "data": rows}, ensure_ascii=False)
        self._send(lambda: self._client.log_text(self.run_id, text, name))
        self._tables.append({"path": name, "type": "table"})
        self.tag("mlflow.loggedArtifacts", json.dumps(self._tables))

    def prediction(
        self,
        name: str,
        image: "NDArray[np.uint8]",
        masks: "Sequence[NDArray[np.uint8]]",
        palette: Sequence[tuple[int, int, int]],
        step: int,
    ) -> None:
        """An image (H, W, 3) beside masks (H, W) of it, which the UI shows by step; at most 512 px wide each."""

        def send() -> None:
            import numpy as np
            from PIL import Image

            colours = np.full((256, 3), 255, np.uint8)  # what is ignored is white
            colours[: len(palette)] = palette
            scale = min(1.0, SHOWN / image.shape[1])
            size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
            cells = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)]
            cells += [Image.fromarray(colours[mask]).resize(size, Image.Resampling.NEAREST) for mask in masks]
            shown = np.concatenate([np.asarray(cell) for cell in cells], axis=1)
            key = re.sub(r"[^A-Za-z0-9_./ -]", "_", name)  # what MLflow takes
            self._client.log_image(self.run_id, shown, key=key, step=step)

        self._send(send)

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics, shown with the parent run as what the whole system came to."""

        def send() -> None:
            for key, value in metrics.items():
                self._client.log_metric(self.parent_id, key, value)

        self._send(send)

    def tag(self, key: str, value: str) -> None:
        self._send(lambda: self._client.set_tag(self.run_id, key, value))

    def artifact(self, file: Path) -> None:
        self._send(lambda: self._client.log_artifact(self.run_id, str(file)))

    def end(self, status: str) -> None:
        """Close the run: what is still to be said is tried once more, for a short while."""
        if not self.enabled:
            return
        self._ended.set()
        if self._client is not None:
            self._client.once_more()
        self._send(lambda: self._client.set_terminated(self.run_id, status), time.monotonic() + 2 * limit())
        if lost := len(self._pending) + self._refused:
            print(f"{self.name}: {lost} entries did not reach MLflow; metrics are in the stage's files", flush=True)

    def _send(self, action: Callable[[], None], until: float = math.inf) -> None:
        """Say it to MLflow after all that is still to be said, or keep it for later; until: time.monotonic()."""
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
                    # What MLflow will never take must not hold back all that follows.
                    refused = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
                    if not refused and getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                        raise
                    if not self._refused:
                        print(f"{self.name}: MLflow refuses an entry: {reason(error)}", flush=True)
                    self._refused += 1
                del self._pending[0]
        except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the stage goes on
            if not self._warned:
                print(f"{self.name}: MLflow at {without_secrets(tracking_uri(self.root))} failed: {reason(error)}")
                print(f"{self.name}: going on without it; metrics are on disk, and it is tried again later", flush=True)
                self._warned = True

    def _open(self) -> None:
        self._client = client(self.root)
        experiment = experiment_of(self._client, self.params.data.name, self.root)
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
        if not begun or not begun[0].data.params:  # it may have failed just then
            self._describe(run_id)
            for run in earlier:
                if run.info.status == "FINISHED":
                    self._client.set_tag(run.info.run_id, "stpp.superseded_by", run_id)
        self.run_id = run_id
        if self._client.uri.startswith("http"):
            print(f"{self.name}: {link(self._client.uri)}/#/experiments/{experiment}/runs/{run_id}", flush=True)
        self._watch(resumed=bool(begun))

    def _watch(self, resumed: bool) -> None:
        """Log what the machine does (system/cpu_utilization_percentage, ...) every ten seconds until the end."""
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
                with suppress(Exception):  # the stage's own entries say it
                    machine.publish_metrics(machine.aggregate_metrics())

        machine.mlflow_logger = SimpleNamespace(record_metrics=record)  # its own, and its thread, wait without end
        threading.Thread(target=watch, daemon=True).start()

    def _group(self, experiment: str) -> str:
        """The parent run that holds together the stages of one system, split and set of parameters."""
        group = self.tags["stpp.group"]
        found = self._client.search_runs([experiment], f"tags.`stpp.is_group` = '{group}'", max_results=1)
        if found and found[0].data.params:
            return str(found[0].info.run_id)
        tags = {k: v for k, v in self.tags.items() if k != "stpp.dvc.stage"} | {"stpp.is_group": group}
        name = f"{self.tags['stpp.system']} {self.params.split.name} {group[:8]}"
        run = found[0] if found else self._client.create_run(experiment, tags=tags, run_name=name)
        run_id = str(run.info.run_id)
        self._describe(run_id)
        self._client.set_terminated(run_id)
        return run_id

    def _describe(self, run_id: str) -> None:
        """Log the parameters, and data and split."""
        self._log_datasets(run_id)
        self._log_params(run_id)

    def _log_datasets(self, run_id: str) -> None:
        """Data and split as MLflow's inputs: `dataset.digest = '...'` finds every run that used them."""
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

        from stpp.params.file import flatten

        flat = {k: str(v)[:6000] for k, v in flatten(self.params).items() if v is not None}
        self._client.log_batch(run_id, params=[Param(k, v) for k, v in flat.items()])


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


@contextmanager
def track(
    name: str, key: str, params: "Params", setting: "Params", tags: dict[str, str], root: Path, memory: Path
) -> Iterator[Run]:
    """The run of one executed stage; FINISHED, FAILED or KILLED at the end.

    setting: the parameters without what makes the system: those of params.yaml, whatever overlays say.
    memory: a file that survives a kill and holds the run's id, so that a killed stage goes on in its own run.
    """
    from stpp.params.file import overlays_of, pipeline_of

    stage = os.environ.get("DVC_STAGE", name)
    pipeline, variant = pipeline_of(stage)
    system = " ".join(filter(None, (pipeline or "stpp", variant)))
    try:
        overlays = overlays_of(stage)
    except StppError:
        overlays = {}  # the stage that reads it says so
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


def _name_of(params: "Params", tags: dict[str, str], without: dict[str, Any], *more: Any) -> str:
    """A name for data, split and parameters together, but for some of these; 32 characters."""
    chosen = params.model_dump(mode="json", exclude=without)
    what = [chosen, *more, tags.get("stpp.data.digest"), tags.get("stpp.split.digest")]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _git() -> dict[str, str]:
    """Commit and cleanliness of the code that runs; what DVC writes while it runs does not count."""
    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN))
    return {"mlflow.source.git.commit": commit, "stpp.git.dirty": str(dirty).lower()}
