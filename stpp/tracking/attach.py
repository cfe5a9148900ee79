"""Functions that add figures, descriptions and links to ended MLflow runs, or publish files in a new run."""

import os
import shutil
import tempfile
from pathlib import Path

from stpp.store.files import sha256
from stpp.store.records import RunJson, read
from stpp.tracking.client import Client, client, get_or_create_experiment, in_run, reason

NOTE, OURS = "mlflow.note.content", "stpp.verdict"
"""Tags of a run: the description that MLflow's UI shows, and the last description that stpp wrote."""


def attach(run_json: Path, figures: list[Path], root: Path) -> None:
    """Upload figures to the run that run.json names, as artifacts under `figures/`.

    An existing artifact is never overwritten: a different figure of the same name gets its hash in its file name.
    An error of MLflow is printed and stops nothing.
    """

    def send(mlflow: Client, run_id: str) -> None:
        there = {one.path for one in mlflow.list_artifacts(run_id, "figures")}
        with tempfile.TemporaryDirectory() as folder:
            for figure in figures:
                named = figure
                if f"figures/{figure.name}" in there:
                    known = Path(mlflow.download_artifacts(run_id, f"figures/{figure.name}", folder))
                    if known.read_bytes() == figure.read_bytes():
                        continue
                    named = Path(folder) / f"{figure.stem}-{sha256(figure)[:8]}{figure.suffix}"
                    if f"figures/{named.name}" in there:
                        continue
                    shutil.copyfile(figure, named)
                mlflow.log_artifact(run_id, str(named), "figures")

    in_run(run_json, root, "figures did not reach MLflow", send)


def describe(run_json: Path, text: str, root: Path) -> None:
    """Set the description that MLflow's UI shows for a run, unless a person wrote another one.

    text: Markdown. An error of MLflow is printed and stops nothing.
    """

    def send(mlflow: Client, run_id: str) -> None:
        tags = mlflow.get_run(run_id).data.tags
        if tags.get(NOTE) == tags.get(OURS):
            for tag in (NOTE, OURS):
                mlflow.set_tag(run_id, tag, text)

    in_run(run_json, root, "its description did not reach MLflow", send)


def publish(experiment: str, name: str, files: list[Path], root: Path) -> None:
    """Create a run called `name` and upload files as its artifacts.

    An error of MLflow is printed and stops nothing.
    """
    if os.environ.get("STPP_TRACKING") == "off":
        return
    try:
        mlflow = client(root)
        run_id = mlflow.create_run(get_or_create_experiment(mlflow, experiment, root), run_name=name).info.run_id
        for file in files:
            mlflow.log_artifact(run_id, str(file))
        mlflow.set_terminated(run_id)
    except Exception as error:  # noqa: BLE001 - a failure of tracking must not stop the command
        print(f"{name}: did not reach MLflow: {reason(error)}")


def link(run_json: Path, members: list[Path], root: Path) -> None:
    """Tag the parent of the run that run_json names with the run ids of `members`.

    members: run.json files. The tag `stpp.run.STAGE` holds the run id of each stage. An MLflow run has one parent: a
    teacher that several systems share keeps its first parent, and the parents of the other systems name it by this tag.
    An error of MLflow is printed and stops nothing.
    """

    def name(mlflow: Client, run_id: str) -> None:
        parent = mlflow.get_run(run_id).data.tags["mlflow.parentRunId"]
        for member in members:
            other = read(member, RunJson)
            if other["run_id"] is None:  # it ran while MLflow was not reached
                continue
            mlflow.set_tag(parent, f"stpp.run.{other['stage']}", other["run_id"])

    in_run(run_json, root, "its runs could not be linked in MLflow", name)
