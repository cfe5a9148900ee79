"""How MLflow is reached, and what is said where it is not."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stpp.files import StppError


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the project's folder (absolute, since DVC's queue works in a copy)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def client(root: Path) -> Any:
    """An MlflowClient that gives up within seconds, quietly."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(root))


@contextmanager
def by_default(uri: str) -> Iterator[None]:
    """MLFLOW_TRACKING_URI is this: what of MLflow makes a client of its own knows that address alone."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def experiment_of(mlflow: Any, name: str, root: Path) -> str:
    """The id of an experiment, made where it is not there."""
    known = mlflow.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    # A server chooses its own place; beside a database it would be the working directory of the moment.
    place = None if tracking_uri(root).startswith("http") else (root / "mlartifacts" / name).as_uri()
    # The kind makes the UI open as one for model training.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return str(mlflow.create_experiment(name, artifact_location=place, tags=tags))


def asked(root: Path, ask: Callable[[Any], Any]) -> Any:
    """What MLflow answers. Raises StppError with its reason if it does not."""
    uri = tracking_uri(root)
    if uri == f"sqlite:///{root / 'mlflow.db'}" and not (root / "mlflow.db").is_file():
        raise StppError(f"no MLflow run is known: {root / 'mlflow.db'} is not there, and MLFLOW_TRACKING_URI not set")
    try:
        return ask(client(root))
    except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the command says it in one line
        raise StppError(f"MLflow at {without_password(uri)}: {reason(error)}") from None


def in_run(run_json: Path, root: Path, failed: str, do: Callable[[Any, str], None]) -> None:
    """Call do(MlflowClient, run id) for the run that run.json names, if there is one.

    A failure is said, "run.json: FAILED: its reason", and stops nothing.
    """
    from stpp.records import Run, read

    run_id = read(run_json, Run)["run_id"]
    if run_id is None or os.environ.get("STPP_TRACKING") == "off":
        return
    try:
        do(client(root), run_id)
    except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the stage goes on
        print(f"{run_json}: {failed}: {reason(error)}")


def reason(error: Exception) -> str:
    """The first line of an error, without the passwords that an address may hold."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return without_password(first)[:200]


def without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://***@", text)
