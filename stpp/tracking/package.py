"""Packaging of a checkpoint as an MLflow model, with the code that serves it."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from stpp.run.code import PACKAGE
from stpp.store.files import atomic_folder

NEEDS = (
    "torch",
    "torchvision",
    "safetensors",
    "pydantic",
    "pillow",
    "numpy",
    "opencv-python-headless",
    "albumentations",
)
"""Packages that serving the model needs; each is pinned to its installed version."""


def package(model: Path, classes: Sequence[str], start: str, out: Path) -> None:
    """Write an MLflow pyfunc model (checkpoint, code for prediction, signature) into a new folder.

    start: the weights that its training began from, with their source and licence.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    column = "binary"
    signature = ModelSignature(Schema([ColSpec(column, "image")]), Schema([ColSpec(column, "mask")]))
    with atomic_folder(out) as partial:
        partial.rmdir()  # MLflow creates the folder itself
        mlflow.pyfunc.save_model(
            str(partial),
            loader_module="stpp.deploy.served",
            data_path=str(model),
            code_paths=[str(PACKAGE)],
            signature=signature,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDS],
            metadata={"classes": json.dumps(list(classes)), "start": start},
        )
