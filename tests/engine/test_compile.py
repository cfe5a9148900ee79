"""Tests of `runtime.compile`: a compiled training is the uncompiled one, up to rounding."""

import copy
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch._inductor.exc import InductorError
from torch.utils.hooks import RemovableHandle

from stpp.data.datasets import CutMixDataset
from stpp.data.loaders import seed_each_batch
from stpp.engine import device
from stpp.engine.fit import Hooks, Step, Trainer, supervised
from stpp.params.models import Model, Online, Runtime, Train
from stpp.selftrain.online.fixmatch import FixMatch
from stpp.selftrain.online.labelling import OnlineLabelling
from stpp.selftrain.online.methods import METHODS
from stpp.store.files import StppError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
B = 4
ONLINE = Online(threshold=0.4, decay=0.75)


class Encoder(nn.Module):
    """Two feature maps of an image, the second of half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = nn.functional.dropout(self.norm(self.first(x)).relu(), training=self.training)
        return [first, self.second(first).relu()]


class Small(nn.Module):
    """A network whose head decodes two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder()
        self.heads = nn.ModuleList(nn.Conv2d(width, 3, 1) for width in (8, 12))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.backbone(x)
        scores: Tensor = self.heads[1](second)
        return self.heads[0](first) + nn.functional.interpolate(scores, scale_factor=2)


def of_masks(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(B, 3, 16, 16, generator=draw), torch.randint(0, 3, (B, 16, 16), generator=draw)


def of_views(seed: int) -> tuple[Tensor, Tensor]:
    """Return labelled and unlabelled images as `OnlineDataset` has them."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.zeros(B, 2, 16, 16, dtype=torch.long)
    y[:, 0] = torch.randint(0, 3, (B, 16, 16), generator=draw)
    return torch.randn(B, 3, 3, 16, 16, generator=draw), y


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks", "online", "fixmatch"])
def test_a_compiled_training_equals_an_uncompiled_one(name: str) -> None:
    steps: dict[str, Step] = {
        "masks": supervised,
        "online": OnlineLabelling(ONLINE),
        "fixmatch": FixMatch(ONLINE),
    }
    step = steps[name]
    batches = [of_masks(seed) if name == "masks" else of_views(seed) for seed in range(4)]
    torch.manual_seed(0)
    start = Small()

    def trained(*, compiled: bool) -> dict[str, Tensor]:
        train = Train(iterations=4, checkpoints=2, val_points=2, batch_size=B, lr=0.2)
        trainer = Trainer(
            copy.deepcopy(start), train, 4, model=Model(), device=CPU, role="one", step=copy.deepcopy(step)
        )
        if compiled:
            torch.compiler.reset()
            counters.clear()
            trainer.compile(strict=True)
        trainer.fit(seed_each_batch(batches, 0, "one", 0), Hooks())
        assert not compiled or counters["stats"]["unique_graphs"] > 0
        teacher = trainer.step.state_dict()["network"] if isinstance(trainer.step, FixMatch) else {}
        return trainer.network.state_dict() | {f"teacher.{name}": value for name, value in teacher.items()}

    plain, compiled = trained(compiled=False), trained(compiled=True)
    assert plain.keys() == compiled.keys(), "checkpoints and resumption know nothing of it"
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(plain["heads.0.weight"], start.heads[0].get_parameter("weight"), atol=1e-3)


@pytest.mark.slow
def test_a_training_goes_on_if_compiling_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def trained(*, strict: bool) -> int:
        torch.compiler.reset()
        train = Train(iterations=4, checkpoints=2, val_points=2, batch_size=B, lr=0.2)
        trainer = Trainer(Small(), train, 4, model=Model(), device=CPU, role="one")
        trainer.compile(strict=strict)
        trainer.fit([of_masks(seed) for seed in range(4)], Hooks())
        return trainer.iteration

    with inductor.patch({"cpp.cxx": (None, "/bin/false")}):
        assert trained(strict=False) == 4
        with pytest.raises(InductorError, match=r"No working C\+\+ compiler"):
            trained(strict=True)


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_change_a_network_by_hooks_are_not_compiled(name: str) -> None:
    method, network, hooked = resolve_name(METHODS[name]), Small(), list[object]()
    register = network.backbone.register_forward_hook

    def recorded(hook: object) -> RemovableHandle:
        hooked.append(hook)
        return register(hook)

    network.backbone.register_forward_hook = recorded
    draw = torch.Generator().manual_seed(0)
    views, masks = (4, 6) if method.samples is CutMixDataset else (3, 2)
    y = torch.zeros(B, masks, 16, 16, dtype=torch.long)
    method(ONLINE)(network, torch.randn(B, views, 3, 16, 16, generator=draw), y, y)
    assert method.eager == bool(hooked)


def test_when_a_training_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/usr/bin/{name}")
    auto, always, never = Runtime(), Runtime(compile=True), Runtime(compile=False)
    assert device.compiles(auto, GPU, 1000), "it pays there"
    assert not device.compiles(auto, GPU, 999), "too short to win back the time"
    assert not device.compiles(auto, CPU, 10**6)
    assert device.compiles(always, CPU, 1)
    assert not device.compiles(never, GPU, 10**6)
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    assert not device.compiles(auto, GPU, 1000), "the image of the Dockerfile has no compiler"
    with pytest.raises(StppError, match=r"runtime.compile is `true`, but there is no C\+\+ compiler"):
        device.compiles(always, CPU, 1)
    monkeypatch.setattr(device, "world_size", lambda: 2)
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert not device.compiles(auto, GPU, 1000), "only in one process"
    with pytest.raises(StppError, match="there are several processes"):
        device.compiles(always, CPU, 1)
