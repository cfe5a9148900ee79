"""Exported models in ONNX Runtime and OpenVINO, on the CPU, in place of a network of torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stpp.models.metadata import CheckpointMetadata, parse_metadata
from stpp.store.files import StppError, read_bytes

Engine = Literal["torch", "onnxruntime", "openvino"]
ENDINGS: dict[str, Engine] = {".onnx": "onnxruntime", ".xml": "openvino"}
"""How the names of exported files end, and the engine that runs them."""
INPUT, OUTPUT, MASK = "image", "logits", "mask"
"""The names of an exported model's input and of its output: logits, or class ids if the arg max is in its graph."""
LARGEST = 2**31
"""The largest file of an exported model that is read, in bytes; an ONNX file cannot be larger."""
Run = Callable[[Tensor], Tensor]
"""Images, float32 (B, channels, H, W) from 0 to 1 -> the output of an exported model."""


def onnx_session(data: bytes) -> Any:
    """Return a session of ONNX Runtime, with as many threads as torch. Raises StppError if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise StppError("onnxruntime is not installed; run `pip install 'stpp[export]'`") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong is raised, too
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any) -> Run:
    """Return the function that a session computes."""
    return lambda x: torch.from_numpy(session.run(None, {INPUT: _array(x)})[0])


def openvino_core() -> Any:
    """Return OpenVINO's core. Raises StppError if OpenVINO is not installed."""
    try:
        import openvino
    except ImportError:
        raise StppError("openvino is not installed; run `pip install 'stpp[openvino]'`") from None
    return openvino.Core()


def run_openvino(core: Any, model: Any, precision: str = "float32") -> Run:
    """Return the function that a model of OpenVINO computes, with as many threads as torch.

    precision: float32 or bfloat16, in which a processor with bfloat16 instructions computes faster.
    """
    how = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    compiled = core.compile_model(model, "CPU", how | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    return lambda x: torch.from_numpy(np.array(compiled([_array(x)])[0]))  # a copy: OpenVINO reuses its memory


def _array(x: Tensor) -> NDArray[np.float32]:
    return x.numpy(force=True)


class Exported(nn.Module):
    """An exported model in place of the checkpoint's network: images (B, channels, H, W) from 0 to 1 -> logits.

    The graph normalises its input itself. So `pixel_mean` is 0 and `pixel_std` is 1 here.
    """

    def __init__(self, run: Run, channels: int, classes: int, path: Path) -> None:
        super().__init__()
        self.run, self.classes, self.path = run, classes, path
        self.register_buffer("pixel_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("pixel_std", torch.ones(1, channels, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Raises StppError naming the file if the engine fails, and MemoryError if it finds no memory."""
        try:
            logits = self.run(image)
        except Exception as error:  # noqa: BLE001 - each engine has its own errors
            if "alloc" in str(error).lower():
                raise MemoryError(str(error)) from None
            raise StppError(f"{self.path}: cannot be run: {_short(error)}") from None
        if logits.shape != (len(image), self.classes, *image.shape[2:]):
            raise StppError(f"{self.path}: its output is {tuple(logits.shape)}, not logits of {self.classes} classes")
        return logits


def load(engine: Engine, path: Path) -> tuple[CheckpointMetadata, nn.Module]:
    """Return what an exported model says about its checkpoint, and the model as a network.

    Raises StppError that names the file if the engine is not installed, the file is not a model that `stpp export`
    wrote for this engine, or its graph returns class ids.
    """
    ending = {one: ending for ending, one in ENDINGS.items()}[engine]
    if path.suffix != ending:
        raise StppError(f"{path}: --engine {engine} takes a file *{ending} that `stpp export` wrote")
    found = _read_onnx(path) if engine == "onnxruntime" else _read_openvino(path)
    channels = found.about.reading.channels if found.about.reading else 3
    if MASK in found.outputs:
        raise StppError(f"{path}: its graph returns class ids; `stpp predict` needs logits: export without --argmax")
    if found.inputs != {INPUT: channels} or found.outputs != [OUTPUT]:
        what = ", ".join(f"{name} with {count} channels" for name, count in found.inputs.items())
        raise StppError(f"{path}: takes {what}, but should take {INPUT} with {channels} channels; export it again")
    return found.about, Exported(found.start(), channels, len(found.about.classes), path)


class Opened(NamedTuple):
    """An exported model as its file describes it."""

    about: CheckpointMetadata
    inputs: dict[str, object]
    """The number of channels of every input; None if it is open."""
    outputs: list[str]
    start: Callable[[], Run]


def _read_onnx(path: Path) -> Opened:
    data = read_bytes(path, LARGEST)
    try:
        session = onnx_session(data)
    except StppError:
        raise
    except Exception as error:  # noqa: BLE001 - any kind of ONNX Runtime
        raise StppError(f"{path}: not readable as ONNX: {_short(error)}") from None
    inputs = {one.name: one.shape[1] if len(one.shape) == 4 else None for one in session.get_inputs()}
    outputs = [one.name for one in session.get_outputs()]
    return Opened(_about(session.get_modelmeta().custom_metadata_map, path), inputs, outputs, lambda: run_onnx(session))


def _read_openvino(path: Path) -> Opened:
    core, beside = openvino_core(), path.with_suffix(".bin")
    text = read_bytes(path)
    if not text.lstrip().startswith(b"<"):  # OpenVINO would try the formats of other frameworks
        raise StppError(f"{path}: not readable by OpenVINO: not XML")
    if not beside.is_file():
        raise StppError(f"{beside}: no such file; it holds the weights of {path.name}")
    try:
        model = core.read_model(text, read_bytes(beside, LARGEST))
        said = {key: model.get_rt_info(["stpp", key]).astype(str) for key in KEYS if model.has_rt_info(["stpp", key])}
        inputs: dict[str, object] = {name: _channels(one) for one in model.inputs for name in one.names}
    except RuntimeError as error:
        raise StppError(f"{path}: not readable by OpenVINO: {_short(error)}") from None
    about = _about(said, path)
    outputs = [name for one in model.outputs for name in one.names]
    return Opened(about, inputs, outputs, lambda: run_openvino(core, model, about.model.precision))


def _channels(one: Any) -> int | None:
    shape = one.get_partial_shape()
    known = shape.rank.is_static and len(shape) == 4 and shape[1].is_static
    return shape[1].get_length() if known else None


KEYS = {"network": "model", "classes": "classes", "palette": "palette", "weights": "start", "reading": "reading"}
"""Keys of the metadata in an exported file, each JSON, and the fields of `CheckpointMetadata`."""


def _about(said: dict[str, str], path: Path) -> CheckpointMetadata:
    try:
        found = {field: json.loads(said[key]) for key, field in KEYS.items() if key in said}
    except (ValueError, RecursionError):
        found = {}
    return parse_metadata(json.dumps(found), path, "`stpp export`")


def _short(error: Exception) -> str:
    """Return the last words of an engine's error, which tell most, on one line."""
    return " ".join(str(error).split())[-200:] or type(error).__name__
