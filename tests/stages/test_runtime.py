"""Tests that the parameters in `runtime` do not change results."""

import pytest
from small import TINY, Project

COMMON = ("--data", "runs/data", "--split", "runs/split")
TRAIN = ("stpp", "train", "--name", "teacher", *COMMON, "--backbone", "runs/backbone.safetensors")


@pytest.mark.slow
def test_the_pixel_cache_is_used_on_request_and_does_not_change_the_weights(prepared: Project) -> None:
    weights = {}
    for cache in (None, 0.5):
        prepared.params(train={"epochs": 3}, runtime={**TINY["runtime"], "cache_gb": cache})
        prepared.run(*TRAIN, "--out", f"runs/with_{cache}")
        weights[cache] = (prepared.folder / f"runs/with_{cache}/model.safetensors").read_bytes()
        kept = list((prepared.folder / ".stpp/decoded").rglob("*.npy"))
        assert bool(kept) == bool(cache)
    assert weights[None] == weights[0.5]
