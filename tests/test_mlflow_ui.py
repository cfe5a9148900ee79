"""Tests of MLflow's UI in Chromium: runs, charts of two runs, figures, the champion."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from small import Project
from ui import CHROMIUM, PICTURES, browser, walk

pytestmark = pytest.mark.slow


@pytest.fixture
def server(copied: Project) -> Iterator[str]:
    """Run MLflow's server for a finished project on the loopback address. Yield its URL."""
    store = f"sqlite:///{copied.folder / 'mlflow.db'}"
    # After three epochs, the model predicts a single class, so it did not get the alias by itself.
    MlflowClient(store).set_registered_model_alias("tiny", "champion", "1")
    words = ("mlflow", "server", "--backend-store-uri", store, "--workers", "1")
    with copied.serving(*words, answers="/health") as address:
        yield address


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_ui_shows_runs_charts_figures_predictions_checkpoints_and_the_champion(server: str, tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api")
    (tmp_path / "shots").mkdir()
    with browser() as page:
        walk(page, server, "tiny", tmp_path / "shots")
    taken = {path.name for path in (tmp_path / "shots").iterdir()}
    assert taken == {path.name for path in PICTURES.glob("mlflow-*.png")}, "those of the docs, of the same walk"
