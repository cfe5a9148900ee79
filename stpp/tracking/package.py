"""Packaging of a checkpoint as an MLflow model, with the code that serves it."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from stpp.run.code import PACKAGE
from stpp.store.files import atomic_folder, write_text

NEEDS = (
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "pydantic",
    "pillow",
    "numpy",
    "scipy",
    "tifffile",
    "imagecodecs",
    "opencv-python-headless",
)
"""Packages that serving the model needs; each is pinned to its installed version."""
CARD = "README.md"
"""The model card in a packaged model."""


def package(model: Path, classes: Sequence[str], start: str, card: str, example: bytes, out: Path) -> None:
    """Write an MLflow pyfunc model (checkpoint, code for prediction, signature, example) into a new folder.

    start: the weights that its training began from, with their source and licence. card: the model card, in Markdown.
    example: an image file that the model can read.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from pandas import DataFrame  # MLflow installs pandas

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
            input_example=DataFrame({"image": [example]}),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDS],
            metadata={"classes": json.dumps(list(classes)), "start": start},
        )
        write_text(partial / CARD, card)
