"""Export of checkpoints to ONNX, OpenVINO and torch.export, with dynamic batch size, height and width."""

import contextlib
import copy
import io
import json
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stpp.deploy.engines import INPUT, MASK, OUTPUT, Run, onnx_session, openvino_core, run_onnx, run_openvino
from stpp.models.metadata import CheckpointMetadata
from stpp.store.files import StppError, atomic_write
from stpp.store.reading import as_json

SMALLEST, LARGEST = 32, 16384
"""The smallest and largest height and width in pixels that the exported network accepts."""
SIZES = ((1, 65, 97), (2, 128, 96), (1, 33, 200))
"""The inputs on which an exported network is compared with the original: batch, height, width."""
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
"""The largest differences allowed between the exported network's logits and the original's, in float32 and float16.

They are relative to the largest absolute logit, or absolute if that is below 1. The original computes in float32.
"""


@dataclass(frozen=True)
class Graph:
    """What an exported graph computes, beside the network and the normalisation of its input."""

    argmax: bool = False
    """Return class ids, uint8 (B, H, W), in place of logits, float32 (B, classes, H, W)."""
    half: bool = False
    """Weights of float16. ONNX and torch also compute in float16, OpenVINO in what the processor does best."""

    @property
    def output(self) -> str:
        return MASK if self.argmax else OUTPUT


class Difference(NamedTuple):
    """How far an exported graph is from the network."""

    logits: float
    """The largest absolute difference of logits; with the arg max in the graph, the largest difference between the
    highest logit of a pixel and that of its class."""
    pixels: float
    """The share of pixels whose class differs, in [0, 1]."""


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
    """A network that normalises its input itself: (B, channels, H, W) float32 in 0..1 -> what `graph` says."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: nn.Module, graph: Graph = Graph()) -> None:
        super().__init__()
        self.graph = graph
        own = copy.deepcopy(network).to("cpu", torch.float32)
        # torch.export would save weights in channels-last memory as views of other tensors.
        self.network = _exportable(own).to(memory_format=torch.contiguous_format).eval()
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, self.network.get_buffer(name).clone())
        if graph.half:
            self.network.half()

    def forward(self, image: Tensor) -> Tensor:
        x = (image - self.pixel_mean) / self.pixel_std
        out: Tensor = self.network(x.half()).float() if self.graph.half else self.network(x)
        return out.argmax(1).to(torch.uint8) if self.graph.argmax else out


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


@dataclass(frozen=True, eq=False)
class Export:
    """A network to be exported. It is traced once, whatever the number of formats.

    Each `to_*` returns how far the written file is from the network. It raises StppError, and writes nothing, if that
    is more than rounding, or if a needed package is not installed.
    """

    network: nn.Module
    about: CheckpointMetadata
    graph: Graph = Graph()

    def to_torch_export(self, path: Path) -> Difference:
        """Write the network as a torch.export program (.pt2)."""
        extra = {"stpp.json": json.dumps(self.described())}
        with atomic_write(path) as partial:
            buffer = io.BytesIO()  # in memory first: torch's own file writer hides a full disk
            torch.export.save(self._program, buffer, extra_files=extra)
            partial.write_bytes(buffer.getbuffer())
            return self.compared(torch.export.load(io.BytesIO(partial.read_bytes())).module(), path)

    def to_onnx(self, path: Path) -> Difference:
        """Write the network as ONNX (opset 20)."""
        model = copy.deepcopy(self._onnx)  # so that the other formats do not get this metadata
        for key, value in self.described().items():
            model.metadata_props.add(key=key, value=json.dumps(value))
        with atomic_write(path) as partial:
            partial.write_bytes(model.SerializeToString())
            return self.compared(run_onnx(onnx_session(partial.read_bytes())), path)

    def to_openvino(self, path: Path) -> Difference:
        """Write the network for OpenVINO (path: *.xml, the weights in *.bin)."""
        core = openvino_core()
        import openvino

        # OpenVINO makes the weights float16 itself.
        whole = replace(self, graph=Graph(self.graph.argmax)) if self.graph.half else self
        model = core.read_model(whole._onnx.SerializeToString())
        _resize_as_torch(model)
        for key, value in self.described().items():
            model.set_rt_info(json.dumps(value), ["stpp", key])
        with atomic_write(path) as text, atomic_write(path.with_suffix(".bin")) as weights:
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                written = Path(folder) / "m.xml"
                openvino.save_model(model, written, compress_to_fp16=self.graph.half)
                written.rename(text)
                written.with_suffix(".bin").rename(weights)
            read = core.read_model(text.read_bytes(), weights.read_bytes())
            return self.compared(run_openvino(core, read), path)

    @cached_property
    def _program(self) -> ExportedProgram:
        """The traced network, with dynamic batch size, height and width."""
        sides = {"min": _smallest(self.network), "max": LARGEST}
        shapes = {INPUT: {0: Dim("batch", min=1, max=4096), 2: Dim("height", **sides), 3: Dim("width", **sides)}}
        image = torch.rand(2, channels_of(self.network), 96, 128)
        with torch.no_grad():
            # torch cannot prove for every size that the two branches of a residual block have one size, where one of
            # them is pooled (ResNet-D). It then checks this whenever the program runs.
            return torch.export.export(
                FromPixels(self.network, self.graph),
                (image,),
                dynamic_shapes=shapes,
                prefer_deferred_runtime_asserts_over_guards=True,
            )

    @cached_property
    def _onnx(self) -> Any:
        """The traced network as an ONNX model."""
        try:
            import onnx  # noqa: F401 - torch needs both to write ONNX
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise StppError(f"{error.name} is not installed; ONNX needs `pip install 'stpp[export]'`") from None
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torch's warnings about its own code
            program = torch.onnx.export(
                self._program,
                (),
                dynamo=True,
                opset_version=20,
                input_names=[INPUT],
                output_names=[self.graph.output],
            )
        assert program is not None
        return program.model_proto

    def described(self) -> dict[str, object]:
        """Return the metadata of an exported file: classes, palette, network, weights, input and output."""
        about, channels = self.about, self.about.reading.channels if self.about.reading else 3
        shape = f"{'RGB' if channels == 3 else 'bands'}, float32, 0 to 1, (batch, {channels}, height, width)"
        logits = f"{OUTPUT}: float32, (batch, classes, height, width); the class of a pixel is the arg max"
        mask = f"{MASK}: uint8, (batch, height, width); the class of every pixel"
        return {
            "classes": about.classes,
            "palette": about.palette,
            "network": about.model.model_dump(mode="json"),
            "weights": asdict(about.start),
            "input": f"{INPUT}: {shape}; sides from {_smallest(self.network)} pixels",
            "output": mask if self.graph.argmax else logits,
            "precision": "float16" if self.graph.half else "float32",
        } | ({"reading": as_json(about.reading)} if about.reading else {})

    def compared(self, exported: Run, path: Path) -> Difference:
        """Return how far an exported graph is from the network over all SIZES, with sides that the network can take.

        The reference is the network itself, without the modules that were replaced for the export. path: the file to
        name in errors. Raises StppError if the logits differ by more than the tolerance allows. In a mask, a pixel may
        have another class only if its two logits differ by less than twice the tolerance.
        """
        network, graph = self.network, self.graph
        own = FromPixels(network)
        own.network = copy.deepcopy(network).to("cpu", torch.float32).eval()
        generator = torch.Generator().manual_seed(0)
        worst, other, pixels = 0.0, 0, 0
        for batch, *sides in SIZES:
            height, width = (max(side, _smallest(network)) for side in sides)
            x = torch.rand(batch, channels_of(network), height, width, generator=generator)
            with torch.no_grad():
                expected, found = own(x), exported(x)
            mask = found.long() if graph.argmax else found.argmax(1)
            if graph.argmax:
                difference = float((expected.amax(1) - expected.gather(1, mask.unsqueeze(1)).squeeze(1)).max())
            else:
                difference = float((expected - found).abs().max())
            allowed = (HALF_TOLERANCE if graph.half else TOLERANCE) * float(expected.abs().max().clamp(min=1))
            if not difference <= (2 * allowed if graph.argmax else allowed):
                remedy = "; try without --half" if graph.half else ""
                raise StppError(
                    f"{path}: not written: at {height} x {width} pixels, its logits differ by {difference:g}{remedy}"
                )
            worst, pixels = max(worst, difference), pixels + mask.numel()
            other += int((mask != expected.argmax(1)).sum())
        return Difference(worst, other / pixels)


def _resize_as_torch(model: Any) -> None:
    """Replace the resizing of a transformer's position embedding (bicubic, antialiased) in a model of OpenVINO.

    OpenVINO leaves out `antialias` of ONNX: logits would differ by 2 %. torch resizes as Pillow does.
    """
    from openvino import opset11
    from openvino.utils import replace_node

    for node in model.get_ops():
        how = node.get_attributes() if node.get_type_name() == "Interpolate" else {}
        if how.get("antialias") and how["mode"] == "cubic":
            axes = np.array([2, 3])
            size = opset11.gather(node.input_value(1), axes, np.array(0))
            way = {"coordinate_transformation_mode": "half_pixel", "cube_coeff": how["cube_coeff"], "axes": axes}
            new = opset11.interpolate(node.input_value(0), size, "bicubic_pillow", "sizes", **way)
            replace_node(node, new)
    model.validate_nodes_and_infer_types()


def _smallest(network: nn.Module) -> int:
    """Return the shortest side of an image in pixels: a transformer needs four patches."""
    return max(SMALLEST, 4 * getattr(network.get_submodule("backbone"), "patch", 0))


def channels_of(network: nn.Module) -> int:
    """Return the number of channels of a network's images."""
    return network.get_buffer("pixel_mean").shape[1]
