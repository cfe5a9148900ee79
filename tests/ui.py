"""Clicks through MLflow's UI as a user would. `python tests/ui.py URL EXPERIMENT` takes the screenshots for docs/.

URL is the address that `stpp ui` prints. EXPERIMENT is the name of the data set, on which ST++ must have run. Chromium
must be installed.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from playwright.sync_api import ViewportSize

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WAIT = 60_000
SIZE: "ViewportSize" = {"width": 1280, "height": 760}
PICTURES = Path(__file__).parent.parent / "docs" / "images"
TRAINING = "workflowType=machine_learning"
"""In an address: MLflow's mode for model training."""
STAGES = ("evaluate", "student", "label_unreliable", "student_1", "label_reliable", "score", "teacher")


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a page of headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as api:
        one = api.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = one.new_page(viewport=SIZE)
        page.set_default_timeout(WAIT)
        yield page
        one.close()


def walk(page: Any, url: str, experiment: str, shots: Path) -> None:
    """Check that MLflow shows runs, comparisons, charts, predictions, figures, checkpoints and the champion.

    Saves screenshots of the runs, the parent run, the charts, the predictions, a figure and the champion in `shots`.
    """
    from mlflow import MlflowClient

    server = url.partition("/#")[0]
    mlflow = MlflowClient(server)
    one = mlflow.get_experiment_by_name(experiment)
    champion = mlflow.get_model_version_by_alias(experiment, "champion")
    assert one and champion.run_id
    number = one.experiment_id
    parent = mlflow.get_run(mlflow.get_run(champion.run_id).data.tags["mlflow.parentRunId"])
    ids = {stage: parent.data.tags[f"stpp.run.{stage}"] for stage in STAGES}
    runs = f"{server}/#/experiments/{number}/runs"

    def row_of(name: str) -> Any:
        return page.locator(".ag-row", has=page.get_by_role("link", name=name, exact=True)).first

    def expand() -> None:
        """Show the runs below the parent run."""
        page.locator(".ag-row", has=page.get_by_text(parent.info.run_name)).first.locator("button").first.click()
        row_of("teacher").wait_for()

    def picture(name: str) -> None:
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)  # until animations have ended
        page.screenshot(path=shots / f"mlflow-{name}.png")

    assert url.startswith(runs)
    page.goto(url)
    for name in ("val/miou", "val/gain", "test/miou", "select.ratio"):
        page.get_by_role("columnheader", name=name).first.wait_for()
    page.get_by_role("button", name="Close", exact=True).click()  # closes MLflow's assistant
    expand()
    for name in STAGES:
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    for name in ("teacher", "student"):
        index = row_of(name).get_attribute("row-index")
        page.locator(f'.ag-row[row-index="{index}"] input[type=checkbox]').first.click()
    picture("runs")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    page.get_by_text("train.batch_size").first.wait_for()

    page.goto(f"{runs}/{parent.info.run_id}?{TRAINING}")  # what was found, and links to all runs behind it
    page.get_by_text(re.compile("best on val|nothing else was learnt")).first.wait_for()
    for name in STAGES:
        assert page.get_by_role("link", name=name, exact=True).first.get_attribute("href").endswith(ids[name])
    picture("parent")

    two = f"attributes.run_id IN ('{ids['teacher']}', '{ids['student']}')"
    page.goto(f"{runs}?{TRAINING}&compareRunsMode=CHART&searchFilter={quote(two)}")
    expand()
    page.get_by_placeholder("Search metric charts").fill("^(train/loss|val/miou|val/iou/disk)$")
    page.locator(".js-plotly-plot", has_text="Step").first.wait_for()
    page.set_viewport_size({"width": 1280, "height": 1060})
    picture("charts")
    page.set_viewport_size(SIZE)

    page.goto(f"{runs}/{ids['student']}/model-metrics?{TRAINING}")
    page.get_by_role("button", name="Add chart").first.click()
    page.get_by_role("menuitem", name="Image grid").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").nth(1).click()
    page.get_by_role("option").first.wait_for()
    for option in page.get_by_role("option").all()[:3]:
        option.click()
    dialog.get_by_role("switch").click()  # hides the parameters above the images
    paths = [artifact.path for artifact in mlflow.list_artifacts(ids["student"], "images")]
    steps = sorted({int(found[1]) for path in paths if (found := re.search(r"step\W(\d+)", path))})
    for step in steps:
        dialog.get_by_role("slider").press("ArrowRight")  # moves to the next epoch
        image = dialog.locator(f"img[src*='step%2B{step}%2B']").first
        image.wait_for()
        assert image.evaluate("image => image.naturalWidth > 3 * 30"), "an image beside two masks"
    picture("images")

    page.goto(f"{runs}/{ids['student']}/system-metrics?{TRAINING}")
    page.get_by_role("tab", name="System metrics").wait_for()

    page.goto(f"{runs}/{ids['evaluate']}/artifacts?{TRAINING}")
    page.get_by_text("figures").first.click()
    page.get_by_text("stability.png").first.click()
    figure = page.locator("img[src^=blob], img[alt*=stability], img[src*=stability]").first
    figure.wait_for()
    assert figure.evaluate("image => image.naturalWidth") > 400
    picture("stability")

    page.goto(f"{server}/#/experiments/{number}/models?{TRAINING}")
    for name in ("teacher_f1", "teacher", "student_1", "student"):
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    page.goto(f"{server}/#/models/{experiment}?{TRAINING}")
    page.get_by_text("champion").first.wait_for()
    picture("model")


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    with browser() as page_:
        walk(page_, sys.argv[1], sys.argv[2], PICTURES)
