"""Convolutions of 3 x 3 with a quarter of the multiplications: F(4 x 4, 3 x 3) of Lavin and Gray (2016).

Y = A^T [(G g G^T) * (B^T d B)] A: of a tile d of 6 x 6 pixels and a kernel g, 36 multiplications in place of 144 make
4 x 4 pixels, and summed over channels they are 36 convolutions of 1 x 1 over the tiles: these, since oneDNN, behind
torch's convolutions on a CPU, uses AVX-512 on any processor that has it, and `torch.bmm`, which is MKL, on Intel's
alone. oneDNN itself does not have Winograd's method. Rounding is some 1e-5 of the values.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
BLOCK = 2**25
"""Bytes of transformed pixels at once: few enough for a large cache, and so many that waking threads takes less."""


class Winograd(nn.Module):
    """A convolution that `suits`, for prediction: the same function of (B, C, H, W), but for rounding.

    For an image so small that it does not pay it is the convolution that was given.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    @cached_property
    def kernels(self) -> Tensor:
        """G g G^T, (6, 6, outputs, channels, 1, 1): four times the weights, and made when it is first needed."""
        outputs, channels = self.convolution.weight.shape[:2]
        g = self.convolution.weight.detach().permute(2, 3, 0, 1).reshape(9, outputs * channels)
        return (torch.kron(G, G).to(g) @ g).view(6, 6, outputs, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not _pays(x.shape[2], x.shape[3], self.convolution.dilation[0]):
            result: Tensor = self.convolution(x)
            return result
        out = x.new_empty(len(x), *x.shape[2:], self.convolution.out_channels)
        for image, result in zip(x.permute(0, 2, 3, 1), out, strict=True):
            self._write(image, result)
        return out.permute(0, 3, 1, 2)

    def _write(self, image: Tensor, out: Tensor) -> None:
        """image (H, W, C) -> out (H, W, output channels), some rows of tiles at a time.

        With a dilation of s, the pixels of every s-th row and column are an image of their own, without dilation.
        """
        height, width, channels = image.shape
        s, outputs = self.convolution.dilation[0], out.shape[2]
        down, across = _tiles(height, s), _tiles(width, s)
        at_once = max(1, BLOCK // (36 * across * s * s * max(channels, outputs) * image.element_size()))
        for first in range(0, down, at_once):
            n = min(at_once, down - first)
            top, bottom = (4 * first - 1) * s, (4 * (first + n) + 1) * s
            border = (0, 0, s, (4 * across + 1) * s - width, max(0, -top), max(0, bottom - height))
            d = F.pad(image[max(0, top) : bottom], border).view(4 * n + 2, s, 4 * across + 2, s, channels)
            half = d.new_empty(6, n, s, 4 * across + 2, s, channels)
            _into_tiles([d[i : i + 4 * n - 3 : 4] for i in range(6)], half)
            V = d.new_empty(6, 6, n, s, across, s, channels)  # columns of tiles, rows
            _into_tiles([half[..., j : j + 4 * across - 3 : 4, :, :] for j in range(6)], V)
            half = d.new_empty(6, 4, n, s, across, s, outputs)
            for j in range(6):
                _out_of_tiles([_product(V[j, i], self.kernels[i, j]) for i in range(6)], half[j])
            Y = d.new_empty(n, 4, s, across, 4, s, outputs)
            _out_of_tiles(half.unbind(), Y.permute(4, 1, 0, 2, 3, 5, 6))
            rows = out[4 * first * s : 4 * (first + n) * s]
            found = Y.view(4 * n * s, 4 * across * s, outputs)[: len(rows), :width]
            if self.convolution.bias is None:
                rows.copy_(found)
            else:
                torch.add(found, self.convolution.bias, out=rows)


def suits(convolution: nn.Conv2d) -> bool:
    """Whether `Winograd` computes this convolution, and sooner: 3 x 3 at every pixel, of many channels.

    Beyond a dilation of 4 tiles are larger than what is left of an image; below 256 channels the transforms take longer
    than the multiplications that they save.
    """
    s = convolution.dilation[0]
    same = convolution.kernel_size == (3, 3) and convolution.stride == (1, 1) and convolution.groups == 1
    same = same and convolution.dilation == convolution.padding == (s, s) and convolution.padding_mode == "zeros"
    return same and s <= 4 and min(convolution.in_channels, convolution.out_channels) >= 256


def _tiles(side: int, dilation: int) -> int:
    """Tiles along a side of an image that a dilation splits into so many."""
    return -(-side // (4 * dilation))


def _pays(height: int, width: int, dilation: int) -> bool:
    """Reading `kernels` takes longer than fewer tiles save, and tiles that reach beyond the border save less."""
    tiles = _tiles(height, dilation) * _tiles(width, dilation) * dilation**2
    return tiles >= 96 and 16 * tiles <= 1.5 * height * width


def _into_tiles(d: Sequence[Tensor], out: Tensor) -> None:
    """B^T d along one axis: six tensors -> out[0], ..., out[5]."""
    even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.sub(d[4], d[2], alpha=5, out=out[0]).add_(d[0], alpha=4)
    torch.sub(d[5], d[3], alpha=5, out=out[5]).add_(d[1], alpha=4)


def _product(tiles: Tensor, kernel: Tensor) -> Tensor:
    """tiles (..., channels), kernel (outputs, channels, 1, 1) -> (..., outputs).

    A kernel of 1 x 1 does not feel a dilation, but torch asks oneDNN for it on a single thread, too.
    """
    x = tiles.view(1, 1, -1, tiles.shape[-1]).permute(0, 3, 1, 2)
    return F.conv2d(x, kernel, dilation=2).permute(0, 2, 3, 1).view(*tiles.shape[:-1], -1)


def _out_of_tiles(m: Sequence[Tensor], out: Tensor) -> None:
    """A^T m along one axis: m[0], ..., m[5] -> out[0], ..., out[3]."""
    even, odd, even_2, odd_2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    torch.add(m[0], even, out=out[0]).add_(even_2)
    torch.add(odd, odd_2, alpha=2, out=out[1])
    torch.add(even, even_2, alpha=4, out=out[2])
    torch.add(odd, odd_2, alpha=8, out=out[3]).add_(m[5])
