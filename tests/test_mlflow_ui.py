"""Tests of MLflow's UI in Chromium: runs, charts of two runs, figures, the champion."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from small import Project, wait_for
from ui import CHROMIUM, PICTURES, browser, walk

pytestmark = pytest.mark.slow


@pytest.fixture
def server(copied: Project) -> Iterator[str]:
    """Run `stpp ui` in a finished project, while its usual port is in use. Yield the URL that it prints."""
    # After three epochs, the model predicts a single class, so it did not get the alias by itself.
    MlflowClient(f"sqlite:///{copied.folder / 'mlflow.db'}").set_registered_model_alias("tiny", "champion", "1")
    with socket.socket() as taken:
        with suppress(OSError):
            taken.bind(("127.0.0.1", 5000))
            taken.listen()
        process = copied.start("stpp", "ui")
        assert process.stdout
        url = next(line.split()[1] for line in process.stdout if line.startswith("open http"))
        assert not url.startswith("http://127.0.0.1:5000/")
        in_use = copied.run("stpp", "ui", "--port", "5000", rc=2)
        assert "port 5000: in use; choose another one with --port" in in_use
        wait_for(url, process)
        yield url
    copied.end()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_ui_shows_runs_charts_figures_predictions_checkpoints_and_the_champion(server: str, tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api")
    (tmp_path / "shots").mkdir()
    with browser() as page:
        walk(page, server, "tiny", tmp_path / "shots")
    taken = {path.name for path in (tmp_path / "shots").iterdir()}
    assert taken == {path.name for path in PICTURES.glob("mlflow-*.png")}, "those of the docs, of the same walk"
