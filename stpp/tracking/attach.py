"""What is put into MLflow runs after they have ended: figures, files, and which runs belong together."""

import os
import shutil
import tempfile
from pathlib import Path

from stpp.store.files import sha256
from stpp.tracking.client import Client, client, experiment_of, in_run, reason

NOTE, OURS = "mlflow.note.content", "stpp.verdict"


def attach(run_json: Path, figures: list[Path], root: Path) -> None:
    """Put figures into the run that run.json names, under `figures/`; a failure is said and stops nothing.

    What is there stays as it is: another figure of the same name is kept beside it, with its hash in its name.
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
    """Make a text (Markdown) the description that MLflow's UI shows of a run, unless a person wrote another.

    A failure is said and stops nothing.
    """

    def send(mlflow: Client, run_id: str) -> None:
        tags = mlflow.get_run(run_id).data.tags
        if tags.get(NOTE) == tags.get(OURS):
            for tag in (NOTE, OURS):
                mlflow.set_tag(run_id, tag, text)

    in_run(run_json, root, "its description did not reach MLflow", send)


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
    from stpp.store.records import Run, read

    def name(mlflow: Client, run_id: str) -> None:
        parent = mlflow.get_run(run_id).data.tags["mlflow.parentRunId"]
        for member in members:
            other = read(member, Run)
            mlflow.set_tag(parent, f"stpp.run.{other['stage']}", other["run_id"])

    in_run(run_json, root, "its runs could not be linked in MLflow", name)
