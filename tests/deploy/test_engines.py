"""Tests of exported models in ONNX Runtime and OpenVINO: they predict as torch does, and wrong files are named."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from stpp.data.normalization import Normalization
from stpp.deploy.engines import Engine
from stpp.deploy.export import Export, FromPixels, Graph
from stpp.deploy.predictor import Predictor
from stpp.engine.predict import LARGE, mask_predictor, single_pass, with_tta
from stpp.models.build import set_normalization
from stpp.models.metadata import CheckpointMetadata
from stpp.params.models import Label, Model
from stpp.store.files import StppError
from stpp.store.reading import Reading

ABOUT = CheckpointMetadata(Model(), ("sky", "road", "sign"), ((1, 2, 3), (200, 100, 0), (0, 0, 255)))
CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


class Small(nn.Module):
    """A network of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Conv2d(3, 3, 5, padding=2)
        set_normalization(self, Normalization(MEAN, STD))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.backbone(x)
        return out


NETWORK = Small().eval().requires_grad_(False)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def graph_of_small(about: CheckpointMetadata, output: str) -> onnx.ModelProto:
    """Return the network as `stpp export` describes it, written by hand: an export takes seconds."""
    folded = NETWORK.backbone.weight.numpy() / np.array(STD, np.float32)[:, None, None]
    tensors = {"mean": np.array(MEAN, np.float32).reshape(1, 3, 1, 1), "weight": folded}
    tensors["bias"] = NETWORK.backbone.bias.numpy()
    nodes = [
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Conv", ["centred", "weight", "bias"], [output], pads=[2, 2, 2, 2]),
    ]
    shape = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {k: json.dumps(v) for k, v in Export(NETWORK, about).described().items()})
    return model


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest) -> Engine:
    pytest.importorskip(request.param)
    found: Engine = request.param
    return found


@pytest.fixture
def write(engine: Engine, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a model for the engine, and returns its path."""

    def written(about: CheckpointMetadata = ABOUT, output: str = "logits") -> Path:
        data = graph_of_small(about, output).SerializeToString()
        if engine == "onnxruntime":
            (tmp_path / "m.onnx").write_bytes(data)
            return tmp_path / "m.onnx"
        import openvino

        model = openvino.Core().read_model(data)
        for key, value in Export(NETWORK, about).described().items():
            model.set_rt_info(json.dumps(value), ["stpp", key])
        openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
        return tmp_path / "m.xml"

    return written


@pytest.mark.parametrize(("window", "tta"), [(None, False), (32, False), (32, True)])
def test_an_engine_predicts_the_masks_of_torch(
    engine: Engine, write: Callable[..., Path], window: int | None, tta: bool
) -> None:
    predictor = Predictor(write(), CPU, window=window, tta=tta, engine=engine)
    assert predictor.about == ABOUT
    way = with_tta(single_pass, Label().scales, flip=True) if tta else single_pass
    for height, width in ((17, 90), (40, 64), (65, 33)):
        image = photo(height, width)
        with torch.inference_mode():
            masks, _, _ = mask_predictor(way, LARGE, window)(NETWORK, torch.from_numpy(image)[None])
        assert len(masks.unique()) == 3
        assert (predictor.mask(image) != masks[0]).float().mean() < 1e-3


@pytest.mark.parametrize("half", [False, True])
def test_the_arg_max_and_half_precision_are_in_the_graph(half: bool) -> None:
    x = torch.from_numpy(photo(71, 45)).permute(2, 0, 1)[None] / 255
    expected = NETWORK((x - NETWORK.pixel_mean) / NETWORK.pixel_std)
    logits = FromPixels(NETWORK, Graph(half=half))(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.01 if half else 1e-5, rtol=0)
    assert bool((logits == logits.half()).all()) == half
    mask = FromPixels(NETWORK, Graph(argmax=True, half=half))(x)
    assert mask.dtype == torch.uint8
    assert torch.equal(mask, logits.argmax(1))
    far = Export(NETWORK, ABOUT, Graph(True, half)).compared(FromPixels(NETWORK, Graph(True, half)), Path("m"))
    assert far.pixels < 0.01 and (far.logits > 0) == half


def test_an_export_that_is_more_than_rounding_away_is_refused() -> None:
    def away(exported: Callable[[Tensor], Tensor], graph: Graph) -> str:
        with pytest.raises(StppError, match=r"m: not written: at 65 x 97 pixels, its logits differ by") as said:
            Export(NETWORK, ABOUT, graph).compared(exported, Path("m"))
        return str(said.value)

    right = FromPixels(NETWORK)
    away(lambda x: right(x) * 1.001, Graph())
    away(lambda x: right(x).argmin(1).to(torch.uint8), Graph(argmax=True))
    large = Small().eval().requires_grad_(False)
    large.backbone.weight.mul_(1e6)  # beyond the largest number of float16
    assert "nan; try without --half" in away(FromPixels(large, Graph(half=True)), Graph(half=True))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["onnxruntime", "openvino", "torch"])
def test_class_ids_of_a_half_precision_export_are_those_of_torch(which: str, tmp_path: Path) -> None:
    pytest.importorskip(which)
    writers: dict[str, tuple[Any, str]] = {
        "onnxruntime": (Export.to_onnx, "m.onnx"),
        "openvino": (Export.to_openvino, "m.xml"),
        "torch": (Export.to_torch_export, "m.pt2"),
    }
    to, path = writers[which][0], tmp_path / writers[which][1]
    to(Export(NETWORK, ABOUT, Graph(argmax=True, half=True)), path)
    x = torch.from_numpy(photo(71, 45)).permute(2, 0, 1)[None] / 255
    if which == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        [found] = session.run(["mask"], {"image": x.numpy()})
        kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
        assert TensorProto.FLOAT16 in kinds
    elif which == "openvino":
        import openvino

        found = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x.numpy()])[0]
        assert path.with_suffix(".bin").stat().st_size < 3 * NETWORK.backbone.weight.numel()
    else:
        program = torch.export.load(path)
        found = program.module()(x).numpy()
        assert torch.float16 in {one.dtype for one in program.state_dict.values()}
    assert found.dtype == np.uint8 and found.shape == (1, 71, 45)
    expected = NETWORK((x - NETWORK.pixel_mean) / NETWORK.pixel_std).argmax(1).numpy()
    assert (found != expected).mean() < 0.01


def test_a_file_that_no_export_wrote_for_the_engine_is_named(engine: Engine, write: Callable[..., Path]) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(StppError) as said:
            Predictor(path, CPU, engine=engine)
        assert str(path.with_suffix("")) in str(said.value) and "\n" not in str(said.value)
        return str(said.value)

    path = write()
    assert "--engine" in refused(path.with_suffix(".safetensors"))
    whole = path.read_bytes()
    for content in (b"no model", b"", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "not readable" in refused(path)
    path.write_bytes(whole.replace(b"classes", b"KLASSES"))
    assert "no valid metadata" in refused(path)
    if engine == "openvino":
        path.write_bytes(whole)
        path.with_suffix(".bin").write_bytes(b"")
        assert "not readable" in refused(path)
        path.with_suffix(".bin").unlink()
        assert "m.bin: no such file; it holds the weights of m.xml" in refused(path)


def test_a_model_of_other_channels_or_without_logits_is_refused(engine: Engine, write: Callable[..., Path]) -> None:
    path = write(replace(ABOUT, reading=Reading((1, 2, 3, 4))))
    with pytest.raises(StppError, match=f"{path}: takes image with 3 channels, but should take image with 4"):
        Predictor(path, CPU, engine=engine)
    path = write(output="mask")
    with pytest.raises(StppError, match="export without --argmax"):
        Predictor(path, CPU, engine=engine)
    path = write(replace(ABOUT, classes=("a", "b"), palette=((1, 2, 3), (4, 5, 6))))
    with pytest.raises(StppError, match=f"{path}: its output is .* not logits of 2 classes"):
        Predictor(path, CPU, engine=engine).mask(photo(40, 40))


def test_an_engine_that_is_not_installed_is_named(
    engine: Engine, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(StppError, match=f"{engine} is not installed; run `pip install"):
        Predictor(path, CPU, engine=engine)
