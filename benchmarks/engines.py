"""Measure exported models (`stpp predict --engine`) against torch, in float32 on the CPU: python benchmarks engines."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from measure import Row, row, seconds
from torch import nn

from stpp.deploy.engines import load
from stpp.deploy.export import Export
from stpp.engine.predict import LARGE, fold_batch_norms, mask_predictor, single_pass
from stpp.models.build import build
from stpp.models.metadata import CheckpointMetadata, Start
from stpp.params.models import Model

CLASSES = tuple(map(str, range(21)))
SHAPE, REPEATS = (1, 375, 500, 3), 3
MODELS = (
    Model(weights="none"),
    Model(network="deeplabv3plus_separable", backbone="tf_efficientnet_lite0", weights="none", output_stride=16),
)


def run() -> list[Row]:
    return [one for model in MODELS for one in _rows(model)]


def _rows(model: Model) -> list[Row]:
    """Time torch as the stages use it, with batch norms folded, and each engine, on one image of Pascal's size."""
    torch.manual_seed(0)
    network = build(model, len(CLASSES)).train()
    with torch.no_grad():
        network(torch.randn(2, 3, 129, 129))  # running statistics that keep activations in range
    palette = tuple((i, i, i) for i in range(len(CLASSES)))
    about = CheckpointMetadata(model, CLASSES, palette, Start(), None)
    images, decide = torch.randint(0, 256, SHAPE, dtype=torch.uint8), mask_predictor(single_pass, LARGE)
    found: dict[str, torch.Tensor] = {}

    def way(name: str, one: nn.Module) -> Callable[[], None]:
        def timed() -> None:
            with torch.inference_mode():
                found[name] = decide(one, images).mask

        return timed

    with tempfile.TemporaryDirectory() as folder:
        onnx, openvino = Path(folder) / "m.onnx", Path(folder) / "m.xml"
        export = Export(network.eval(), about)
        export.to_onnx(onnx)
        export.to_openvino(openvino)
        ways = {"torch": way("torch", fold_batch_norms(copy.deepcopy(network), model))}
        ways |= {"onnxruntime": way("onnxruntime", load("onnxruntime", onnx)[1])}
        ways |= {"openvino": way("openvino", load("openvino", openvino)[1])}
        for warm in ways.values():
            warm()
        times = seconds(ways, REPEATS)
    differ = {name: float((found[name] != found["torch"]).float().mean()) for name in ways}
    assert max(differ.values()) < 0.001, differ
    note = f"{model.title}: {max(differ.values()):.3%} of pixels differ from torch's at most"
    return [
        row(f"prediction by {name}, {model.title}", "images/s", len(images), times["torch"], times[name], 1.0, note)
        for name in ("onnxruntime", "openvino")
    ]
