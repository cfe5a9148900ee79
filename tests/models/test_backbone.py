"""Tests of the backbone against torchvision's networks."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from stpp.models.backbone import RESNETS, ResNet

MAKE = {"resnet18": models.resnet18, "resnet34": models.resnet34, "resnet50": models.resnet50}
MAKE["resnet101"] = models.resnet101
STRIDES = {8: [False, True, True], 16: [False, False, True]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def features(resnet: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run torchvision's forward pass up to the pooling."""
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
    low = resnet.layer1(x)
    return low, resnet.layer4(resnet.layer3(resnet.layer2(low)))


def without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith("fc.")}


# -- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("name", "stride"), [("resnet50", 8), ("resnet50", 16)])
def test_bottleneck_features_equal_those_of_dilated_torchvision_networks_bit_for_bit(
    name: str, stride: int, train: bool
) -> None:
    torch.manual_seed(0)
    theirs = MAKE[name](weights=None, replace_stride_with_dilation=STRIDES[stride]).train(train)
    ours = ResNet(name, stride).train(train)
    ours.load_state_dict(without_classifier(theirs.state_dict()))
    x = torch.randn(2, 3, 32, 49)
    with torch.no_grad():
        for got, expected in zip(ours(x), features(theirs, x), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_dilation_only_adds_features_between_those_of_the_undilated_network(name: str, stride: int) -> None:
    """Every (32 / stride)-th feature equals that of the undilated network, also at the padded border."""
    torch.manual_seed(1)
    plain = MAKE[name](weights=None).double().eval()
    dilated = ResNet(name, stride).double().eval()
    dilated.load_state_dict(without_classifier(plain.state_dict()))
    x = torch.randn(1, 3, 65, 64, dtype=torch.float64)
    step = 32 // stride
    with torch.no_grad():
        torch.testing.assert_close(dilated(x)[1][:, :, ::step, ::step], features(plain, x)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", RESNETS)
def test_features_have_the_input_size_over_4_and_over_the_output_stride_rounded_up(name: str, stride: int) -> None:
    network = ResNet(name, stride).eval()
    low_channels, high_channels = (256, 2048) if name in ("resnet50", "resnet101") else (64, 512)
    for height, width in ((64, 32), (33, 49)):
        with torch.no_grad():
            low, high = network(torch.empty(1, 3, height, width))
        assert low.shape == (1, low_channels, -(-height // 4), -(-width // 4))
        assert high.shape == (1, high_channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", RESNETS)
def test_dilation_changes_neither_keys_nor_shapes_nor_the_number_of_parameters(name: str, stride: int) -> None:
    with torch.device("meta"):
        theirs, ours = MAKE[name](weights=None), ResNet(name, stride)
    expected = {k: tuple(v.shape) for k, v in without_classifier(theirs.state_dict()).items()}
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == expected
    classifier = theirs.fc.weight.numel() + theirs.fc.bias.numel()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - classifier
