"""Prediction with a checkpoint, or with an exported model, on images of any size."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpp.deploy import engines
from stpp.engine.device import autocast
from stpp.engine.evaluate import NOT_FINITE
from stpp.engine.predict import (
    LARGE,
    fold_batch_norms,
    mask_predictor,
    normalized,
    single_pass,
    step_of,
    window_of,
    with_tta,
    with_windows,
)
from stpp.models import build, metadata
from stpp.params.models import Label
from stpp.store.files import StppError


class Predictor:
    """A checkpoint of `stpp train`, loaded for prediction; network and classes are read from the checkpoint itself.

    window: side of the sliding windows in pixels; they overlap by a third. None: predict an image whole, or in windows
    of 1024 pixels if it has more than 4 megapixels. tta: test-time augmentation, which averages over the scales of
    pseudo labelling and their horizontal flips (paper, 4.1). engine: with another one than torch, the model is an
    exported file, and the device is the CPU. Raises StppError if the file is no such checkpoint or model.
    """

    def __init__(
        self,
        model: Path,
        device: torch.device,
        *,
        window: int | None = None,
        tta: bool = False,
        engine: engines.Engine = "torch",
    ) -> None:
        if engine == "torch":
            self.about = metadata.read_metadata(model)
            network, _ = build.load_checkpoint(model, self.about.model, len(self.about.classes))
            self.network = fold_batch_norms(network.to(device), self.about.model)
        else:
            self.about, self.network = engines.load(engine, model)
        self.device = device
        self.window = window
        self.way = with_tta(single_pass, Label().scales, flip=True) if tta else single_pass

    def mask(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the class ids, uint8 (H, W) on the CPU, of an image (H, W, channels), 0 to 255.

        Raises StppError if the probabilities are not finite, because the network's numbers overflow.
        """
        with torch.inference_mode(), autocast(self.about.model, self.device):
            mask, confidence, _ = mask_predictor(self.way, LARGE, self.window)(self.network, self._pixels(image))
        _check(confidence)
        return mask[0].cpu()

    def probabilities(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the class probabilities, float32 (classes, H, W) on the CPU, of an image (H, W, channels), 0 to 255.

        Raises StppError if they are not finite, because the network's numbers overflow.
        """
        side = self.window or window_of(image.shape[0], image.shape[1], LARGE)
        way = with_windows(side, step_of(side), self.way) if side else self.way
        with torch.inference_mode(), autocast(self.about.model, self.device):
            found = (
                way(self.network, normalized(self._pixels(image).permute(0, 3, 1, 2), self.network))[0].float().cpu()
            )
        _check(found)
        return found

    def _pixels(self, image: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.require(image, requirements=["W", "C"])).unsqueeze(0).to(self.device)


def _check(probabilities: Tensor) -> None:
    """Raise StppError if a probability is NaN or infinite."""
    if not bool(probabilities.isfinite().all()):
        raise StppError(NOT_FINITE)
