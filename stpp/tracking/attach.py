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
    in_run(run_json, root, "figures did not reach MLflow", lambda mlflow, run_id: _upload(mlflow, run_id, figures))


def _upload(mlflow: Client, run_id: str, figures: list[Path]) -> None:
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


def conclude(evaluation: Path, members: list[Path], text: str, figures: list[Path], root: Path) -> None:
    """Describe the runs of an evaluated system: the evaluation's run and the parent run.

    evaluation: run.json of the evaluation. members: the run.json files of all stages behind it. text: Markdown.
    figures: added to the parent run. A description that a person wrote stays. An error of MLflow is printed and stops
    nothing.

    An MLflow run has one parent: a teacher that several systems share keeps its first parent. So the tag
    `stpp.run.STAGE` of every parent holds the run id of each stage, and its description has a link to each.
    """

    def send(mlflow: Client, run_id: str) -> None:
        run = mlflow.get_run(run_id)
        parent = run.data.tags["mlflow.parentRunId"]
        about = [one for one in (read(member, RunJson) for member in members) if one["run_id"] is not None]
        for one in about:
            mlflow.set_tag(parent, f"stpp.run.{one['stage']}", one["run_id"])
        runs = f"#/experiments/{run.info.experiment_id}/runs"
        links = ", ".join(f"[{one['stage']}]({runs}/{one['run_id']})" for one in about)
        _upload(mlflow, parent, figures)
        for which, said in (
            (run_id, text),
            (parent, f"{text}\n\nRuns of this system, also those of others that it shares: {links}"),
        ):
            tags = mlflow.get_run(which).data.tags
            if tags.get(NOTE) == tags.get(OURS):
                for tag in (NOTE, OURS):
                    mlflow.set_tag(which, tag, said)

    in_run(evaluation, root, "its description did not reach MLflow", send)


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
