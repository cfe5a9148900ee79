"""The registered model of a data set: its versions, and the alias `champion` for the best one.

Every final student becomes a version, and so does a better model of the same system if there is one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stpp.tracking.client import Client, in_run
from stpp.tracking.models import Checkpoint, get_or_log_model, make_loadable

ALIAS = "champion"
VAL, HOW, MIOU, ONLY = "stpp.val.digest", "stpp.evaluation", "stpp.val.miou_percent", "stpp.val.only"
"""Tags of a version, one for each field of `Measured`."""
FRACTION = "stpp.val.miou"
"""The tag that older versions of stpp wrote in place of MIOU: a fraction."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a model on val.

    miou: in percent. val: digest of val's images and masks. how: how the model was evaluated.
    """

    miou: float
    val: str
    how: str
    only: str = ""
    """The class that the model predicts for every pixel of val; empty if it predicts several."""

    @property
    def tags(self) -> dict[str, str]:
        one_class = {ONLY: self.only} if self.only else {}
        return {VAL: self.val, HOW: self.how, MIOU: f"{self.miou:.4f}"} | one_class


def register(
    run_json: Path,
    name: str,
    checkpoint: Checkpoint,
    root: Path,
    card: str = "",
    write: Callable[[Path], None] | None = None,
) -> None:
    """Register the model of a run, and make it the champion if its mIoU on val beats the present champion's.

    checkpoint: the model's, with the tags of `Measured`. If the two models were measured on different images or masks,
    or in different ways, they are not compared and the champion stays. A model that predicts a single class, or has no
    mIoU on val, never becomes the champion. The decision and its reason are printed. An error of MLflow is printed and
    stops nothing.

    card: describes the version, if no person has described it. write: writes the files of a loadable model into a new
    folder; None: the version only says where DVC has the checkpoint.
    """

    def send(mlflow: Client, run_id: str) -> None:
        version = _version(mlflow, run_id, name, checkpoint)
        if write:
            make_loadable(mlflow, get_or_log_model(mlflow, run_id, checkpoint, name), write)
        if card and not version.description:
            mlflow.update_model_version(name, version.version, card)
        print(f"model {name}: {_decide(mlflow, name, version)}")

    in_run(run_json, root, "its model was not registered in MLflow", send)


def _version(mlflow: Client, run_id: str, name: str, checkpoint: Checkpoint) -> Any:
    """Return the version of a run's model that has the checkpoint's tags; create it if it does not exist."""
    if not mlflow.search_registered_models(filter_string=f"name = '{name}'"):
        mlflow.create_registered_model(name)
    for known in mlflow.search_model_versions(f"name = '{name}'"):
        if known.run_id == run_id and checkpoint.tags.items() <= known.tags.items():
            return known
    model_id = get_or_log_model(mlflow, run_id, checkpoint, name)
    return mlflow.create_model_version(
        name, f"models:/{model_id}", run_id=run_id, model_id=model_id, tags=checkpoint.tags
    )


def _decide(mlflow: Client, name: str, new: Any) -> str:
    """Give the alias to the new version or leave it, and return the decision and its reason as text."""
    aliases = mlflow.get_registered_model(name).aliases
    miou = float(new.tags[MIOU])
    measured = f"version {new.version} (val mIoU {miou:.1f})"
    if math.isnan(miou) or ONLY in new.tags:
        why = f"predicts {new.tags[ONLY]} for every pixel of val" if ONLY in new.tags else "has no mIoU on val"
        if ALIAS in aliases and mlflow.get_model_version(name, aliases[ALIAS]).run_id == new.run_id:
            mlflow.delete_registered_model_alias(name, ALIAS)  # the run got it before this check existed
        return f"version {new.version} {why} and cannot be the {ALIAS}; an earlier {ALIAS} stays"
    if ALIAS not in aliases:
        mlflow.set_registered_model_alias(name, ALIAS, new.version)
        return f"{measured} is the first {ALIAS}"
    old = mlflow.get_model_version(name, aliases[ALIAS])
    present = f"the {ALIAS}, version {old.version}"
    if old.version == new.version:
        return f"{measured} is the {ALIAS}"
    before = float(old.tags[MIOU]) if MIOU in old.tags else 100 * float(old.tags.get(FRACTION, math.nan))
    if math.isnan(before) or any(old.tags.get(key) != new.tags[key] for key in (VAL, HOW)):
        return f"{present}, stays: it was measured on another val or in another way; {measured} is registered"
    if before >= miou:
        return f"{present} ({before:.1f}), stays; {measured} is not better"
    mlflow.set_registered_model_alias(name, ALIAS, new.version)
    return f"{measured} is the new {ALIAS}, in place of version {old.version} ({before:.1f})"
