"""Sends a task through a running Label Studio, as a person would who submits every proposal unchanged."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from ui import browser

USER, PASSWORD, TOKEN = "someone@example.org", "only-for-tests", "0123456789abcdef0123456789abcdef01234567"
"""The account with which a test starts the server."""


def ask(url: str, method: str, path: str, data: Any = None) -> Any:
    """Return the answer of the server's API."""
    body = None if data is None else json.dumps(data).encode()
    headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def submitted(url: str, folder: Path) -> tuple[int, Path]:
    """Import the task of a folder into a new project, submit its proposals, and export; return project and export.

    The server must serve local files from the folder.
    """
    config = (folder / "labels.xml").read_text()
    project = ask(url, "POST", "/api/projects", {"title": "suggested", "label_config": config})["id"]
    storage = {"project": project, "path": str(folder / "images"), "use_blob_urls": True, "title": "images"}
    ask(url, "POST", "/api/storages/localfiles", storage)
    ask(url, "POST", f"/api/projects/{project}/import", json.loads((folder / "tasks.json").read_text()))
    for task in ask(url, "GET", f"/api/tasks?project={project}&fields=all&page_size=100")["tasks"]:
        (prediction,) = ask(url, "GET", f"/api/predictions?task={task['id']}")
        ask(url, "POST", f"/api/tasks/{task['id']}/annotations", {"result": prediction["result"]})
    export = folder / "export.json"
    export.write_text(json.dumps(ask(url, "GET", f"/api/projects/{project}/export?exportType=JSON")))
    return project, export


def screenshot(url: str, project: int, path: Path) -> None:
    """Save a picture of the first image of a project with its proposal."""
    task = ask(url, "GET", f"/api/tasks?project={project}")["tasks"][0]["id"]
    with browser() as page:
        page.goto(f"{url}/user/login")
        page.fill("input[name=email]", USER)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(lambda address: "login" not in address)
        page.goto(f"{url}/projects/{project}/data?task={task}")
        page.locator("canvas").first.wait_for()
        page.wait_for_timeout(8000)
        page.screenshot(path=path)
