"""What MLflow holds, read back."""

from pathlib import Path
from typing import Any

from stpp.tracking.client import Client, asked


def run_of(name: str, root: Path) -> str:
    """The run id that `runs:/ID`, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or an id itself stands for."""
    if not name.startswith("models:/"):
        return name.removeprefix("runs:/").partition("/")[0]
    model, at, alias = name.removeprefix("models:/").partition("@")
    if at:
        return str(asked(root, lambda mlflow: mlflow.get_model_version_by_alias(model, alias)).run_id)
    model, _, version = model.partition("/")
    return str(asked(root, lambda mlflow: mlflow.get_model_version(model, version)).run_id)


def tags_of(run_id: str, root: Path) -> dict[str, str]:
    """A run's tags. Raises StppError if it is not there, or MLflow does not answer."""
    return dict(asked(root, lambda mlflow: mlflow.get_run(run_id)).data.tags)


def datasets_of(run_id: str, root: Path) -> dict[str, str]:
    """Digests of the datasets that a run has as inputs, by context (data, split)."""
    inputs = asked(root, lambda mlflow: mlflow.get_run(run_id)).inputs.dataset_inputs
    return {tag.value: one.dataset.digest for one in inputs for tag in one.tags if tag.key == "mlflow.data.context"}


def runs_like(tag: str, value: str, root: Path) -> list[str]:
    """Ids of the runs with a tag, of all experiments, the newest first."""

    def ask(mlflow: Client) -> list[str]:
        experiments = [e.experiment_id for e in mlflow.search_experiments()]
        found = mlflow.search_runs(experiments, f"tags.`{tag}` = '{value}'", max_results=100)
        return [run.info.run_id for run in found]

    return list(asked(root, ask))


def splits_named(experiment: str, name: str, root: Path) -> dict[str, str]:
    """Digests of the splits that runs of an experiment called by a name, each with one of these runs."""

    def ask(mlflow: Client) -> dict[str, str]:
        found = mlflow.get_experiment_by_name(experiment)
        if found is None:
            return {}
        quoted = name.replace("'", "")
        runs = mlflow.search_runs([found.experiment_id], f"params.`split.name` = '{quoted}'", max_results=1000)
        return {tag: run.info.run_id for run in runs if (tag := run.data.tags.get("stpp.split.digest"))}

    return dict(asked(root, ask))


def artifact_of(run_id: str, name: str, root: Path) -> Any:
    """A JSON file that a run keeps. Raises StppError if it keeps none, or MLflow does not answer."""
    import tempfile

    from stpp.store.files import read_json

    with tempfile.TemporaryDirectory() as folder:
        return read_json(Path(asked(root, lambda mlflow: mlflow.download_artifacts(run_id, name, folder))))


def evaluation_of(run_id: str, root: Path) -> str:
    """The run that evaluated a system: itself, or the newest such child of a parent run."""

    def ask(mlflow: Client) -> str:
        run = mlflow.get_run(run_id)
        if "stpp.is_group" not in run.data.tags:
            return run_id
        wanted = f"tags.`mlflow.parentRunId` = '{run_id}' AND attributes.run_name = 'evaluate'"
        children = mlflow.search_runs([run.info.experiment_id], wanted, max_results=1)
        return str(children[0].info.run_id) if children else run_id

    return str(asked(root, ask))
