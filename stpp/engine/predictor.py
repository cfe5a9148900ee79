"""A checkpoint on any image, of any size."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stpp.data.transforms import normalize
from stpp.engine.device import precision
from stpp.engine.predict import augmented, plain, sliding
from stpp.models import build
from stpp.params import Label

LARGE, WINDOW = 2**22, 1024
"""An image of more pixels is predicted in windows of so many, with a third of overlap."""


class Predictor:
    """What a checkpoint of `stpp train` predicts; it says itself which network and classes it is of.

    window: side of the windows in pixels; None: whole images, but windows of 1024 above 4 megapixels. tta: over the
    scales of pseudo labelling and their mirror images (paper, 4.1). Raises StppError if the file is no such checkpoint.
    """

    def __init__(self, model: Path, device: torch.device, *, window: int | None = None, tta: bool = False) -> None:
        self.about = build.about(model)
        self.network = build.load(build.build(self.about.model, len(self.about.classes)), model).to(device).eval()
        self.device = device
        self.window = window
        self.predict = augmented(self._of_any_size, Label().scales, flip=True) if tta else self._of_any_size

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """RGB (H, W, 3), 0 to 255 -> class probabilities (classes, H, W), in main memory."""
        x = torch.from_numpy(normalize(image)).unsqueeze(0).to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode(), precision(self.about.model, self.device):
            return self.predict(self.network, x)[0].float().cpu()

    def _of_any_size(self, network: nn.Module, x: Tensor) -> Tensor:
        side = self.window or (WINDOW if x.shape[2] * x.shape[3] > LARGE else None)
        return (sliding(side, side * 2 // 3) if side else plain)(network, x)
