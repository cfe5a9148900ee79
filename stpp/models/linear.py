"""A linear head on a vision transformer: how well its features alone tell the classes apart."""

from torch import Tensor, nn

from stpp.models.layers import resize
from stpp.models.vit import VisionTransformer


class Linear(nn.Module):
    """One 1 x 1 convolution on the last feature map: normalised images (B, 3, H, W) -> logits (B, classes, H, W)."""

    CLASSIFIER = "classifier."

    def __init__(self, backbone: str, classes: int, output_stride: int) -> None:
        """Create the network. output_stride: without effect; a transformer's stride is its patch size."""
        super().__init__()
        self.backbone = VisionTransformer(backbone)
        self.classifier = nn.Conv2d(self.backbone.channels[-1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return resize(self.classifier(self.backbone(x)[-1]), x)
