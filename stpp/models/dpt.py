"""The head DPT on a vision transformer, without batch norm, in the widths of UniMatch V2.

It turns the four feature maps into a pyramid at 4, 2, 1 and 1/2 times the patch grid, and fuses it from coarse to fine.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from stpp.models.layers import resize, resize_to
from stpp.models.vit import VisionTransformer


class Residual(nn.Module):
    """Two 3 x 3 convolutions on a feature map, (B, D, h, w) -> (B, D, h, w), added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class Fusion(nn.Module):
    """Adds a finer level to the fused coarser ones, and enlarges the sum, (B, D, h, w) -> (B, D, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip, self.refine, self.project = Residual(width), Residual(width), nn.Conv2d(width, width, 1)

    def forward(self, coarse: Tensor, level: Tensor, size: list[int]) -> Tensor:
        out: Tensor = self.project(resize_to(self.refine(coarse + self.skip(level)), size))
        return out


class DPT(nn.Module):
    """A dense prediction transformer: normalised images (B, 3, H, W) -> logits (B, classes, H, W)."""

    CLASSIFIER = "classifier."

    def __init__(self, backbone: str, classes: int, output_stride: int) -> None:
        """Create the network. output_stride: without effect; a transformer's stride is its patch size."""
        super().__init__()
        self.backbone = VisionTransformer(backbone)
        inputs = self.backbone.channels[0]
        levels, width = [inputs // 8, inputs // 4, inputs // 2, inputs], inputs // 6
        self.project = nn.ModuleList(nn.Conv2d(inputs, level, 1) for level in levels)
        self.scale = nn.ModuleList(
            [
                nn.ConvTranspose2d(levels[0], levels[0], 4, stride=4),
                nn.ConvTranspose2d(levels[1], levels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(levels[3], levels[3], 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(level, width, 3, padding=1, bias=False) for level in levels)
        self.coarsest, self.widen = Residual(width), nn.Conv2d(width, width, 1)
        self.fuse = nn.ModuleList(Fusion(width) for _ in levels[1:])
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return resize(self.decode(self.backbone(x)), x)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the logits of the backbone's feature maps, at eight times their size."""
        parts = zip(self.reduce, self.scale, self.project, features, strict=True)
        fine, *coarser = [reduce(scale(project(x))) for reduce, scale, project, x in parts]
        levels = [fine, *coarser]
        sizes = [list(level.shape[2:]) for level in levels]
        sizes = [[2 * side for side in sizes[0]], *sizes]
        out = self.widen(resize_to(self.coarsest(levels[-1]), sizes[-2]))
        for fuse, level, size in zip(self.fuse, levels[-2::-1], sizes[-3::-1], strict=True):
            out = fuse(out, level, size)
        logits: Tensor = self.classifier(F.relu(self.smooth(out)))
        return logits
