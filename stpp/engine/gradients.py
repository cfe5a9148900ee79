"""Weight gradients of widely dilated convolutions (ASPP) without their padding, for training on a CPU.

The gradient of the weights at place (i, j) of a kernel is that of the output times the pixels that (i, j) saw, summed
over batch and pixels: the weight gradient of a 1 x 1 convolution of those pixels. oneDNN, behind torch's convolutions
on a CPU, multiplies the padding as well when it does all places at once: 36 pixels on every side of 41 x 41.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


def weight_gradients(device: torch.device) -> AbstractContextManager[object]:
    """Within it, such convolutions on a CPU get weight gradients this way, the same but for rounding."""
    return _Places() if device.type == "cpu" else nullcontext()


class _Places(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and len(args) == 7:  # as a layer calls it
            x, weight, bias, stride, padding, dilation, groups = args
            if _suits(weight, padding, dilation, groups):
                if torch.is_autocast_enabled("cpu"):
                    low = torch.get_autocast_dtype("cpu")
                    x, weight, bias = (t if t is None else t.to(low) for t in (x, weight, bias))
                return _Convolution.apply(x, weight, bias, stride, padding, dilation)
        return func(*args, **(kwargs or {}))


def _suits(weight: Tensor, padding: Pair | str, dilation: Pair, groups: int) -> bool:
    """A dilation of 4 or less, as in the backbones, has so little padding that all places at once are no slower."""
    learns = torch.is_grad_enabled() and weight.requires_grad
    return learns and groups == 1 and isinstance(padding, tuple) and min(dilation) > 4 and min(padding) > 0


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
    out = torch.zeros_like(weight)
    for i in range(weight.shape[2]):
        rows, seen_rows = _overlap(x.shape[2], gradient.shape[2], i * dilation[0] - padding[0], stride[0])
        for j in range(weight.shape[3]):
            columns, seen_columns = _overlap(x.shape[3], gradient.shape[3], j * dilation[1] - padding[1], stride[1])
            there, seen = gradient[:, :, rows, columns], x[:, :, seen_rows, seen_columns]
            if there.numel():
                place = out[:, :, i : i + 1, j : j + 1]
                place.copy_(conv2d_weight(seen, place.shape, there))  # type: ignore[no-untyped-call]
    return out


def _overlap(side: int, outputs: int, offset: int, stride: int) -> tuple[slice, slice]:
    """Along one axis: which outputs o see a pixel, at o * stride + offset, and the pixels that they see."""
    first = max(0, -(offset // stride))
    end = max(first, min(outputs, -(-(side - offset) // stride)))
    seen = first * stride + offset
    return slice(first, end), slice(seen, max(seen, end * stride + offset), stride)
