"""Weight gradients of convolutions as products of matrices, for training in float32 on a CPU.

The gradient of the weights at place (i, j) of a kernel is that of the output times the pixels that (i, j) saw, summed
over batch and pixels: one product of matrices, from which the padding is left out. oneDNN, behind torch's convolutions
on a CPU, multiplies the padding as well, which is 36 pixels in ASPP, and is slower besides in the channels-last layout.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


def weight_gradients(device: torch.device) -> AbstractContextManager[object]:
    """Within it, convolutions on a CPU in float32 get weight gradients this way, the same but for rounding."""
    return _Products() if device.type == "cpu" else nullcontext()


class _Products(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and len(args) == 7:  # as a layer calls it
            _, weight, _, _, padding, dilation, groups = args
            if _suits(weight, padding, dilation, groups):
                return _Convolution.apply(*args[:6])
        return func(*args, **(kwargs or {}))


def _suits(weight: Tensor, padding: Pair | str, dilation: Pair, groups: int) -> bool:
    """Below 128 channels the products are too small to be sooner, except where much is padding."""
    many = 128 if dilation[0] <= 4 else 16
    learns = torch.is_grad_enabled() and weight.requires_grad and not torch.is_autocast_enabled("cpu")
    return learns and groups == 1 and isinstance(padding, tuple) and min(weight.shape[:2]) >= many


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return torch.conv2d(x, weight, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = conv2d_input(x.shape, weight, gradient, *ctx.geometry)  # type: ignore[no-untyped-call]
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_x, _of_weight(x, weight, gradient, *ctx.geometry), of_bias, None, None, None


def _of_weight(x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """(outputs, channels, kernel height, kernel width) of x (B, channels, H, W) and of the output's gradient."""
    out = torch.empty_like(weight, memory_format=torch.channels_last)
    x, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    for i in range(weight.shape[2]):
        rows, seen_rows = _overlap(x.shape[1], gradient.shape[1], i * dilation[0] - padding[0], stride[0])
        for j in range(weight.shape[3]):
            columns, seen_columns = _overlap(x.shape[2], gradient.shape[2], j * dilation[1] - padding[1], stride[1])
            there = gradient[:, rows, columns].flatten(0, 2)
            out[:, :, i, j] = there.t() @ x[:, seen_rows, seen_columns].flatten(0, 2)
    return out


def _overlap(side: int, outputs: int, offset: int, stride: int) -> tuple[slice, slice]:
    """Along one axis: which outputs o see a pixel, at o * stride + offset, and the pixels that they see."""
    first = max(0, -(offset // stride))
    end = max(first, min(outputs, -(-(side - offset) // stride)))
    seen = first * stride + offset
    return slice(first, end), slice(seen, max(seen, end * stride + offset), stride)
