"""Tests of `stpp export`: files for other runtimes, and HTTP requests to MLflow's own server."""

import ast
import base64
import io
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import TINY, Project

from stpp.data.bands import read_with
from stpp.data.transforms import normalize
from stpp.deploy.example import example_image
from stpp.models import build, metadata
from stpp.params.models import Model, Params
from stpp.run.code import import_closure, source_path
from stpp.stages.registration import register_model
from stpp.store.files import write_csv, write_json
from stpp.store.reading import Reading
from stpp.tracking.champion import Measured
from stpp.tracking.client import client, tracking_uri
from stpp.tracking.models import Checkpoint
from stpp.tracking.package import NEEDS

MODEL = Model(backbone="test_resnet", output_stride=16)
ABOUT = metadata.CheckpointMetadata(MODEL, ("sky", "road", "sign"), ((1, 2, 3), (200, 100, 0), (0, 0, 255)))


def photo(size: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(size[0]).integers(0, 256, size, dtype=np.uint8)


@pytest.fixture
def checkpoint(project: Project) -> Project:
    torch.manual_seed(1)
    build.save(project.folder / "model.safetensors", build.build(MODEL, 3).state_dict(), ABOUT)
    return project


def export(project: Project, out: str, *words: str, rc: int = 0) -> str:
    output = project.run("stpp", "export", "--model", "model.safetensors", "--out", out, *words, rc=rc)
    assert "Traceback" not in output
    return output


def test_onnx_is_written_compared_and_predicts_the_same_masks(checkpoint: Project) -> None:
    output = export(checkpoint, "deep/m.onnx")
    assert "RGB from 0 to 1" in output and "differ from the checkpoint's by" in output
    assert [path.name for path in (checkpoint.folder / "deep").iterdir()] == ["m.onnx"]
    (checkpoint.folder / "photos").mkdir()
    for at, size in enumerate(((40, 64, 3), (17, 90, 3))):
        Image.fromarray(photo(size)).save(checkpoint.folder / f"photos/{at}.png")

    def predicted(model: str, *words: str, rc: int = 0) -> str:
        out = words[-1] if words else "torch"
        return checkpoint.run("stpp", "predict", "photos", "--model", model, "--out", out, *words, rc=rc)

    predicted("model.safetensors")
    predicted("deep/m.onnx", "--engine", "onnxruntime")
    for at in (0, 1):
        first, second = (
            np.asarray(Image.open(checkpoint.folder / f"{engine}/masks/{at}.png"))
            for engine in ("torch", "onnxruntime")
        )
        assert (first != second).mean() < 1e-3
    assert "add --engine onnxruntime" in predicted("deep/m.onnx", rc=2)
    assert "computes on the CPU" in predicted("deep/m.onnx", "--device", "cuda", "--engine", "onnxruntime", rc=2)
    assert "takes a file *.onnx" in predicted("model.safetensors", "--engine", "onnxruntime", rc=2)


def test_options_that_do_not_fit_the_format_are_refused(checkpoint: Project) -> None:
    assert "ends in .xml" in export(checkpoint, "m.onnx", "--as", "openvino", rc=2)
    assert "leave out --argmax" in export(checkpoint, "packaged", "--as", "mlflow", "--half", rc=2)
    (checkpoint.folder / "m.bin").write_text("mine")
    assert "m.bin: already exists" in export(checkpoint, "m.xml", "--as", "openvino", rc=2)


def test_existing_files_are_kept_and_a_wrong_model_is_named(checkpoint: Project) -> None:
    (checkpoint.folder / "m.onnx").write_text("mine")
    assert "already exists" in export(checkpoint, "m.onnx", rc=2)
    assert (checkpoint.folder / "m.onnx").read_text() == "mine"
    (checkpoint.folder / "model.safetensors").write_text("no weights")
    assert "not readable as weights" in export(checkpoint, "n.onnx", rc=2)
    (checkpoint.folder / "model.safetensors").unlink()
    assert "no such file" in export(checkpoint, "n.onnx", rc=2)


def registered(project: Project) -> None:
    """Register the checkpoint as the report does: it becomes the champion of its data set."""
    mlflow, folder = client(project.folder), project.folder
    number = mlflow.create_experiment("tiny", artifact_location=(folder / "mlartifacts").as_uri())
    run_id = mlflow.create_run(number).info.run_id
    about = {"run_id": run_id, "stage": "student"}
    write_json(folder / "run.json", about)
    evaluation = folder / "evaluation"
    sets = {"lists": {"val": "v" * 32}, "images": {"val": 6}, "stpp.data.digest": "d" * 32}
    write_json(evaluation / "run.json", about | sets | {"evaluation": "whole images, one scale", "unit": "%"})
    write_json(evaluation / "metrics.json", {"val": {"stpp": {"miou": 50}}})
    rows = [("val", "stpp", name, iou) for name, iou in zip(ABOUT.classes, (25, 75, float("nan")), strict=True)]
    write_csv(evaluation / "per_class.csv", ("set", "model", "class", "iou"), rows)
    measured = Measured(50, "v" * 32, "whole")
    final = Checkpoint("student", folder / "model.safetensors", "a" * 64, {}, 3, "v" * 32, measured.tags)
    params = Params.model_validate_json(json.dumps(TINY | {"runtime": {"register": "pyfunc"}}))
    register_model(folder / "run.json", "tiny", final, "stpp", evaluation, params)


@pytest.fixture
def server(checkpoint: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run `mlflow models serve` on the loopback address for the champion. Yield its URL."""
    monkeypatch.chdir(checkpoint.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registered(checkpoint)
    checkpoint.env["MLFLOW_TRACKING_URI"] = tracking_uri(checkpoint.folder)
    model = ("--model-uri", "models:/tiny@champion", "--workers", "1")
    with checkpoint.serving("mlflow", "models", "serve", "--env-manager", "local", *model, answers="/ping") as address:
        yield address


def answered(address: str, *images: bytes) -> list[dict[str, str]]:
    rows = [[base64.b64encode(data).decode()] for data in images]
    return asked(address, json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}))


def asked(address: str, body: str) -> list[dict[str, str]]:
    request = urllib.request.Request(f"{address}/invocations", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        found: list[dict[str, str]] = json.load(response)["predictions"]
        return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*AnyType")  # MLflow's own code, when it is imported
def test_mlflows_server_returns_the_mask_of_an_image_by_the_champion(checkpoint: Project, server: str) -> None:
    photos = [photo(size) for size in ((40, 64, 3), (51, 33, 3))]
    encoded = []
    for pixels in photos:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    network = build.load(MODEL, 3, checkpoint.folder / "model.safetensors").eval()
    answers = answered(server, *encoded)
    assert len(answers) == 2
    for pixels, answer in zip(photos, answers, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as image, torch.inference_mode():
            expected = network(torch.from_numpy(normalize(pixels))[None])[0].argmax(0)
            assert (np.asarray(image) == expected.numpy()).all()
    [packed] = checkpoint.folder.glob("mlartifacts/models/*/artifacts")
    card = (packed / "README.md").read_text()
    assert "| mIoU | 50.0 |" in card and "| IoU of sign | - |" in card and "d" * 32 in card
    version = client(checkpoint.folder).get_model_version_by_alias("tiny", "champion")
    assert version.description == card
    [example] = asked(server, (packed / "serving_input_example.json").read_text())
    with Image.open(io.BytesIO(base64.b64decode(example["mask"]))) as image:
        assert image.size == (96, 64)
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


@pytest.mark.parametrize("reading", [None, Reading((1,)), Reading((4, 1, 2, 9), ((0.0, 100.0),)), Reading((3, 2, 1))])
def test_the_example_of_the_input_is_an_image_that_the_model_reads(reading: Reading | None, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(example_image(reading))
    pixels = read_with(tmp_path / "image", reading).pixels
    assert pixels.shape == (64, 96, reading.channels if reading else 3) and pixels.min() < 5 and pixels.max() > 250


def test_a_package_names_the_packages_that_its_code_imports() -> None:
    """Once, timm and tifffile were missing, so that a server with its own environment did not start."""
    at_start, at_all = set(), set()
    for module in import_closure("stpp.deploy.served"):
        tree = ast.parse(source_path(module).read_text())
        at_start |= _packages(tree.body)
        at_all |= _packages(ast.walk(tree))
    assert at_start <= set(NEEDS) <= at_all | {"imagecodecs"}, "tifffile needs imagecodecs for some compressions"


def _packages(nodes: Iterable[ast.AST]) -> set[str]:
    nodes = list(nodes)
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"stpp"}
    names = {"PIL": "pillow", "cv2": "opencv-python-headless"}
    return {names.get(top, top) for top in tops}
