"""What is put into MLflow runs after they have ended: figures, files, and which runs belong together."""

import os
from pathlib import Path
from typing import Any

from stpp.tracking.client import client, experiment_of, in_run, reason


def attach(run_json: Path, figures: list[Path], root: Path) -> None:
    """Put figures into the run that run.json names, under `figures/`; a failure is said and stops nothing."""

    def send(mlflow: Any, run_id: str) -> None:
        for figure in figures:
            mlflow.log_artifact(run_id, str(figure), "figures")

    in_run(run_json, root, "figures did not reach MLflow", send)


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

    from stpp.records import Run, read

    def name(mlflow: Any, run_id: str) -> None:
        parent = mlflow.get_run(run_id).data.tags["mlflow.parentRunId"]
        for member in members:
            other = read(member, Run)
            mlflow.set_tag(parent, f"stpp.run.{other['stage']}", other["run_id"])

    in_run(run_json, root, "its runs could not be linked in MLflow", name)
