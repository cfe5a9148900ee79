"""Tests of every network against the public code, which is written here as functions of a state dict."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small import Project
from torch import Tensor

from stpp.models import build
from stpp.models.weights import convert_keys, read_state
from stpp.params.models import Model
from stpp.store.files import StppError

State = dict[str, Tensor]
NETWORKS = ["deeplabv2", "deeplabv3plus", "pspnet"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# -- the public code's computation


def bn(x: Tensor, s: State, key: str) -> Tensor:
    shape = (1, -1, 1, 1)
    mean, var = s[f"{key}.running_mean"].view(shape), s[f"{key}.running_var"].view(shape)
    return (x - mean) / torch.sqrt(var + 1e-5) * s[f"{key}.weight"].view(shape) + s[f"{key}.bias"].view(shape)


def unit(x: Tensor, s: State, key: str, first: int = 0, rate: int = 1) -> Tensor:
    """Apply a convolution, batch norm and ReLU that are consecutive in a Sequential, from index `first`."""
    weight = s[f"{key}.{first}.weight"]
    padding = rate * (weight.shape[2] // 2)
    return F.relu(bn(F.conv2d(x, weight, padding=padding, dilation=rate), s, f"{key}.{first + 1}"))


def up(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly with aligned corners: the corner pixels of output and input have the same positions."""

    def axis(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.arange(m, dtype=torch.float64) * ((n - 1) / (m - 1) if m > 1 else 0.0)
        low = at.floor().long().clamp(max=n - 1)
        return low, (low + 1).clamp(max=n - 1), (at - low).float()

    top, bottom, v = axis(x.shape[2], like.shape[2])
    left, right, h = axis(x.shape[3], like.shape[3])
    rows = x[:, :, top] * (1 - v)[:, None] + x[:, :, bottom] * v[:, None]
    return rows[..., left] * (1 - h) + rows[..., right] * h


def resnet(x: Tensor, s: State, stride: int) -> tuple[Tensor, Tensor]:
    """Apply a ResNet with bottlenecks.

    At output stride 8, dilation replaces the strides of layers 3 and 4, and starts one block later. At 16, only the
    stride of layer 4 is replaced.
    """
    last = ((3, 1, (1, 2)), (4, 1, (2, 4))) if stride == 8 else ((3, 2, (1, 1)), (4, 1, (1, 2)))
    x = F.relu(bn(F.conv2d(x, s["backbone.conv1.weight"], stride=2, padding=3), s, "backbone.bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for layer, strides, rates in ((1, 1, (1, 1)), (2, 2, (1, 1)), *last):
        block = 0
        while f"backbone.layer{layer}.{block}.conv1.weight" in s:
            key, stride, rate = f"backbone.layer{layer}.{block}", strides if block == 0 else 1, rates[block > 0]
            y = F.relu(bn(F.conv2d(x, s[f"{key}.conv1.weight"]), s, f"{key}.bn1"))
            y = F.conv2d(y, s[f"{key}.conv2.weight"], stride=stride, padding=rate, dilation=rate)
            y = bn(F.conv2d(F.relu(bn(y, s, f"{key}.bn2")), s[f"{key}.conv3.weight"]), s, f"{key}.bn3")
            if f"{key}.downsample.0.weight" in s:
                x = bn(F.conv2d(x, s[f"{key}.downsample.0.weight"], stride=stride), s, f"{key}.downsample.1")
            x, block = F.relu(x + y), block + 1
        maps.append(x)
    return maps[0], maps[3]


def deeplabv3plus(x: Tensor, s: State, stride: int) -> Tensor:
    c1, c4 = resnet(x, s, stride)
    pooled = unit(c4.mean((2, 3), keepdim=True), s, "head.b4.gap", first=1)
    branches = [unit(c4, s, "head.b0"), *(unit(c4, s, f"head.b{i}", rate=96 // stride * i) for i in (1, 2, 3))]
    c4 = unit(torch.cat([*branches, pooled.expand_as(branches[0])], 1), s, "head.project")
    fused = unit(torch.cat([unit(c1, s, "reduce"), up(c4, c1)], 1), s, "fuse")
    fused = unit(fused, s, "fuse", first=3)
    return up(F.conv2d(fused, s["classifier.weight"], s["classifier.bias"]), x)


def pspnet(x: Tensor, s: State, stride: int) -> Tensor:
    _, c4 = resnet(x, s, stride)
    parts = [c4]
    for i, n in enumerate((1, 2, 3, 6), 1):
        parts.append(up(unit(F.adaptive_avg_pool2d(c4, n), s, f"head.conv5.0.conv{i}"), c4))
    y = F.relu(bn(F.conv2d(torch.cat(parts, 1), s["head.conv5.1.weight"], padding=1), s, "head.conv5.2"))
    return up(F.conv2d(y, s["head.conv5.5.weight"], s["head.conv5.5.bias"]), x)


def deeplabv2(x: Tensor, s: State, stride: int) -> Tensor:
    _, c4 = resnet(x, s, stride)
    y = torch.zeros(1)
    for i, rate in enumerate((6, 12, 18, 24) if stride == 8 else (3, 6, 9, 12)):
        y = y + F.conv2d(c4, s[f"classifier.{i}.weight"], s[f"classifier.{i}.bias"], padding=rate, dilation=rate)
    return up(y, x)


ORACLES = {"deeplabv2": deeplabv2, "deeplabv3plus": deeplabv3plus, "pspnet": pspnet}


def published(network: str, classes: int = 5, backbone: str = "resnet50") -> State:
    """Return a state dict in the layout of the public code, with running statistics unlike those of a new network."""
    return dict(_published(network, classes, backbone))


@cache
def _published(network: str, classes: int, backbone: str) -> State:
    torch.manual_seed(3)
    state = build.build(Model(network=network, backbone=backbone), classes).state_dict()
    generator = torch.Generator().manual_seed(4)
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif key.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return {k: v.contiguous() for k, v in state.items()}


@pytest.mark.parametrize(
    ("network", "backbone", "stride"),
    [*((network, "resnet50", stride) for network in NETWORKS for stride in (8, 16)), ("deeplabv2", "resnet101", 8)],
)
def test_a_loaded_network_computes_the_same_as_the_published_one(network: str, backbone: str, stride: int) -> None:
    state = published(network, backbone=backbone)
    ours = build.build(Model(network=network, backbone=backbone, output_stride=stride), 5).eval()
    ours.load_state_dict(convert_keys(state, network, backbone, "test").state)
    for size in ((65, 97), (48, 32)):
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            expected, got = ORACLES[network](x, state, stride), ours(x)
        scale = expected.abs().max()
        torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=1e-5)
        assert expected.std() > 0.01 * scale, "a constant answer would prove nothing"


@pytest.mark.parametrize(
    ("network", "backbone", "classes", "parameters"),
    [
        ("pspnet", "resnet50", 19, 46_591_571),
        ("pspnet", "resnet50", 21, 46_592_597),
        ("deeplabv3plus", "resnet50", 19, 40_351_667),
        ("deeplabv3plus", "resnet101", 21, 59_344_309),
        ("deeplabv2", "resnet101", 19, 43_901_068),
        ("deeplabv2", "resnet101", 21, 44_048_532),
    ],
)
@pytest.mark.parametrize("stride", [8, 16])
def test_the_number_of_parameters_equals_that_of_the_published_network(
    network: str, backbone: str, classes: int, parameters: int, stride: int
) -> None:
    with torch.device("meta"):
        ours = build.build(Model(network=network, backbone=backbone, output_stride=stride), classes)
    assert sum(p.numel() for p in ours.parameters()) == parameters


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
@pytest.mark.parametrize("stride", [8, 16])
def test_every_network_runs_on_every_backbone_and_size(network: str, backbone: str, stride: int) -> None:
    ours = build.build(Model(network=network, backbone=backbone, output_stride=stride), 7).eval()
    for size in ((33, 49), (64, 40)):
        with torch.inference_mode():
            assert ours(torch.zeros(1, 3, *size)).shape == (1, 7, *size)


def test_the_rates_of_deeplabv2_are_halved_at_output_stride_16() -> None:
    for stride, rates in ((8, [6, 12, 18, 24]), (16, [3, 6, 9, 12])):
        with torch.device("meta"):
            ours = build.build(Model(network="deeplabv2", backbone="resnet18", output_stride=stride), 2)
        assert [c.dilation for c in ours.classifier] == [(r, r) for r in rates]


def test_the_classifiers_of_deeplabv2_start_from_a_narrow_normal_distribution() -> None:
    torch.manual_seed(0)
    ours = build.build(Model(network="deeplabv2", backbone="resnet18"), 21)
    for layer in ours.classifier:
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
        assert abs(float(layer.weight.detach().mean())) < 2e-4


# -- layouts


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_saved_by_dataparallel_in_half_precision_is_converted_to_float32(network: str) -> None:
    state = published(network)
    half = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in state.items()}
    placed = convert_keys(half, network, "resnet50", "test")
    assert placed.layout == "public code"
    assert set(placed.state) == set(state)
    assert all(torch.equal(v, state[k].half().float()) for k, v in placed.state.items() if v.is_floating_point())
    assert {v.dtype for v in placed.state.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("prefix", ["", "Scale.", "module.Scale."])
def test_the_keys_of_the_coco_weights_of_advsemiseg_are_converted(prefix: str) -> None:
    state = published("deeplabv2", classes=21)
    theirs = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue  # those files are from before torch had these counters
        name = key.replace("classifier.", "layer5.conv2d_list.").removeprefix("backbone.")
        theirs[prefix + name] = value
    placed = convert_keys(theirs, "deeplabv2", "resnet50", "coco.pth")
    assert placed.layout == "AdvSemiSeg"
    assert set(placed.state) == set(state)
    assert all(torch.equal(v, state[k]) for k, v in placed.state.items() if not k.endswith("num_batches_tracked"))
    assert not any(v.any() for k, v in placed.state.items() if k.endswith("num_batches_tracked"))
    assert not placed.dropped


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("what", ["missing", "unknown", "of another shape"])
def test_a_key_of_a_network_that_does_not_fit_is_named(network: str, what: str) -> None:
    state = published(network)
    key = next(k for k in state if not k.startswith("backbone.") and k.endswith("weight"))
    if what == "missing":
        del state[key]
    elif what == "unknown":
        key = "head.auxiliary.weight"
        state[key] = torch.zeros(1)
    else:
        state[key] = torch.zeros(*state[key].shape, 2)
    with pytest.raises(StppError) as error:
        convert_keys(state, network, "resnet50", "theirs.pth")
    assert all(part in str(error.value) for part in ("theirs.pth", network, "public code", what, key))


@pytest.mark.parametrize("other", NETWORKS)
def test_weights_of_another_network_are_refused(other: str) -> None:
    for network in set(NETWORKS) - {other}:
        with pytest.raises(StppError, match=f"does not fit {other} on resnet50"):
            convert_keys(published(network), other, "resnet50", "theirs.pth")


def test_export_and_import_give_back_the_same_tensors(tmp_path: Path) -> None:
    state = published("pspnet")
    save_file(state, tmp_path / "ours.safetensors")
    project, options = Project(tmp_path, dict(os.environ)), ("--network", "pspnet", "--backbone", "resnet50")

    def run(*words: str) -> str:
        return project.run("stpp", "weights", *words, *options)

    run("export", "ours.safetensors", "--out", "theirs.pth")
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert set(theirs) == set(state)
    assert "public code" in run("import", "theirs.pth", "--out", "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[k], v) and torch.equal(theirs[k], v) for k, v in state.items())
    assert set(read_state(tmp_path / "again.safetensors")) == set(state)


def test_a_tensor_with_and_without_its_prefix_is_an_error() -> None:
    """The prefix `Scale.` of AdvSemiSeg is removed, so two tensors would then have the same key."""
    theirs = {"Scale.layer5.conv2d_list.0.weight": torch.zeros(1), "Scale.conv1.weight": torch.zeros(1)}
    with pytest.raises(StppError, match=r"two tensors each, with and without `Scale.`, for backbone\.conv1\.weight"):
        convert_keys(theirs | {"conv1.weight": torch.ones(1)}, "deeplabv2", "resnet101", "theirs.pth")
