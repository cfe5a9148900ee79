"""Tests of networks by name and seed, and of writing and reading their weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stpp.models import build, metadata
from stpp.models.backbone import ResNet
from stpp.params.models import Model
from stpp.store.files import StppError

MODEL = Model(backbone="resnet18", output_stride=16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the weights of a network for three classes."""
    path = tmp_path_factory.mktemp("build") / "three.safetensors"
    build.save(path, seeded(5).state_dict())
    return path


def seeded(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return build.build(MODEL, classes)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_equal_seeds_give_equal_networks_and_other_seeds_others() -> None:
    first, again, other = (seeded(s).state_dict() for s in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_the_network_has_the_backbone_and_the_output_stride_of_the_parameters() -> None:
    with torch.device("meta"):
        network = build.build(Model(backbone="resnet34", output_stride=8), 5)
        _, high = network.get_submodule("backbone")(torch.empty(1, 3, 64, 64))
        assert network(torch.empty(2, 3, 64, 64)).shape == (2, 5, 64, 64)
    assert high.shape == (1, 512, 8, 8)
    assert sum("layer3" in name and name.endswith("conv1.weight") for name, _ in network.named_parameters()) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classifier.bias", float("nan")),
        ("backbone.bn1.running_var", float("inf")),
        ("backbone.layer4.1.conv2.weight", float("-inf")),
    ],
)
def test_a_value_that_is_not_finite_is_neither_written_nor_read(name: str, value: float, tmp_path: Path) -> None:
    state = {key: tensor.clone().contiguous() for key, tensor in seeded(5).state_dict().items()}
    state[name].view(-1)[-1] = value
    with pytest.raises(StppError, match=f"m.safetensors: not written: {name} has NaN or infinite values"):
        build.save(tmp_path / "m.safetensors", state)
    assert not list(tmp_path.iterdir())
    save_file(state, tmp_path / "m.safetensors")
    for read in (
        lambda path: build.load(MODEL, 3, path),
        lambda path: build.load_checkpoint(path, MODEL, 3),
        lambda path: build.load_start_weights(seeded(1), MODEL, path),
    ):
        with pytest.raises(StppError, match=f"m.safetensors: {name} has NaN or infinite values: its training diverged"):
            read(tmp_path / "m.safetensors")


def test_large_finite_weights_are_accepted_if_they_fit_into_float32(tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in seeded(5).state_dict().items()}
    state["backbone.conv1.weight"].fill_(3e38)  # their sum is infinite
    build.save(tmp_path / "m.safetensors", state)
    assert same(build.load(MODEL, 3, tmp_path / "m.safetensors").state_dict(), state)
    state["classifier.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    build.save(tmp_path / "m.safetensors", state)
    with pytest.raises(StppError, match=r"m\.safetensors: classifier\.bias has NaN or infinite values"):
        build.load(MODEL, 3, tmp_path / "m.safetensors")


def test_weights_are_written_and_read_bit_for_bit(checkpoint: Path) -> None:
    network = build.load(MODEL, 3, checkpoint)
    assert same(network.state_dict(), seeded(5).state_dict())
    assert network.get_parameter("backbone.conv1.weight").is_contiguous(memory_format=torch.channels_last)


def test_a_checkpoint_without_counters_of_batches_has_them_at_zero(tmp_path: Path) -> None:
    state = {k: v for k, v in seeded(0).state_dict().items() if "num_batches" not in k}
    build.save(tmp_path / "f.safetensors", state)
    found = build.load(MODEL, 3, tmp_path / "f.safetensors").state_dict()
    assert same({k: v for k, v in found.items() if k in state}, state)
    assert not any(found[k] for k in found.keys() - state.keys())


def test_equal_tensors_give_equal_bytes_in_any_order_and_memory_layout(tmp_path: Path, checkpoint: Path) -> None:
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in seeded(5).state_dict().items()}
    assert not seeded(5).get_parameter("backbone.conv1.weight").is_contiguous()  # channels last
    for ordered in (state, dict(reversed(state.items()))):
        build.save(tmp_path / "again.safetensors", ordered)
        assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


def test_a_checkpoint_of_another_class_count_is_refused_with_its_name(checkpoint: Path) -> None:
    with pytest.raises(StppError, match=r"three\.safetensors: not a checkpoint of this network: .*classifier"):
        build.load(MODEL, 4, checkpoint)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_checkpoint_whose_keys_differ_is_refused(tmp_path: Path, change: str) -> None:
    state = seeded(0).state_dict()
    if change == "missing":
        del state["classifier.bias"]
    else:
        state["auxiliary.weight"] = torch.zeros(2)
    build.save(tmp_path / "f.safetensors", state)
    with pytest.raises(StppError, match=r"f\.safetensors"):
        build.load(MODEL, 3, tmp_path / "f.safetensors")


@pytest.mark.parametrize("content", [None, b"", b"hello, this is no checkpoint", b"\x80\x04}."])
def test_a_file_that_is_not_a_checkpoint_is_refused_with_its_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "f.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StppError, match=r"f\.safetensors: not readable as weights: ."):
        build.load(MODEL, 3, path)


def test_a_network_starts_from_a_full_backbone_file_and_keeps_its_random_head(tmp_path: Path) -> None:
    torch.manual_seed(9)
    start = {f"backbone.{k}": v for k, v in ResNet("resnet18", 16).state_dict().items()}
    path = tmp_path / "backbone.safetensors"
    build.save(path, start)
    network, untouched = seeded(0), seeded(0).state_dict()
    assert build.load_start_weights(network, MODEL, path) == set(start)
    for key, value in network.state_dict().items():
        assert torch.equal(value, start.get(key, untouched[key])), key


def test_a_backbone_file_without_counters_of_batches_starts_them_at_zero(tmp_path: Path) -> None:
    start = {k: v + 1 for k, v in ResNet("resnet18", 16).state_dict().items() if "num_batches" not in k}
    build.save(tmp_path / "backbone.safetensors", {f"backbone.{k}": v for k, v in start.items()})
    network = seeded(0)
    assert build.load_start_weights(network, MODEL, tmp_path / "backbone.safetensors") == {
        f"backbone.{k}" for k in start
    }
    state = network.state_dict()
    assert all(torch.equal(state[f"backbone.{k}"], v) for k, v in start.items())
    assert not any(v.any() for k, v in state.items() if "num_batches" in k)


def test_a_file_that_does_not_say_which_network_it_is_for_starts_no_training(tmp_path: Path) -> None:
    build.save(tmp_path / "backbone.safetensors", {})
    with pytest.raises(StppError, match=r"backbone\.safetensors: no valid metadata .*; run `stpp backbone` again"):
        metadata.model_of(tmp_path / "backbone.safetensors")


def test_an_empty_backbone_file_leaves_the_random_network_unchanged(tmp_path: Path) -> None:
    build.save(tmp_path / "backbone.safetensors", {})
    network = seeded(0)
    assert not build.load_start_weights(network, MODEL, tmp_path / "backbone.safetensors")
    assert same(network.state_dict(), seeded(0).state_dict())


@pytest.mark.parametrize("network", ["deeplabv2", "deeplabv3plus_separable", "pspnet"])
def test_a_network_starts_from_a_whole_network_without_its_classifier_if_the_classes_differ(
    tmp_path: Path, network: str
) -> None:
    model = Model(network=network, backbone="resnet18", output_stride=16)
    torch.manual_seed(1)
    build.save(tmp_path / "coco.safetensors", build.build(model, 21).state_dict())
    for classes in (21, 19):
        torch.manual_seed(2)
        ours = build.build(model, classes)
        before = {k: v.clone() for k, v in ours.state_dict().items()}
        torch.manual_seed(1)
        theirs = build.build(model, 21).state_dict()
        started = build.load_start_weights(ours, model, tmp_path / "coco.safetensors")
        random = {k for k in before if k not in started}
        assert {v.shape[0] for k, v in before.items() if k in random} <= {19}
        assert bool(random) == (classes == 19)
        assert all(torch.equal(v, before[k] if k in random else theirs[k]) for k, v in ours.state_dict().items())
