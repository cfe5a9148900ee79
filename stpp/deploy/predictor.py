"""A checkpoint on any image, of any size."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpp.engine.device import precision
from stpp.engine.evaluate import NOT_FINITE
from stpp.engine.predict import LARGE, augmented, folded, mask_predictor, normalized, plain, sliding, step_of, window_of
from stpp.models import build
from stpp.params.models import Label
from stpp.store.files import StppError


class Predictor:
    """What a checkpoint of `stpp train` predicts; it says itself which network and classes it is of.

    window: side of the windows in pixels, which overlap by a third; None: whole images, but windows of 1024 above 4
    megapixels. tta: over the scales of pseudo labelling and their mirror images (paper, 4.1). Raises StppError if the
    file is no such checkpoint.
    """

    def __init__(self, model: Path, device: torch.device, *, window: int | None = None, tta: bool = False) -> None:
        self.about = build.about(model)
        network = build.of_checkpoint(model, self.about.model, len(self.about.classes))
        self.network = folded(network.to(device), self.about.model)
        self.device = device
        self.window = window
        self.way = augmented(plain, Label().scales, flip=True) if tta else plain

    def mask(self, image: NDArray[np.uint8]) -> Tensor:
        """RGB (H, W, 3), 0 to 255 -> class ids, uint8 (H, W), in main memory.

        Raises StppError, as `probabilities` does, if the network's numbers overflow.
        """
        with torch.inference_mode(), precision(self.about.model, self.device):
            mask, confidence, _ = mask_predictor(self.way, LARGE, self.window)(self.network, self._pixels(image))
        _check(confidence)
        return mask[0].cpu()

    def probabilities(self, image: NDArray[np.uint8]) -> Tensor:
        """RGB (H, W, 3), 0 to 255 -> class probabilities, float32 (classes, H, W), in main memory."""
        side = self.window or window_of(image.shape[0], image.shape[1], LARGE)
        way = sliding(side, step_of(side), self.way) if side else self.way
        with torch.inference_mode(), precision(self.about.model, self.device):
            found = (
                way(self.network, normalized(self._pixels(image).permute(0, 3, 1, 2), self.network))[0].float().cpu()
            )
        _check(found)
        return found

    def _pixels(self, image: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.require(image, requirements=["W", "C"])).unsqueeze(0).to(self.device)


def _check(probabilities: Tensor) -> None:
    if not bool(probabilities.isfinite().all()):
        raise StppError(NOT_FINITE)
