"""The view of an experiment's table of runs in MLflow's UI: its columns, and its address."""

import base64
import json
import zlib
from typing import Any

TAG = "mlflow.sharedViewState.stpp"
"""The tag of an experiment in which MLflow's UI looks up the view called `stpp`."""
COLUMNS = (
    "metrics.`val/miou`",
    "metrics.`val/gain`",
    "metrics.`test/miou`",
    "params.`select.ratio`",
    "params.`split.name`",
    "params.`train.seed`",
)


def saved_view() -> str:
    """Return the value of TAG: the view as MLflow's UI saves one."""
    packed = base64.b64encode(zlib.compress(json.dumps({"selectedColumns": COLUMNS}).encode())).decode()
    return json.dumps({"name": "results", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})


def address(experiment: Any) -> str:
    """Return the address of an experiment's runs below the server's, in the saved view if the experiment has it."""
    # Without `workflowType`, MLflow's UI opens in its mode for language models.
    page = f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    return f"{page}&viewStateShareKey={TAG.rpartition('.')[2]}" if TAG in experiment.tags else page
