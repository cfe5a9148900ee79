"""Tests that the links and pictures in the documents exist."""

import re
import runpy
from pathlib import Path

import pytest
from small import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """Return the link anchors of a document's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?s)```.*?```", "", document.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_and_image_exists(document: Path) -> None:
    text = re.sub(r"(?s)```.*?```", "", document.read_text())
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{document.name}: {link}"


def test_a_table_of_the_benchmark_of_many_images_has_the_names_of_its_parts() -> None:
    table = (ROOT / "docs/scale.md").read_text().partition("\n## Many images\n")[2]
    parts = re.findall(r"(?m)^\| (?!part )(.*?) \|", table)
    assert parts and set(parts) <= set(runpy.run_path(str(ROOT / "benchmarks/many_parts.py"))["PARTS"])


def test_pictures_are_small_and_each_is_shown() -> None:
    shown = {link for document in DOCUMENTS for link in LINK.findall(document.read_text())}
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".jpg", ".svg")]
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 200_000, f"{path.name}: make it smaller"
        assert any(link.endswith(path.relative_to(ROOT / "docs").as_posix()) for link in shown), path.name
