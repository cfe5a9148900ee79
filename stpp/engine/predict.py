"""From images to class probabilities: one plain forward pass, sliding windows, test-time augmentation (paper, 4.1)."""

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
"""Class probabilities (B, classes, H, W) -> a number for every pixel (B, H, W)."""


class Masks(NamedTuple):
    """What probabilities come to."""

    mask: Tensor
    """Class ids, uint8 (B, H, W)."""
    confidence: Tensor
    """The winning probability, float32 (B, H, W)."""
    by: tuple[Tensor, ...] = ()
    """What each of the criteria asked for says, (B, H, W)."""


MaskPredictor = Callable[[nn.Module, Tensor], Masks]
"""(network, RGB uint8 (B, H, W, 3)) -> its masks."""

LARGE = 2**22
"""Pixels above which an image is predicted in windows where no parameter says so: the default of `max_pixels`."""
WINDOW = 1024
"""Side in pixels of the windows in which an image above `max_pixels` is predicted; less where `max_pixels` is."""

VECTOR = 16
"""Classes from which on softmax is sooner over a pixel's scores as they lie in memory: a vector's floats, in AVX-512.
Of fewer it does one after the other; over dimension 1 it copies all scores into planes first."""


def folded(network: nn.Module, model: Model) -> nn.Module:
    """A network for prediction, each batch norm folded into the convolution before it: the same function.

    The network given is used up: its weights are taken, not copied. In bfloat16 its convolutions are cast here, once,
    and not by autocast in every pass. One that torch cannot trace keeps its batch norms. Logits differ by rounding.
    """
    one = _without_batch_norms(network.eval())
    convolutions = {name: module for name, module in one.named_modules() if isinstance(module, nn.Conv2d)}
    if model.precision == "bfloat16":
        for convolution in convolutions.values():
            convolution.to(torch.bfloat16)
    return one.requires_grad_(False).to(memory_format=torch.channels_last)


class _Layers(fx.Tracer):
    """Traces down to modules without parts, and to batch norms, which in timm have parts."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d) or not any(True for _ in m.children())


def _without_batch_norms(network: nn.Module) -> nn.Module:
    try:
        graph = _Layers().trace(network)
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError):  # of a network that asks for sizes, say
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
        # timm's batch norms end in a dropout and an activation.
        rest = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))
        one.set_submodule(str(node.target), rest)
    for node in graph.find_nodes(op="call_function", target=operator.add):
        first = node.args[0]
        alone = isinstance(first, fx.Node) and first.op == "call_module" and len(first.users) == 1
        if alone and isinstance(modules.get(str(first.target)), nn.Conv2d | nn.BatchNorm2d):
            node.target = operator.iadd  # torchvision adds residuals in place; tracing has made a sum of its own of it
    one.recompile()
    for name in ("pixel_mean", "pixel_std"):
        one.register_buffer(name, network.get_buffer(name), persistent=False)
    return one


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give a convolution the weights and bias with which it computes what the batch norm makes of its output."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight, convolution.bias = weight, bias


def plain(network: nn.Module, x: Tensor) -> Tensor:
    """One forward pass at the images' own size: probabilities (B, classes, H, W)."""
    logits = network(x.contiguous(memory_format=torch.channels_last)).float()
    if logits.shape[1] < VECTOR:
        return F.softmax(logits, dim=1)
    return F.softmax(logits.permute(0, 2, 3, 1), dim=3).permute(0, 3, 1, 2)


def augmented(predict: Predict, scales: Sequence[float], flip: bool) -> Predict:
    """`predict` over scales, each also flipped, resized back and averaged (5 scales and a flip in the paper).

    Averaging has the arg max of the published sum, and leaves a probability.
    """

    def over_scales(network: nn.Module, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        total = torch.zeros((), device=x.device)
        for scale in scales:
            scaled = _resized(x, max(1, int(height * scale)), max(1, int(width * scale)))
            total = total + _resized(predict(network, scaled), height, width)
            if flip:  # a sum of its own, since scores take more memory before they are resized
                total = total + _resized(predict(network, scaled.flip(3)).flip(3), height, width)
        return total / (len(scales) * (2 if flip else 1))

    return over_scales


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)


def sliding(window: int, stride: int, predict: Predict = plain) -> Predict:
    """Square windows at a step of `stride` pixels, the last ones flush with the border; averaged where they overlap.

    An image is no smaller than needed: a side below `window` is one window of that side.
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
    """The arg max of `predict`; in overlapping windows where an image has more than `max_pixels`.

    window, stride: those of a prediction that is in windows at any size; see `window_of` for the others. Windows need
    memory for the probabilities of one row of them, whatever the length of the image.
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
    """Side of the windows in which an image is predicted; None: whole, since it has no more than `max_pixels`."""
    return None if height * width <= max_pixels else min(WINDOW, math.isqrt(max_pixels))


def step_of(window: int) -> int:
    """Step in pixels of windows that overlap by a third."""
    return max(1, window * 2 // 3)


def normalized(pixels: Tensor, network: nn.Module) -> Tensor:
    """RGB uint8 (B, 3, H, W) -> float32 as the network was trained on, as `stpp.data.transforms.normalize` has it."""
    return (
        pixels.to(torch.float32).div_(255).sub_(network.get_buffer("pixel_mean")).div_(network.get_buffer("pixel_std"))
    )


def _bands(predict: Predict, network: nn.Module, x: Tensor, window: int, stride: int) -> Iterator[Tensor]:
    """Probabilities of x (B, 3, H, W) averaged over windows, in bands (B, classes, ...) one after the other along the
    longer side: what is finished goes before the next row of windows begins."""
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
    """Move `t` on by so many places along a dimension, with zeros behind."""
    rest = t.shape[dim] - by
    t.narrow(dim, 0, rest).copy_(t.narrow(dim, by, rest).clone())
    t.narrow(dim, rest, by).zero_()


def _long_side(x: Tensor) -> int:
    return 2 if x.shape[2] >= x.shape[3] else 3


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, so that every pixel is in one: 0, stride, 2 stride, ..., side - window."""
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def label_predictor(label: Label) -> MaskPredictor:
    """The way of pseudo labelling that the parameters name (paper, 4.1: test-time augmentation)."""
    return mask_predictor(augmented(plain, label.scales, label.flip), label.max_pixels)


def evaluation(evaluate: Evaluate) -> MaskPredictor:
    """The way of prediction that the parameters of evaluation name; whole images and one scale in the paper."""
    augments = evaluate.scales != (1.0,) or evaluate.flip
    if not augments:
        return mask_predictor(plain, evaluate.max_pixels, evaluate.window, _stride(evaluate))
    one = plain if evaluate.window is None else sliding(evaluate.window, _stride(evaluate))
    return mask_predictor(augmented(one, evaluate.scales, evaluate.flip), evaluate.max_pixels)


def _stride(evaluate: Evaluate) -> int:
    """Step of the window in pixels."""
    return evaluate.stride or max(1, (evaluate.window or 1) * 2 // 3)


def described(evaluate: Evaluate) -> str:
    """How an evaluation was done, for a person."""
    words = ["original resolution"]
    if evaluate.window is None:
        words.append("whole images")
    else:
        words.append(f"windows of {evaluate.window} at {_stride(evaluate)}")
    scales = ", ".join(f"{s:g}" for s in evaluate.scales)
    augmented_ = evaluate.scales != (1.0,) or evaluate.flip
    words.append(f"scales {scales}{' and flip' if evaluate.flip else ''}" if augmented_ else "one scale")
    return ", ".join(words)
