"""The form of all networks: a backbone encodes images as feature maps, and a head decodes these to logits."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from stpp.models.backbone import ResNet, Timm
from stpp.models.layers import resize
from stpp.models.vit import VisionTransformer

Perturb = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""The feature maps of a batch -> those that the head decodes instead; their number of images may be another."""


class EncoderDecoder(nn.Module):
    """A network of a backbone and a head: normalised images (B, 3, H, W) -> logits (B, classes, H, W)."""

    backbone: ResNet | Timm | VisionTransformer

    def forward(self, x: Tensor, perturb: Perturb | None = None) -> Tensor:
        """Return the logits. perturb: changes the feature maps before they are decoded."""
        features: Sequence[Tensor] = self.backbone(x)
        return resize(self.decode(features if perturb is None else perturb(features)), x)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of the backbone's feature maps, (B, classes, h, w)."""
        raise NotImplementedError
