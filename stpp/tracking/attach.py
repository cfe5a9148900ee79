"""What is put into MLflow runs after they have ended: figures, files, and which runs belong together."""

import json
import os
from pathlib import Path

from stpp.tracking.client import client, experiment_of, reason


def attach(run_json: Path, figures: list[Path], root: Path) -> None:
    """Put figures into the run that run.json names, under `figures/`; a failure is said and stops nothing."""
    about = json.loads(run_json.read_text(encoding="utf-8"))
    if about["run_id"] is None or os.environ.get("STPP_TRACKING") == "off":
        return
    try:
        mlflow = client(root)
        for figure in figures:
            mlflow.log_artifact(about["run_id"], str(figure), "figures")
    except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the stage goes on
        print(f"{run_json}: figures did not reach MLflow: {reason(error)}")


def publish(experiment: str, name: str, files: list[Path], root: Path) -> None:
    """Keep files as artifacts of a run called `name`; a failure is said and stops nothing."""
    if os.environ.get("STPP_TRACKING") == "off":
        return
    try:
        mlflow = client(root)
        run_id = mlflow.create_run(experiment_of(mlflow, experiment, root), run_name=name).info.run_id
        for file in files:
            mlflow.log_artifact(run_id, str(file))
        mlflow.set_terminated(run_id)
    except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the command goes on
        print(f"{name}: did not reach MLflow: {reason(error)}")


def link(run_json: Path, members: list[Path], root: Path) -> None:
    """Name the runs of `members` in the parent of the run that run_json names.

    A run has one parent: a teacher that several systems share keeps its first, and the others name it so.
    """
    about = json.loads(run_json.read_text(encoding="utf-8"))
    if about["run_id"] is None or os.environ.get("STPP_TRACKING") == "off":
        return
    try:
        mlflow = client(root)
        parent = mlflow.get_run(about["run_id"]).data.tags["mlflow.parentRunId"]
        for member in members:
            other = json.loads(member.read_text(encoding="utf-8"))
            mlflow.set_tag(parent, f"stpp.run.{other['stage']}", other["run_id"])
    except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the stage goes on
        print(f"{run_json}: its runs could not be linked in MLflow: {reason(error)}")
