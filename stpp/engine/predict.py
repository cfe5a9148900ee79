"""Prediction of class probabilities and masks for images of any size (paper, 4.1).

The ways of prediction are one plain forward pass, sliding windows and test-time augmentation.
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stpp.params.models import Evaluate, Label, Model

Predict = Callable[[nn.Module, Tensor], Tensor]
"""(network, normalised images (B, 3, H, W)) -> class probabilities (B, classes, H, W)."""
Criterion = Callable[[Tensor], Tensor]
"""Class probabilities (B, classes, H, W) -> a value, or several, for every pixel: (B, H, W) or (B, H, W, n)."""


class Masks(NamedTuple):
    """The predicted masks of a batch, with their confidence."""

    mask: Tensor
    """Class ids, uint8 (B, H, W)."""
    confidence: Tensor
    """The probability of the predicted class, float32 (B, H, W)."""
    by: tuple[Tensor, ...] = ()
    """The values of each requested criterion, each (B, H, W) or (B, H, W, n)."""


MaskPredictor = Callable[[nn.Module, Tensor], Masks]
"""(network, RGB images uint8 (B, H, W, 3)) -> the masks that the network predicts."""

LARGE = 2**22
"""Where no parameter sets `max_pixels`, images of more pixels than this are predicted in windows.

It is also the default of `max_pixels`.
"""
WINDOW = 1024
"""Side in pixels of the windows for an image above `max_pixels`; less if a window would exceed `max_pixels`."""

VECTOR = 16
"""From this many classes on, softmax is faster over the last dimension of channels-last scores than over dimension 1.

It then fills a vector of 16 floats (AVX-512); with fewer classes, it handles one score after the other. Softmax over
dimension 1 first copies all scores to channels-first memory.
"""


def fold_batch_norms(network: nn.Module, model: Model) -> nn.Module:
    """Return a network for prediction, with each batch norm folded into the convolution before it.

    It computes the same function; logits differ only by rounding. Do not use the given network afterwards: its weights
    are taken, not copied. In bfloat16, the convolutions are cast here, once, and not by autocast in every pass. A
    network that torch cannot trace keeps its batch norms.
    """
    one = _without_batch_norms(network.eval())
    convolutions = {name: module for name, module in one.named_modules() if isinstance(module, nn.Conv2d)}
    if model.precision == "bfloat16":
        for convolution in convolutions.values():
            convolution.to(torch.bfloat16)
    return one.requires_grad_(False).to(memory_format=torch.channels_last)


class _Layers(fx.Tracer):
    """A tracer whose leaves are modules without submodules, and batch norms, which have submodules in timm."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d) or not any(True for _ in m.children())


def _without_batch_norms(network: nn.Module) -> nn.Module:
    try:
        graph = _Layers().trace(network)
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError):  # its code uses sizes, for example
        return network
    one = fx.GraphModule(network, graph)
    modules = dict(one.named_modules())
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if isinstance(norm, nn.BatchNorm2d) else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution = modules[str(before.target)]
        if not isinstance(convolution, nn.Conv2d):
            continue
        assert isinstance(norm, nn.BatchNorm2d)
        _fold(convolution, norm)
        # timm's batch norms end in a dropout and an activation: these two stay.
        rest = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))
        one.set_submodule(str(node.target), rest)
    for node in graph.find_nodes(op="call_function", target=operator.add):
        first = node.args[0]
        alone = isinstance(first, fx.Node) and first.op == "call_module" and len(first.users) == 1
        if alone and isinstance(modules.get(str(first.target)), nn.Conv2d | nn.BatchNorm2d):
            node.target = operator.iadd  # torchvision adds residuals in place; tracing turned that into a copy
    one.recompile()
    for name in ("pixel_mean", "pixel_std"):
        one.register_buffer(name, network.get_buffer(name), persistent=False)
    return one


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Change a convolution's weight and bias so that it also computes the batch norm that follows it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight, convolution.bias = weight, bias


def single_pass(network: nn.Module, x: Tensor) -> Tensor:
    """Return probabilities (B, classes, H, W) from one forward pass at the images' own size."""
    logits = network(x.contiguous(memory_format=torch.channels_last)).float()
    if logits.shape[1] < VECTOR:
        return F.softmax(logits, dim=1)
    return F.softmax(logits.permute(0, 2, 3, 1), dim=3).permute(0, 3, 1, 2)


def with_tta(predict: Predict, scales: Sequence[float], flip: bool) -> Predict:
    """Return test-time augmentation of `predict`: it predicts at every scale, resizes back and averages.

    flip: also predict every scale flipped horizontally. The paper uses 5 scales and a flip. The published code sums;
    the mean has the same arg max, and is a probability.
    """

    def over_scales(network: nn.Module, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        total = torch.zeros((), device=x.device)
        for scale in scales:
            scaled = _resized(x, max(1, int(height * scale)), max(1, int(width * scale)))
            total = total + _resized(predict(network, scaled), height, width)
            if flip:  # resized by itself, since scores take more memory before they are resized
                total = total + _resized(predict(network, scaled.flip(3)).flip(3), height, width)
        return total / (len(scales) * (2 if flip else 1))

    return over_scales


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)


def with_windows(window: int, stride: int, predict: Predict = single_pass) -> Predict:
    """Return `predict` over square windows; probabilities are averaged where windows overlap.

    stride: step of the windows in pixels. The last windows end at the image's border. Images are not padded: along a
    side shorter than `window`, there is one window of that side's length.
    """

    def over_windows(network: nn.Module, x: Tensor) -> Tensor:
        return torch.cat(list(_bands(predict, network, x, window, stride)), dim=_long_side(x))

    return over_windows


def mask_predictor(
    predict: Predict,
    max_pixels: int,
    window: int | None = None,
    stride: int | None = None,
    criteria: Sequence[Criterion] = (),
) -> MaskPredictor:
    """Return a function that predicts masks: the arg max of the probabilities that `predict` gives.

    Images of more than `max_pixels` pixels are predicted in overlapping windows. window: side of the windows for images
    of any size; without it, see `window_of`. stride: step of the windows; without it, see `step_of`. Windows need
    memory only for the probabilities of one row of windows, however long the image is. criteria: functions of the
    probabilities whose values are returned with the masks.
    """

    def masks_of(probabilities: Tensor) -> Masks:
        confidence, mask = probabilities.max(1)
        return Masks(mask.to(torch.uint8), confidence, tuple(criterion(probabilities) for criterion in criteria))

    def decide(network: nn.Module, images: Tensor) -> Masks:
        x = images.permute(0, 3, 1, 2)
        side = window or window_of(x.shape[2], x.shape[3], max_pixels)
        if side is None:
            return masks_of(predict(network, normalized(x, network)))

        def from_pixels(network: nn.Module, part: Tensor) -> Tensor:
            return predict(network, normalized(part, network))

        bands = [masks_of(band) for band in _bands(from_pixels, network, x, side, stride or step_of(side))]
        along = _long_side(x) - 1
        by = (torch.cat(parts, along) for parts in zip(*(band.by for band in bands), strict=True))
        masks, confidences = [band.mask for band in bands], [band.confidence for band in bands]
        return Masks(torch.cat(masks, along), torch.cat(confidences, along), tuple(by))

    return decide


def window_of(height: int, width: int, max_pixels: int) -> int | None:
    """Return the side in pixels of the windows in which an image is predicted.

    It is None if the image has at most `max_pixels` pixels and is predicted whole.
    """
    return None if height * width <= max_pixels else min(WINDOW, math.isqrt(max_pixels))


def step_of(window: int) -> int:
    """Return the step in pixels of windows that overlap by a third."""
    return max(1, window * 2 // 3)


def normalized(pixels: Tensor, network: nn.Module) -> Tensor:
    """Normalise images as for the network's training: RGB uint8 (B, 3, H, W) -> float32 (B, 3, H, W).

    The values are those of `stpp.data.transforms.normalize`.
    """
    return (
        pixels.to(torch.float32).div_(255).sub_(network.get_buffer("pixel_mean")).div_(network.get_buffer("pixel_std"))
    )


def _bands(predict: Predict, network: nn.Module, x: Tensor, window: int, stride: int) -> Iterator[Tensor]:
    """Yield the probabilities of x (B, 3, H, W), averaged over windows, in bands along the longer side.

    A band (B, classes, ...) is yielded as soon as it is finished, before the next row of windows begins.
    """
    along = _long_side(x)
    across = 5 - along
    tops = starts(x.shape[along], window, stride)
    total = times = torch.zeros(())
    for top, following in zip(tops, [*tops[1:], x.shape[along]], strict=True):
        row = x.narrow(along, top, min(window, x.shape[along]))
        for left in starts(x.shape[across], window, stride):
            part = row.narrow(across, left, min(window, x.shape[across]))
            scores = predict(network, part)
            if not total.ndim:
                total = scores.new_zeros(len(x), scores.shape[1], *row.shape[2:])
                times = scores.new_zeros(1, 1, *row.shape[2:])
            total.narrow(across, left, part.shape[across]).add_(scores)
            times.narrow(across, left, part.shape[across]).add_(1)
        done = following - top
        yield total.narrow(along, 0, done) / times.narrow(along, 0, done)
        for t in (total, times):
            _shift(t, along, done)


def _shift(t: Tensor, dim: int, by: int) -> None:
    """Shift `t` in place by `by` positions towards the start of a dimension, and fill the end with zeros."""
    rest = t.shape[dim] - by
    t.narrow(dim, 0, rest).copy_(t.narrow(dim, by, rest).clone())
    t.narrow(dim, rest, by).zero_()


def _long_side(x: Tensor) -> int:
    return 2 if x.shape[2] >= x.shape[3] else 3


def starts(side: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along a side so that they cover it: 0, stride, 2 stride, ..., side - window."""
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def label_predictor(label: Label) -> MaskPredictor:
    """Return the predictor of pseudo masks that the parameters describe (paper, 4.1: test-time augmentation).

    With `label.soft`, its only criterion is `levels_of`.
    """
    criteria = [levels_of] if label.soft else []
    return mask_predictor(with_tta(single_pass, label.scales, label.flip), label.max_pixels, criteria=criteria)


def levels_of(p: Tensor) -> Tensor:
    """Return probabilities (B, classes, H, W) as levels that add up to 255: uint8 (B, H, W, classes).

    A level is the difference of two rounded running sums, so it is within 1 of 255 p.
    """
    sums = p.float().cumsum(1)
    ends = (sums / sums[:, -1:] * 255).round()
    return ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1])).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def evaluation_predictor(evaluate: Evaluate) -> MaskPredictor:
    """Return the predictor for evaluation that the parameters describe; in the paper, whole images at one scale."""
    window, stride = evaluate.window, _stride(evaluate)
    if evaluate.scales == (1.0,) and not evaluate.flip:
        return mask_predictor(single_pass, evaluate.max_pixels, window, stride)
    one = single_pass if window is None or stride is None else with_windows(window, stride)
    return mask_predictor(with_tta(one, evaluate.scales, evaluate.flip), evaluate.max_pixels)


def _stride(evaluate: Evaluate) -> int | None:
    """Return the step of the window in pixels, or None if whole images are predicted."""
    return None if evaluate.window is None else evaluate.stride or step_of(evaluate.window)


def describe(evaluate: Evaluate) -> str:
    """Return a text for users that says how an evaluation predicts: windows, scales and flip."""
    words = ["original resolution"]
    if evaluate.window is None:
        words.append("whole images")
    else:
        words.append(f"windows of {evaluate.window} at {_stride(evaluate)}")
    scales = ", ".join(f"{s:g}" for s in evaluate.scales)
    augmented_ = evaluate.scales != (1.0,) or evaluate.flip
    words.append(f"scales {scales}{' and flip' if evaluate.flip else ''}" if augmented_ else "one scale")
    return ", ".join(words)
