"""Checkpoints as MLflow's logged models: what was measured of each, and where it is. The weights stay with DVC."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stpp.store.files import StppError
from stpp.tracking.client import Client, in_run, limit

FILE, SHA256 = "stpp.file", "stpp.sha256"


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights that a run wrote, and what was measured of it on val."""

    name: str
    """Of the logged model."""
    file: Path
    sha256: str
    metrics: dict[str, float]
    step: int
    """The epoch after which it was kept, or the iteration where the length is given in these."""
    val: str
    """Digest of val's images and masks."""
    tags: dict[str, str] = field(default_factory=dict)


def log_checkpoints(run_json: Path, checkpoints: Sequence[Checkpoint], data: str, root: Path) -> None:
    """Log checkpoints as models of the run that run.json names; a failure is said and stops nothing.

    data: name of the data set that they were measured on.
    """

    def send(mlflow: Client, run_id: str) -> None:
        for one in checkpoints:
            logged(mlflow, run_id, one, data)

    in_run(run_json, root, "its checkpoints were not logged in MLflow", send)


def logged(mlflow: Client, run_id: str, one: Checkpoint, data: str) -> str:
    """The id of the logged model of a checkpoint, measured so; made where it is not there, in `in_run`."""
    from mlflow import create_external_model

    experiment = mlflow.get_run(run_id).info.experiment_id
    tags = one.tags | {FILE: one.file.as_posix(), SHA256: one.sha256}
    for known in mlflow.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{one.name}'"):
        if tags.items() <= known.tags.items():
            return str(known.model_id)
    if mlflow.elsewhere:  # MLflow writes a file for it
        raise StppError(mlflow.elsewhere)
    about = {"tags": tags, "model_type": "segmentation", "experiment_id": experiment}
    model = mlflow.call(lambda: create_external_model(one.name, source_run_id=run_id, **about), limit())
    on = {"model_id": model.model_id, "dataset_name": f"{data} val", "dataset_digest": one.val}
    for key, value in one.metrics.items():
        if not math.isnan(value):  # of a val that shows no class
            mlflow.log_metric(run_id, key, value, step=one.step, **on)
    return str(model.model_id)
