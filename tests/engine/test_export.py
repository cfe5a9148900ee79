"""Tests that exported networks compute the same as the checkpoint, also at sizes that the export did not see."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stpp.data.transforms import normalize
from stpp.deploy.export import Export, FromPixels, GridMeans
from stpp.models import build, metadata
from stpp.params.models import Model
from stpp.store.files import StppError

CLASSES = ("sky", "road", "<b>sign</b>")
OTHER_SIZES = ((1, 32, 32), (3, 71, 45), (1, 129, 250))


def about(network: str, backbone: str = "resnet18", stride: int = 16) -> metadata.CheckpointMetadata:
    model = Model.model_validate({"network": network, "backbone": backbone, "output_stride": stride})
    return metadata.CheckpointMetadata(model, CLASSES, ((1, 2, 3), (200, 100, 0), (0, 0, 255)))


def small(of: metadata.CheckpointMetadata) -> nn.Module:
    """Return a network whose batch norms have seen data, so that its logits are not all alike."""
    torch.manual_seed(0)
    network = build.build(of.model, len(CLASSES))
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    return network.eval()


@given(parts=st.integers(1, 7), height=st.integers(1, 40), width=st.integers(1, 40))
def test_grid_means_equal_adaptive_pooling(parts: int, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(GridMeans(parts)(x), F.adaptive_avg_pool2d(x, parts))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("pspnet", "test_resnet"),
        ("deeplabv3plus_separable", "resnet18"),
        ("deeplabv2", "test_resnet"),
        ("dpt", "test_vit"),
        ("linear", "test_vit"),
    ],
)
def test_onnx_runtime_and_torch_export_agree_with_the_checkpoint_at_other_sizes(
    name: str, backbone: str, tmp_path: Path
) -> None:
    of = about(name, backbone)
    network = small(of)
    before = [type(module) for module in network.modules()]
    export = Export(network, of)
    assert export.to_onnx(tmp_path / "m.onnx").logits < 1e-4
    assert export.to_torch_export(tmp_path / "m.pt2").logits < 1e-4
    if importlib.util.find_spec("openvino"):
        assert export.to_openvino(tmp_path / "m.xml").logits < 1e-4
        assert (tmp_path / "m.xml").read_text().count("<palette") == 1, "ONNX has metadata of its own"
    assert [type(module) for module in network.modules()] == before, "the network itself is left as it was"
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    extra = {"stpp.json": ""}
    program = torch.export.load(str(tmp_path / "m.pt2"), extra_files=extra).module()
    assert json.loads(extra["stpp.json"])["classes"] == list(CLASSES)
    for batch, *sides in OTHER_SIZES:
        height, width = (max(side, 64) if backbone == "test_vit" else side for side in sides)
        photos = np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        with torch.no_grad():
            expected = network(torch.from_numpy(np.stack([normalize(photo) for photo in photos])))
        x = photos.transpose(0, 3, 1, 2).astype(np.float32) / 255
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"image": x})[0]), expected, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(program(torch.from_numpy(x)), expected, atol=1e-4, rtol=1e-4)

    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    props = {p.key: p.value for p in model.metadata_props}
    assert json.loads(props["classes"]) == list(CLASSES)
    assert json.loads(props["palette"])[1] == [200, 100, 0]


def test_an_export_with_different_results_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GridMeans, "forward", lambda self, x: F.adaptive_max_pool2d(x, self.parts))
    of = about("pspnet")
    with pytest.raises(StppError, match="differ by"):
        Export(small(of), of).to_torch_export(tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_what_is_exported_takes_pixels_from_0_to_1_and_normalises_them_as_for_training() -> None:
    network = small(about("deeplabv2"))
    photo = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(normalize(photo))[None])
        found = FromPixels(network)(torch.from_numpy(photo.transpose(2, 0, 1)[None].astype(np.float32) / 255))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
