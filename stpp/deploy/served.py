"""The model that MLflow's scoring server loads to serve a checkpoint: images in, masks out."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpp.data.bands import read_with
from stpp.deploy.predictor import Predictor
from stpp.store.files import StppError
from stpp.store.masks import IGNORE, encode_mask

if TYPE_CHECKING:
    from pandas import DataFrame

IMAGE, MASK = "image", "mask"
"""The columns of the input and of the output table."""


class Segmenter:
    """The MLflow pyfunc model: a table with a column of encoded images -> a table with a column of encoded masks."""

    def __init__(self, model: Path) -> None:
        self.predictor = Predictor(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def predict(self, table: "DataFrame") -> "DataFrame":
        """Return a table with the mask of each image, as the bytes of a PNG of class ids.

        Images are the bytes of a PNG, JPEG or other image file.

        Raises MlflowException naming the row of bytes that cannot be read as an image or predicted. The server answers
        it with its message (status 400), but any other exception with its stack trace.
        """
        from pandas import DataFrame  # MLflow installs pandas, and only MLflow calls this

        return DataFrame({MASK: [self._mask(row, data) for row, data in enumerate(table[IMAGE])]})

    def _mask(self, row: int, data: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image"
            path.write_bytes(data)
            try:
                photo = read_with(path, self.predictor.about.reading)
                mask = self.predictor.mask(photo.pixels).numpy()
                mask = mask if photo.nodata is None else np.where(photo.nodata, np.uint8(IGNORE), mask)
            except StppError as error:
                from mlflow.exceptions import MlflowException  # only MLflow calls this

                said = str(error).replace(str(path), "the image")
                raise MlflowException.invalid_parameter_value(f"row {row}: {said}") from None
        return encode_mask(mask, self.predictor.about.palette)


def _load_pyfunc(path: str) -> Segmenter:
    """Load the model from a checkpoint. MLflow requires this function name of a loader module."""
    return Segmenter(Path(path))
