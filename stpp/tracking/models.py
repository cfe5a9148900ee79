"""Checkpoints as logged models of MLflow: the metrics and the path of each. DVC keeps the weights themselves."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stpp.store.files import StppError
from stpp.tracking.client import Client, in_run, limit

FILE, SHA256, LOADABLE = "stpp.file", "stpp.sha256", "stpp.loadable"
"""Tags of a logged model: path and hash of its checkpoint, and the flavor if MLflow has its files."""


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights that a run wrote, and its metrics on val."""

    name: str
    """Name of the logged model."""
    file: Path
    sha256: str
    metrics: dict[str, float]
    step: int
    """The epoch after which it was saved, or the iteration if the length of the training is given in iterations."""
    val: str
    """Digest of val's images and masks."""
    tags: dict[str, str] = field(default_factory=dict)


def log_checkpoints(run_json: Path, checkpoints: Sequence[Checkpoint], data: str, root: Path) -> None:
    """Log checkpoints as models of the run that run.json names.

    data: name of the data set that they were measured on. An error of MLflow is printed and stops nothing.
    """

    def send(mlflow: Client, run_id: str) -> None:
        for one in checkpoints:
            get_or_log_model(mlflow, run_id, one, data)

    in_run(run_json, root, "its checkpoints were not logged in MLflow", send)


def get_or_log_model(mlflow: Client, run_id: str, one: Checkpoint, data: str) -> str:
    """Return the id of the logged model that has the checkpoint's name and tags; create it if it does not exist.

    Call it inside `in_run`, which sets MLFLOW_TRACKING_URI. Raises StppError if a new model's files would lie in
    another project.
    """
    from mlflow import create_external_model

    experiment = mlflow.get_run(run_id).info.experiment_id
    tags = one.tags | {FILE: one.file.as_posix(), SHA256: one.sha256}
    for known in mlflow.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{one.name}'"):
        if tags.items() <= known.tags.items():
            return str(known.model_id)
    if mlflow.elsewhere:  # MLflow would write a file for the model
        raise StppError(mlflow.elsewhere)
    about = {"tags": tags, "model_type": "segmentation", "experiment_id": experiment}
    model = mlflow.call(lambda: create_external_model(one.name, source_run_id=run_id, **about), limit())
    on = {"model_id": model.model_id, "dataset_name": f"{data} val", "dataset_digest": one.val}
    for key, value in one.metrics.items():
        if not math.isnan(value):  # NaN if val shows no class
            mlflow.log_metric(run_id, key, value, step=one.step, **on)
    return str(model.model_id)


def make_loadable(mlflow: Client, model_id: str, write: Callable[[Path], None]) -> None:
    """Give a logged model the files with which MLflow loads and serves it, unless it has them.

    write: writes the files into a new folder. Raises StppError if they would lie in another project.
    """
    if LOADABLE in mlflow.get_logged_model(model_id).tags:
        return
    if mlflow.elsewhere:
        raise StppError(mlflow.elsewhere)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model"
        write(packed)
        mlflow.log_model_artifacts(model_id, str(packed))
    mlflow.set_logged_model_tags(model_id, {LOADABLE: "pyfunc"})
    mlflow.delete_logged_model_tag(model_id, "mlflow.model.isExternal")
