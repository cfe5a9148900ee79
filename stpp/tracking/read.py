"""Functions that read runs, tags and artifacts back from MLflow."""

import re
import tempfile
from pathlib import Path
from typing import Any

from stpp.store.files import StppError, read_json
from stpp.tracking.client import Client, query

EVALUATION = "attributes.run_name = 'evaluate'"
TRAINING = "tags.`stpp.out.model.safetensors` LIKE '%'"
"""Filters of MLflow for the run that evaluated a system, and for those that trained a model."""


def run_of(name: str, root: Path) -> str:
    """Return the run id that `runs:/ID`, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a plain id stands for.

    An id may be cut to its first 6 or more digits. It may also be the name of a parent run, or its hash (the tag
    `stpp.is_group`). Raises StppError if no run has it, or several.
    """
    if not name.startswith("models:/"):
        return _whole(name, name.removeprefix("runs:/").partition("/")[0] if name.startswith("runs:/") else name, root)
    model, at, alias = name.removeprefix("models:/").partition("@")
    if at:
        return str(query(root, lambda mlflow: mlflow.get_model_version_by_alias(model, alias)).run_id)
    model, _, version = model.partition("/")
    return str(query(root, lambda mlflow: mlflow.get_model_version(model, version)).run_id)


def _whole(name: str, start: str, root: Path) -> str:
    """Return the id of the one run that `start` stands for, from the argument `name`.

    start: the name of a parent run, or the first digits of a run's id or of the hash that identifies a parent run. A
    whole id is returned as it is.
    """
    if re.fullmatch(r"[0-9a-f]{32}", start):
        return start
    if re.fullmatch(r"[0-9a-f]{6,31}", start):
        filters = [f"attributes.run_id LIKE '{start}%'", f"tags.`stpp.is_group` LIKE '{start}%'"]
    else:
        filters = ["attributes.run_name = '{}' AND tags.`stpp.is_group` LIKE '%'".format(start.replace("'", ""))]

    def ask(mlflow: Client) -> dict[str, str]:
        experiments = [e.experiment_id for e in mlflow.search_experiments()]
        found = [run for which in filters for run in mlflow.search_runs(experiments, which, max_results=10)]
        return {run.info.run_id: run.info.run_name for run in found}

    try:
        found: dict[str, str] = query(root, ask)
    except StppError as error:
        raise StppError(f"{name}: no such file or folder, and {error}") from None
    if len(found) > 1:
        runs = ", ".join(f"{run_id} ({run_name})" for run_id, run_name in found.items())
        raise StppError(f"{name}: stands for several MLflow runs: {runs}; give more digits of the id")
    if not found:
        raise StppError(
            f"{name}: no such file or folder, and no MLflow run with this id or name (of an id, the first 6 digits are "
            "enough)"
        )
    return next(iter(found))


def tags_of(run_id: str, root: Path) -> dict[str, str]:
    """Return the tags of a run. Raises StppError if the run does not exist or MLflow does not answer."""
    return dict(query(root, lambda mlflow: mlflow.get_run(run_id)).data.tags)


def datasets_of(run_id: str, root: Path) -> dict[str, str]:
    """Return the digests of a run's input datasets, by context (data, split)."""
    inputs = query(root, lambda mlflow: mlflow.get_run(run_id)).inputs.dataset_inputs
    return {tag.value: one.dataset.digest for one in inputs for tag in one.tags if tag.key == "mlflow.data.context"}


def runs_like(tag: str, value: str, root: Path) -> list[str]:
    """Return the ids of the runs with this tag value in all experiments, newest first, at most 100."""

    def ask(mlflow: Client) -> list[str]:
        experiments = [e.experiment_id for e in mlflow.search_experiments()]
        found = mlflow.search_runs(experiments, f"tags.`{tag}` = '{value}'", max_results=100)
        return [run.info.run_id for run in found]

    return list(query(root, ask))


def splits_named(experiment: str, name: str, root: Path) -> dict[str, str]:
    """Return the digests of the splits called `name` in an experiment, each with the id of one run that used it."""

    def ask(mlflow: Client) -> dict[str, str]:
        found = mlflow.get_experiment_by_name(experiment)
        if found is None:
            return {}
        quoted = name.replace("'", "")
        runs = mlflow.search_runs([found.experiment_id], f"params.`split.name` = '{quoted}'", max_results=1000)
        return {tag: run.info.run_id for run in runs if (tag := run.data.tags.get("stpp.split.digest"))}

    return dict(query(root, ask))


def artifact_of(run_id: str, name: str, root: Path) -> Any:
    """Return the content of a run's JSON artifact.

    Raises StppError if the run has no such artifact or MLflow does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        return read_json(Path(query(root, lambda mlflow: mlflow.download_artifacts(run_id, name, folder))))


def member_of(run_id: str, which: str, root: Path) -> str:
    """Return the id of a parent run's newest child that fits `which`, a filter of MLflow.

    Without such a child, and for other runs, it is the given id.
    """

    def ask(mlflow: Client) -> str:
        run = mlflow.get_run(run_id)
        if "stpp.is_group" not in run.data.tags:
            return run_id
        wanted = f"tags.`mlflow.parentRunId` = '{run_id}' AND {which}"
        children = mlflow.search_runs([run.info.experiment_id], wanted, max_results=1)
        return str(children[0].info.run_id) if children else run_id

    return str(query(root, ask))
