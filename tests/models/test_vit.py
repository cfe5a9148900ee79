"""Tests of vision transformers of timm, and of their heads, against timm's own networks and published sizes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.data.normalization import Normalization
from stpp.engine.optim import optimizer
from stpp.models import build, metadata
from stpp.models.dpt import Residual
from stpp.models.vit import VisionTransformer
from stpp.models.weights import convert_keys, start_of
from stpp.params.models import Model, Train
from stpp.store.files import StppError

TINY = Model(network="dpt", backbone="test_vit")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def parameters(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def whole(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made: Any = timm.create_model("test_vit", dynamic_img_size=True).eval()
    return made


@pytest.mark.parametrize(
    # millions of parameters of UniMatch V2's networks on DINOv2, and of their heads; width of the head
    ("name", "total", "of_head", "width"),
    [("vit_small_patch14_dinov2", 24.8, 2.7, 64), ("vit_base_patch14_dinov2", 97.5, 10.9, 128)],
)
def test_the_head_has_the_published_size(name: str, total: float, of_head: float, width: int) -> None:
    with torch.device("meta"):
        network = build.network_class("dpt")(name, 21, 8)
        unused = parameters(Residual(width))  # the published head has one at its coarsest level, and never uses it
    head = parameters(network) - parameters(network.get_submodule("backbone"))
    assert round((head + unused) / 1e6, 1) == of_head
    assert round((parameters(network) + unused) / 1e6, 1) == total


@pytest.mark.parametrize("size", [(160, 160), (64, 208)])
def test_features_are_those_of_timms_blocks_at_any_size(size: tuple[int, int]) -> None:
    network, theirs = VisionTransformer("test_vit").eval(), whole()
    network.vit.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs.get_intermediate_layers(x, n=[0, 2, 3, 5], reshape=True, norm=True)
        found = network(x)
    assert len(found) == 4
    for ours, map_ in zip(found, expected, strict=True):
        assert ours.shape[2:] == (size[0] // 16, size[1] // 16)
        torch.testing.assert_close(ours, map_)


@pytest.mark.parametrize("size", [(97, 131), (10, 40), (183, 72)])
def test_images_are_resized_to_the_nearest_whole_patches(size: tuple[int, int]) -> None:
    network = VisionTransformer("test_vit").eval()
    near = [max(1, round(side / 16 + 1e-9)) * 16 for side in size]
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        resized = F.interpolate(x, near, mode="bilinear", align_corners=True)
        assert all(torch.equal(a, b) for a, b in zip(network(x), network(resized), strict=True))


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_logits_have_the_size_of_the_image_and_depend_on_every_weight(head: str) -> None:
    network = build.build(TINY.model_copy(update={"network": head}), 5).train()
    logits = network(torch.randn(2, 3, 97, 131))
    assert logits.shape == (2, 5, 97, 131)
    logits.square().mean().backward()
    without = [name for name, one in network.named_parameters() if one.grad is None]
    assert not without, "a weight that no loss reaches would stop a training on several devices"


@pytest.mark.parametrize(
    ("network", "backbone", "why"),
    [
        ("dpt", "resnet18", "does not suit a transformer's head"),
        ("linear", "swin_tiny_patch4_window7_224", "does not suit a transformer's head"),
        ("dpt", "vit_nonsense", "not a known backbone"),
        ("deeplabv3plus", "test_vit", "stride 16, as in vision transformers; for those, use model.network dpt"),
    ],
)
def test_a_backbone_that_does_not_suit_is_refused_with_the_reason(
    network: str, backbone: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(StppError, match=f"model.backbone: {backbone} .*{why}.*stpp backbone list"):
        start_of(Model(network=network, backbone=backbone), tmp_path)  # type: ignore[arg-type]


def test_published_weights_of_a_transformer_are_placed_and_its_classifier_is_named(tmp_path: Path) -> None:
    theirs = whole(3)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    placed, start = start_of(TINY.model_copy(update={"weights": "vit.pth"}), tmp_path)
    assert set(placed.dropped) == {"head.weight", "head.bias"}
    assert start.normalization == Normalization(
        tuple(theirs.pretrained_cfg["mean"]), tuple(theirs.pretrained_cfg["std"])
    )
    build.save(tmp_path / "backbone.safetensors", placed.state, metadata.BackboneMetadata(TINY, start))
    network = build.build(TINY, 4)
    started = build.load_start_weights(network, TINY, tmp_path / "backbone.safetensors")
    assert started == {name for name in network.state_dict() if name.startswith("backbone.")}
    with pytest.raises(StppError, match="1 missing: cls_token"):
        convert_keys({k: v for k, v in theirs.state_dict().items() if k != "cls_token"}, "dpt", "test_vit", "file")


@pytest.mark.parametrize("model", [TINY, Model(backbone="test_resnet", output_stride=16)], ids=["vit", "resnet"])
def test_a_frozen_backbone_keeps_its_weights_and_statistics_and_costs_no_memory_of_the_optimiser(model: Model) -> None:
    torch.manual_seed(0)
    network = build.build(model.model_copy(update={"freeze": True}), 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sgd = optimizer(network, Train(lr=1.0))
    for _ in range(2):
        build.train_mode(network)
        loss = F.cross_entropy(network(torch.randn(2, 3, 64, 64)), torch.randint(0, 4, (2, 64, 64)))
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith("backbone.")]
    kept: list[Tensor] = list(sgd.state)
    frozen = {id(one) for name, one in network.named_parameters() if name.startswith("backbone.")}
    assert not frozen & {id(one) for one in kept}


def test_with_layer_decay_every_block_of_a_transformer_learns_slower_than_the_next() -> None:
    network = build.build(TINY, 4)
    made = optimizer(network, Train(lr=1.0, batch_size=16, layer_decay=0.5, head_lr_factor=3.0))
    rates = {id(one): group["lr"] for group in made.param_groups for one in group["params"]}
    lr = {name: rates[id(one)] for name, one in network.named_parameters()}
    assert len(rates) == len(lr)
    blocks = [lr[f"backbone.vit.blocks.{at}.attn.qkv.weight"] for at in range(6)]
    assert all(late == 2 * early for early, late in pairwise(blocks))
    assert lr["backbone.vit.pos_embed"] == lr["backbone.vit.patch_embed.proj.weight"] == blocks[0] / 2
    assert lr["backbone.vit.norm.weight"] == 0.5 < lr["classifier.weight"] == 3.0
