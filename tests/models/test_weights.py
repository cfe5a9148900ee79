"""Tests of reading weights from files of all kinds and layouts."""

import pickle
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from stpp.models.backbone import ResNet
from stpp.models.weights import convert_keys, start_of
from stpp.params.models import Model
from stpp.store.files import StppError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def read_weights(name: str, weights: str, folder: Path) -> dict[str, Tensor]:
    """Return the initial weights of the backbone, with torchvision's keys."""
    start = start_of(Model(backbone=name, weights=weights), folder)[0].state
    assert all(key.startswith("backbone.") for key in start)
    return {key.removeprefix("backbone."): value for key, value in start.items()}


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Return a state dict like torchvision's published one for ResNet-18, with the classifier."""
    torch.manual_seed(2)
    return models.resnet18(weights=None).state_dict()


def torchvisions_file(home: Path) -> Path:
    """Return the path where torch.hub looks for the published weights before it downloads them."""
    path = home / "hub" / "checkpoints" / Path(urlparse(models.ResNet18_Weights.IMAGENET1K_V1.url).path).name
    path.parent.mkdir(parents=True)
    return path


class Bomb:
    """An object whose pickle calls a function that writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.marker,)  # type: ignore[return-value]


def test_the_choice_none_gives_no_weights(tmp_path: Path) -> None:
    assert read_weights("resnet18", "none", tmp_path) == {}


def test_torchvisions_weights_without_a_network_are_an_error_that_names_the_three_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for proxy in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # refuses at once
    for proxy in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with pytest.raises(StppError) as error:
        read_weights("resnet18", "IMAGENET1K_V1", tmp_path / "weights")
    for choice in ("`none`", "IMAGENET1K_V1", f"{tmp_path / 'weights'}/"):
        assert choice in str(error.value)
    assert not list((tmp_path / "home").rglob("*.pth"))


def test_torchvisions_weights_come_from_its_cache_once_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: dict[str, Tensor]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save(published, torchvisions_file(tmp_path))
    state = read_weights("resnet18", "IMAGENET1K_V1", tmp_path / "weights")
    assert torch.equal(state["layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])


def test_code_in_torchvisions_cache_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    marker = tmp_path / "executed"
    torch.save({"conv1.weight": Bomb(marker)}, torchvisions_file(tmp_path))
    with pytest.raises(StppError):
        read_weights("resnet18", "IMAGENET1K_V1", tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["start.pth", "start.pt", "start.safetensors", "deeper/start.pth"])
def test_a_local_file_gives_its_tensors_without_the_classifier(
    tmp_path: Path, published: dict[str, Tensor], name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    save_file(published, path) if name.endswith(".safetensors") else torch.save(published, path)
    state = read_weights("resnet18", name, tmp_path)
    assert set(state) == {k for k in published if k not in ("fc.weight", "fc.bias")}
    assert all(torch.equal(v, published[k]) for k, v in state.items())
    ResNet("resnet18", 16).load_state_dict(state)


def test_half_precision_is_converted_to_float32_exactly_and_counters_stay_integers(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in published.items()}
    save_file(half, tmp_path / "half.safetensors")
    for key, value in read_weights("resnet18", "half.safetensors", tmp_path).items():
        assert value.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        assert torch.equal(value.double(), half[key].double())


def test_counters_of_seen_batches_may_be_absent_as_in_older_files(tmp_path: Path, published: dict[str, Tensor]) -> None:
    torch.save({k: v for k, v in published.items() if "num_batches" not in k}, tmp_path / "old.pth")
    state = read_weights("resnet18", "old.pth", tmp_path)
    assert set(state) == set(published) - {"fc.weight", "fc.bias"}
    assert not any(v.any() for k, v in state.items() if "num_batches" in k)


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [
        ("missing", "layer2.0.conv1.weight", None),
        ("unknown", "module.layer9.weight", torch.zeros(3)),
        ("of another shape", "layer1.0.conv1.weight", torch.zeros(64, 64, 1, 1)),
    ],
)
def test_a_key_that_does_not_fit_is_named_with_the_file(
    tmp_path: Path, published: dict[str, Tensor], what: str, key: str, value: Tensor | None
) -> None:
    changed = dict(published)
    if value is None:
        del changed[key]
    else:
        changed[key] = value
    save_file(changed, tmp_path / "start.safetensors")
    with pytest.raises(StppError) as error:
        read_weights("resnet18", "start.safetensors", tmp_path)
    assert all(part in str(error.value) for part in ("start.safetensors", "resnet18", what, key))


def test_all_keys_that_do_not_fit_are_named_at_once(tmp_path: Path, published: dict[str, Tensor]) -> None:
    removed = [key for key in published if key.startswith("layer3.")]
    changed = {key: value for key, value in published.items() if key not in removed}
    unknown = {f"mine.{i}": torch.zeros(1) for i in range(8)}
    misshapen = {"layer1.0.conv1.weight": torch.zeros(1)}
    save_file(changed | unknown | misshapen, tmp_path / "start.safetensors")
    with pytest.raises(StppError, match=r"does not fit deeplabv3plus on resnet18 ") as error:
        read_weights("resnet18", "start.safetensors", tmp_path)
    named = str(error.value).replace(",", " ").split()
    gone = {f"backbone.{key}" for key in removed if not key.endswith("num_batches_tracked")}
    assert gone | set(unknown) | set(misshapen) <= set(named), "what the file holds is named as the file names it"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(64, 64, 3, 3, dtype=torch.complex64), "complex64"),
        (torch.zeros(64, 64, 3, 3, dtype=torch.int8), "int8"),
        (torch.full((64, 64, 3, 3), float("nan")), "NaN or infinite"),
        (torch.full((64, 64, 3, 3), float("inf")), "NaN or infinite"),
        (torch.zeros(0, 64, 3, 3), "is empty"),
        (torch.zeros(64, 64, 3, 3).to_sparse(), "sparse"),
        (torch.zeros(1).expand(10**12), "1000000000000 values, but fewer are stored"),
        (torch.zeros(64, 64, 3, 3).to(torch.float8_e4m3fn), "float8"),
    ],
)
def test_the_error_names_tensors_that_are_not_weights(published: dict[str, Tensor], value: Tensor, said: str) -> None:
    with pytest.raises(StppError, match=r"layer1\.0\.conv1\.weight: ") as error:
        convert_keys(published | {"layer1.0.conv1.weight": value}, "deeplabv3plus", "resnet18", "a.pth")
    assert said in str(error.value)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path, save: object) -> None:
    marker, path = tmp_path / "executed", tmp_path / "bomb.pth"
    save({"conv1.weight": Bomb(marker)}, path)  # type: ignore[operator]
    with pytest.raises(StppError, match=r"bomb\.pth"):
        read_weights("resnet18", "bomb.pth", tmp_path)
    assert not marker.exists()


def test_a_plain_unpickler_would_execute_the_code(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, {0: torch.zeros(1)}, {"state_dict": {"a": torch.zeros(1)}}])
def test_a_file_without_tensors_by_name_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "start.pth")
    with pytest.raises(StppError, match=r"start\.pth: not a state dict"):
        read_weights("resnet18", "start.pth", tmp_path)


@pytest.mark.parametrize("outside", ["../start.pth", "deeper/../../start.pth", "{absolute}"])
def test_a_file_outside_the_folder_is_refused(tmp_path: Path, published: dict[str, Tensor], outside: str) -> None:
    (tmp_path / "weights" / "deeper").mkdir(parents=True)
    torch.save(published, tmp_path / "start.pth")
    with pytest.raises(StppError, match=r"no such file; model\.weights must be `none`"):
        read_weights("resnet18", outside.format(absolute=tmp_path / "start.pth"), tmp_path / "weights")


@pytest.mark.parametrize("name", ["", ".", "deeper", "nowhere.pth", "IMAGENET1K_V9"])
def test_a_name_that_is_not_a_file_is_an_error_that_names_the_three_choices(tmp_path: Path, name: str) -> None:
    (tmp_path / "deeper").mkdir()
    with pytest.raises(StppError) as error:
        read_weights("resnet18", name, tmp_path)
    assert all(choice in str(error.value) for choice in ("`none`", "IMAGENET1K_V1", f"{tmp_path}/"))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02.", b"<!DOCTYPE html>\n<html></html>", b"\0" * 100])
@pytest.mark.parametrize("name", ["start.pth", "start.safetensors"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StppError, match=name):
        read_weights("resnet18", name, tmp_path)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["zip.pth", "legacy.pth", "start.safetensors"]), part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path: Path, kind: str, part: float) -> None:
    whole, cut = tmp_path / f"whole-{kind}", tmp_path / kind
    state = {"conv1.weight": torch.arange(300.0), "bn1.num_batches_tracked": torch.tensor(3)}
    if kind.endswith(".safetensors"):
        save_file(state, whole)
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=kind == "zip.pth")
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(StppError, match=f"{kind}: not a plain weights file: ."):
        read_weights("resnet18", kind, tmp_path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_tensor_is_detected(tmp_path: Path, at: float, bit: int) -> None:
    state = {"conv1.weight": torch.arange(300.0)}
    torch.save(state, tmp_path / "whole.pth")
    data = bytearray((tmp_path / "whole.pth").read_bytes())
    start = data.index(state["conv1.weight"].numpy().tobytes())
    data[start + int(at * 1200)] ^= 1 << bit
    (tmp_path / "flipped.pth").write_bytes(data)
    with pytest.raises(StppError, match=r"flipped.pth: damaged .*: wrong checksum"):
        read_weights("resnet18", "flipped.pth", tmp_path)


@pytest.mark.real
def test_the_shared_imagenet_weights_fit_resnet18() -> None:
    path = ROOT.parent / "shared" / "weights" / "resnet18_imagenet_layers1to3.pth"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    state = read_weights("resnet18", path.name, path.parent)
    ResNet("resnet18", 16).load_state_dict(state, strict=False)
    raw = torch.load(path, map_location="cpu", weights_only=True)
    assert raw["conv1.weight"].dtype == torch.float16
    assert {v.dtype for k, v in state.items() if "num_batches" not in k} == {torch.float32}
    assert torch.equal(state["layer3.1.conv2.weight"].half(), raw["layer3.1.conv2.weight"])
