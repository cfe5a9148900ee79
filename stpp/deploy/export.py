"""Export of checkpoints to ONNX and torch.export, with dynamic batch size, height and width."""

import contextlib
import copy
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stpp.models.build import CheckpointMetadata
from stpp.store.files import StppError, atomic_write
from stpp.store.reading import as_json

INPUT, OUTPUT = "image", "logits"
"""The names of the exported network's input and output."""
SMALLEST, LARGEST = 32, 16384
"""The smallest and largest height and width in pixels that the exported network accepts."""
SIZES = ((1, 65, 97), (2, 128, 96), (1, 33, 200))
"""The inputs on which an exported network is compared with the original: batch, height, width."""
TOLERANCE = 1e-4
"""The largest difference allowed between the exported network's logits and the original's.

It is relative to the largest absolute logit, or absolute if that is below 1. Both compute in float32, but with
different kernels.
"""


class GridMeans(nn.Module):
    """AdaptiveAvgPool2d as two matrix products: (B, C, h, w) -> (B, C, parts, parts).

    ONNX and torch.export support the pooling itself only for fixed sizes, or for sizes that are multiples of `parts`.
    """

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        return self._means(x.shape[2], x) @ x @ self._means(x.shape[3], x).T

    def _means(self, side: int, x: Tensor) -> Tensor:
        """Return the averaging matrix (parts, side).

        Row i averages the pixels from floor(i side / parts) up to, but not including, ceil((i + 1) side / parts).
        """
        i = torch.arange(self.parts, device=x.device).unsqueeze(1)
        pixel = torch.arange(side, device=x.device).unsqueeze(0)
        inside = (pixel >= i * side // self.parts) & (pixel * self.parts < (i + 1) * side)
        return inside.to(x.dtype) / inside.sum(1, keepdim=True)


class SamePadding(nn.Module):
    """timm's `Conv2dSame` of stride 2 for any input size: (B, C, h, w) -> (B, D, ceil(h / 2), ceil(w / 2)).

    timm's own layer computes its padding in a way that fixes the input size on export. Raises StppError for a
    convolution of another stride, or if (kernel size - 1) * dilation is odd.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        reach = [(k - 1) * d for k, d in zip(convolution.kernel_size, convolution.dilation, strict=True)]
        if convolution.stride != (2, 2) or any(r % 2 for r in reach):
            raise StppError(f"{convolution}: its padding depends on the input size, which cannot be exported")
        self.below, self.right = (r // 2 for r in reach)

    def forward(self, x: Tensor) -> Tensor:
        above, left = self.below - 1 + x.shape[2] % 2, self.right - 1 + x.shape[3] % 2
        x, c = F.pad(x, (left, self.right, above, self.below)), self.convolution
        return F.conv2d(x, c.weight, c.bias, c.stride, 0, c.dilation, c.groups)


def _same_pool(pool: AvgPool2dSame) -> nn.Sequential:
    """Return timm's `AvgPool2dSame` of stride 1 (in a dilated ResNet-D) for any input size; its padding is constant."""
    tall, wide = pool.kernel_size  # type: ignore[misc] # timm makes it a pair
    around = ((wide - 1) // 2, wide // 2, (tall - 1) // 2, tall // 2)
    plain = nn.AvgPool2d(pool.kernel_size, 1, 0, pool.ceil_mode, pool.count_include_pad)
    return nn.Sequential(nn.ZeroPad2d(around), plain)


class FromPixels(nn.Module):
    """A network that normalises its input itself: (B, channels, H, W) float32 in 0..1 -> logits (B, classes, H, W)."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        own = copy.deepcopy(network).to("cpu", torch.float32)
        # torch.export would save weights in channels-last memory as views of other tensors.
        self.network = _exportable(own).to(memory_format=torch.contiguous_format).eval()
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, self.network.get_buffer(name).clone())

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.network((image - self.pixel_mean) / self.pixel_std)
        return out


def _exportable(network: nn.Module) -> nn.Module:
    """Replace the modules that would fix the input size on export, in place; return the network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int):
                setattr(module, name, GridMeans(child.output_size))
            elif isinstance(child, Conv2dSame):
                setattr(module, name, SamePadding(child))
            elif isinstance(child, AvgPool2dSame) and child.stride == (1, 1):
                setattr(module, name, _same_pool(child))
    return network


def to_torch_export(network: nn.Module, about: CheckpointMetadata, path: Path) -> float:
    """Write the network as a torch.export program (.pt2); return the largest difference of its logits.

    The difference is taken between the loaded file and the network. Raises StppError, and writes nothing, if it is more
    than rounding.
    """
    program = _program(network)
    with atomic_write(path) as partial:
        buffer = io.BytesIO()  # in memory first: torch's own file writer hides a full disk
        torch.export.save(program, buffer, extra_files={"stpp.json": json.dumps(_described(network, about))})
        partial.write_bytes(buffer.getbuffer())
        loaded = torch.export.load(io.BytesIO(partial.read_bytes())).module()
        return _compared(network, loaded, path)


def to_onnx(network: nn.Module, about: CheckpointMetadata, path: Path) -> float:
    """Write the network as ONNX (opset 20); return the largest difference of its logits.

    The difference is taken between ONNX Runtime and the network. Raises StppError, and writes nothing, if it is more
    than rounding. Raises StppError if a needed package is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch needs it to write ONNX
    except ImportError as error:
        raise StppError(f"{error.name} is not installed; ONNX needs `pip install 'stpp[export]'`") from None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch's warnings about its own code
        program = torch.onnx.export(
            _program(network), (), dynamo=True, opset_version=20, input_names=[INPUT], output_names=[OUTPUT]
        )
    assert program is not None
    model = program.model_proto
    for key, value in _described(network, about).items():
        onnx.helper.set_model_props(model, {p.key: p.value for p in model.metadata_props} | {key: json.dumps(value)})
    with atomic_write(path) as partial:
        partial.write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(partial.read_bytes(), providers=["CPUExecutionProvider"])
        return _compared(network, lambda x: torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0]), path)


def _program(network: nn.Module) -> ExportedProgram:
    """Trace the network with `torch.export`, with dynamic batch size, height and width."""
    sides = {"min": _smallest(network), "max": LARGEST}
    shapes = {INPUT: {0: Dim("batch", min=1, max=4096), 2: Dim("height", **sides), 3: Dim("width", **sides)}}
    image = torch.rand(2, channels_of(network), 96, 128)
    with torch.no_grad():
        # torch cannot prove for every size that the two branches of a residual block have one size, where one of them
        # is pooled (ResNet-D). It then checks this whenever the program runs.
        return torch.export.export(
            FromPixels(network), (image,), dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
        )


def _smallest(network: nn.Module) -> int:
    """Return the shortest side of an image in pixels: a transformer needs four patches."""
    return max(SMALLEST, 4 * getattr(network.get_submodule("backbone"), "patch", 0))


def channels_of(network: nn.Module) -> int:
    """Return the number of channels of a network's images."""
    return network.get_buffer("pixel_mean").shape[1]


def _described(network: nn.Module, about: CheckpointMetadata) -> dict[str, object]:
    """Return the metadata that is stored in an exported file: classes, palette, network, weights, input and output."""
    channels = about.reading.channels if about.reading else 3
    shape = f"{'RGB' if channels == 3 else 'bands'}, float32, 0 to 1, (batch, {channels}, height, width)"
    return {
        "classes": about.classes,
        "palette": about.palette,
        "network": about.model.model_dump(mode="json"),
        "weights": asdict(about.start),
        "input": f"{INPUT}: {shape}; sides from {_smallest(network)} pixels",
        "output": f"{OUTPUT}: float32, (batch, classes, height, width); the class of a pixel is the arg max",
    } | ({"reading": as_json(about.reading)} if about.reading else {})


def _compared(network: nn.Module, exported: Callable[[Tensor], Tensor], path: Path) -> float:
    """Return the largest absolute difference of logits over all SIZES, with sides that the network can take.

    The reference is the network itself, without the modules that were replaced for the export. path: the file to name
    in errors. Raises StppError if the difference is more than TOLERANCE allows.
    """
    own = FromPixels(network)
    own.network = copy.deepcopy(network).to("cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, *sides in SIZES:
        height, width = (max(side, _smallest(network)) for side in sides)
        x = torch.rand(batch, channels_of(network), height, width, generator=generator)
        with torch.no_grad():
            expected, found = own(x), exported(x)
        difference = float((expected - found).abs().max())
        if not difference <= TOLERANCE * float(expected.abs().max().clamp(min=1)):
            raise StppError(f"{path}: not written: at {height} x {width} pixels, its logits differ by {difference:g}")
        worst = max(worst, difference)
    return worst
