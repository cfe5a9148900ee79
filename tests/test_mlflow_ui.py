"""What a person sees in the UI of MLflow, in Chromium: runs, charts of two, figures, the champion."""

import os
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from small import Project

from stpp.files import read_json

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 60_000


@pytest.fixture
def server(copied: Project) -> Iterator[str]:
    """MLflow's server on loopback over a finished project; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{copied.folder / 'mlflow.db'}"
    words = ("--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    process = copied.start("mlflow", "server", *words)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def page(server: str) -> Iterator[Any]:
    """A page of headless Chromium, in MLflow's mode for model training."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        one = browser.new_page(viewport={"width": 1400, "height": 850})
        one.set_default_timeout(WAIT)
        one.goto(server)
        one.get_by_text("Model training", exact=True).click()
        yield one
        browser.close()


def test_a_person_finds_runs_charts_figures_predictions_and_the_champion(
    copied: Project, server: str, page: Any
) -> None:
    about = {name: read_json(copied.folder / f"runs/{name}/run.json") for name in ("teacher", "student", "score")}
    from stpp.tracking.client import client

    mlflow = client(copied.folder)
    experiment = mlflow.get_run(about["student"]["run_id"]).info.experiment_id
    runs = f"{server}/#/experiments/{experiment}/runs"

    page.goto(runs)
    parent = page.locator(".ag-row", has=page.get_by_text("stpp tiny"))
    parent.first.locator("button").first.click()
    for name in ("evaluate", "student", "label_unreliable", "student_1", "label_reliable", "score", "teacher"):
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    for name in ("teacher", "student"):
        row = page.locator(".ag-row", has=page.get_by_role("link", name=name, exact=True)).first
        number = row.get_attribute("row-index")
        page.locator(f'.ag-row[row-index="{number}"] input[type=checkbox]').first.click()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    page.get_by_text("train.batch_size").first.wait_for()

    page.goto(f"{runs}?compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("train/loss")
    page.locator(".js-plotly-plot", has_text="Step").first.wait_for()

    page.goto(f"{runs}/{about['score']['run_id']}/artifacts")
    page.get_by_text("figures").first.click()
    page.get_by_text("stability.png").first.click()
    picture = page.locator("img[src^=blob], img[alt*=stability], img[src*=stability]").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 400

    page.goto(f"{runs}/{about['student']['run_id']}/system-metrics")
    page.get_by_role("tab", name="System metrics").wait_for()

    page.goto(f"{server}/#/models/tiny")
    page.get_by_text("champion").first.wait_for()
