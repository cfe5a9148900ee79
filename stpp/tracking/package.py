"""A checkpoint as an MLflow model that serves itself."""

import json
from collections.abc import Sequence
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


def package(model: Path, classes: Sequence[str], start: str, out: Path) -> None:
    """Write an MLflow pyfunc model with signature, the checkpoint, and the code that predicts, into a new folder.

    start: which weights its training began from, with source and licence.
    """
    from importlib.metadata import version

    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    column = "binary"
    signature = ModelSignature(Schema([ColSpec(column, "image")]), Schema([ColSpec(column, "mask")]))
    with atomic_folder(out) as partial:
        partial.rmdir()  # MLflow makes it itself
        mlflow.pyfunc.save_model(
            str(partial),
            loader_module="stpp.deploy.served",
            data_path=str(model),
            code_paths=[str(PACKAGE)],
            signature=signature,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDS],
            metadata={"classes": json.dumps(list(classes)), "start": start},
        )
