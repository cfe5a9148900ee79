"""Tests of `stpp export`: files for other runtimes, and HTTP requests to MLflow's own server."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import Project

from stpp.data.transforms import normalize
from stpp.models import build
from stpp.params.models import Model

MODEL = Model(backbone="test_resnet", output_stride=16)
ABOUT = build.CheckpointMetadata(MODEL, ("sky", "road", "sign"), ((1, 2, 3), (200, 100, 0), (0, 0, 255)))


@pytest.fixture
def checkpoint(project: Project) -> Project:
    torch.manual_seed(1)
    build.save(project.folder / "model.safetensors", build.build(MODEL, 3).state_dict(), ABOUT)
    return project


def export(project: Project, out: str, *words: str, rc: int = 0) -> str:
    output = project.run("stpp", "export", "--model", "model.safetensors", "--out", out, *words, rc=rc)
    assert "Traceback" not in output
    return output


def test_onnx_is_written_and_its_difference_from_the_checkpoint_is_reported(checkpoint: Project) -> None:
    output = export(checkpoint, "deep/m.onnx")
    assert "RGB from 0 to 1" in output and "differ from the checkpoint's by" in output
    assert [path.name for path in (checkpoint.folder / "deep").iterdir()] == ["m.onnx"]


def test_existing_files_are_kept_and_a_wrong_model_is_named(checkpoint: Project) -> None:
    (checkpoint.folder / "m.onnx").write_text("mine")
    assert "already exists" in export(checkpoint, "m.onnx", rc=2)
    assert (checkpoint.folder / "m.onnx").read_text() == "mine"
    (checkpoint.folder / "model.safetensors").write_text("no weights")
    assert "not readable as weights" in export(checkpoint, "n.onnx", rc=2)
    (checkpoint.folder / "model.safetensors").unlink()
    assert "no such file" in export(checkpoint, "n.onnx", rc=2)


@pytest.fixture
def server(checkpoint: Project) -> Iterator[str]:
    """Run `mlflow models serve` on the loopback address. Yield its URL."""
    export(checkpoint, "packaged", "--as", "mlflow")
    words = ("mlflow", "models", "serve", "--env-manager", "local", "--model-uri", "packaged", "--workers", "1")
    with checkpoint.serving(*words, answers="/ping") as address:
        yield address


def answered(address: str, *images: bytes) -> list[dict[str, str]]:
    rows = [[base64.b64encode(data).decode()] for data in images]
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        found: list[dict[str, str]] = json.load(response)["predictions"]
        return found


@pytest.mark.slow
def test_mlflows_server_returns_the_mask_of_an_image(checkpoint: Project, server: str) -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((40, 64, 3), (51, 33, 3))]
    encoded = []
    for photo in photos:
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    network = build.load(MODEL, 3, checkpoint.folder / "model.safetensors").eval()
    answers = answered(server, *encoded)
    assert len(answers) == 2
    for photo, answer in zip(photos, answers, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as image, torch.inference_mode():
            expected = network(torch.from_numpy(normalize(photo))[None])[0].argmax(0)
            assert (np.asarray(image) == expected.numpy()).all()
    with pytest.raises(urllib.error.HTTPError) as refused:
        answered(server, b"no image")
    assert refused.value.code == 400
    said = refused.value.read().decode()
    assert "row 0: the image: not an image" in said
    assert "Traceback" not in said and str(checkpoint.folder) not in said and "site-packages" not in said


@pytest.mark.slow
def test_a_package_works_without_a_project(checkpoint: Project, tmp_path: Path) -> None:
    export(checkpoint, "packaged", "--as", "mlflow")
    code = (
        "import mlflow, sys; m = mlflow.pyfunc.load_model(sys.argv[1]); import stpp;"
        "print(stpp.__file__); print(m.metadata.signature); print('start:', m.metadata.metadata['start'])"
    )
    output = checkpoint.run("python", "-c", code, str(checkpoint.folder / "packaged"))
    assert "packaged" in output and "binary" in output and "start: none" in output
