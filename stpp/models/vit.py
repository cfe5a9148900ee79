"""Vision transformers of timm as backbones, such as DINOv2 and DINOv3.

A transformer maps images (B, 3, H, W) of any size to four feature maps (B, C, h, w), one after each quarter of its
blocks. Images are resized to whole patches first, so h and w are H and W over the patch size, rounded.
"""

from contextlib import suppress
from typing import Any

import timm
import torch
from timm.models import is_model
from torch import Tensor, nn

from stpp.models.backbone import RESNETS, UNSUITED, backbone, unknown, unsuited
from stpp.models.layers import resize_to
from stpp.store.files import StppError

TRANSFORMER = "transformer's"
LEVELS = 4
"""Number of feature maps: those of blocks 2, 5, 8 and 11 (counted from 0) of 12, as in UniMatch V2."""


class VisionTransformer(nn.Module):
    """A vision transformer of timm. Its position embedding is interpolated to the size of the image."""

    def __init__(self, name: str) -> None:
        """Create the transformer, randomly initialised.

        Raises StppError if timm has no network of that name, or if it is no plain vision transformer.
        """
        super().__init__()
        if name not in RESNETS and not is_model(name):
            raise unknown(name)
        try:
            vit: Any = timm.create_model(name, num_classes=0, global_pool="", dynamic_img_size=True)
            (self.patch, across), blocks = vit.patch_embed.patch_size, len(vit.blocks)
        except UNSUITED:
            raise unsuited(
                name, TRANSFORMER, "it is no vision transformer of timm that takes images of any size"
            ) from None
        if self.patch != across or blocks < LEVELS or not hasattr(vit, "forward_intermediates"):
            raise unsuited(name, TRANSFORMER, f"it needs square patches and {LEVELS} or more blocks")
        self.vit, self.channels = vit, (int(vit.embed_dim),) * LEVELS
        self.blocks = [blocks * level // LEVELS - 1 for level in range(1, LEVELS + 1)]

    def forward(self, x: Tensor) -> list[Tensor]:
        # the nearest number of patches; sym_max, because sizes are symbols in an export
        sides = [torch.sym_max(self.patch, (side + self.patch // 2) // self.patch * self.patch) for side in x.shape[2:]]
        x = resize_to(x, sides)
        found: list[Tensor] = self.vit.forward_intermediates(
            x, indices=self.blocks, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return found


def of_any_kind(name: str, output_stride: int) -> nn.Module:
    """Return the backbone of that name, randomly initialised: a convolutional one or a VisionTransformer.

    Raises StppError if it suits neither kind of head.
    """
    try:
        return backbone(name, output_stride)
    except StppError:
        with suppress(StppError):
            return VisionTransformer(name)
        raise
