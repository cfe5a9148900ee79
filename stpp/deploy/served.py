"""A checkpoint behind MLflow's scoring server: images in, masks out."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stpp.data.images import read_image
from stpp.deploy.predictor import Predictor
from stpp.store.files import StppError
from stpp.store.masks import encode_mask

if TYPE_CHECKING:
    from pandas import DataFrame

IMAGE, MASK = "image", "mask"


class Segmenter:
    """What MLflow calls: a table with a column of encoded images -> one with a column of masks."""

    def __init__(self, model: Path) -> None:
        self.predictor = Predictor(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def predict(self, table: "DataFrame") -> "DataFrame":
        """Images as the bytes of a PNG, JPEG or other file -> masks as the bytes of a PNG of class ids.

        Raises MLflow's own exception naming the row of what is no image: the server answers with it (status 400), and
        with the stack of any other.
        """
        from pandas import DataFrame  # comes with MLflow, which alone calls this

        return DataFrame({MASK: [self._mask(row, data) for row, data in enumerate(table[IMAGE])]})

    def _mask(self, row: int, data: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image"
            path.write_bytes(data)
            try:
                image, _ = read_image(path)
                mask = self.predictor.mask(image).numpy()
            except StppError as error:
                from mlflow.exceptions import MlflowException  # MLflow alone calls this

                said = str(error).replace(str(path), "the image")
                raise MlflowException.invalid_parameter_value(f"row {row}: {said}") from None
        return encode_mask(mask, self.predictor.about.palette)


def _load_pyfunc(path: str) -> Segmenter:
    """The name by which MLflow loads a model of this module."""
    return Segmenter(Path(path))
