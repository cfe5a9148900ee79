"""Tests that the data manifest is read back as written, and that its digest depends on its content."""

import csv
import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.store.files import ID, StppError
from stpp.store.manifest import Dataset, Record, digest_of, read_dataset, write_dataset

HASHES = st.binary(min_size=1, max_size=2).map(lambda content: hashlib.sha256(content).hexdigest())
WORDS = st.text("abé ,'-", min_size=1, max_size=5)
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    classes = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    records = {}
    for name in draw(st.lists(st.from_regex(ID, fullmatch=True), max_size=4, unique=True)):
        mask = draw(st.sampled_from(["", f"masks/{name}.png"]))
        records[name] = Record(
            id=name,
            image=f"images/{name}.png",
            mask=mask,
            width=draw(st.integers(1, 5000)),
            height=draw(st.integers(1, 5000)),
            image_sha256=draw(HASHES),
            mask_sha256=draw(HASHES) if mask else "",
            classes=tuple(sorted(draw(st.sets(st.integers(0, len(classes) - 1))))) if mask else (),
        )
    return Dataset(
        name=draw(WORDS),
        classes=tuple(classes),
        palette=tuple(draw(COLOURS) for _ in classes),
        values=draw(st.dictionaries(st.integers(0, 65535), st.integers(0, len(classes) - 1) | st.just(255))),
        records=records,
    )


@settings(max_examples=30, deadline=None)
@given(datasets())
def test_a_data_set_is_read_as_it_was_written(dataset: Dataset) -> None:
    with TemporaryDirectory() as folder:
        write_dataset(Path(folder), dataset)
        again = read_dataset(Path(folder))
        assert again == dataset
        assert list(again.records) == list(dataset.records)
        assert json.loads(Path(folder, "dataset.json").read_text())["digest"] == dataset.digest


@settings(max_examples=30, deadline=None)
@given(datasets().filter(lambda d: d.records), st.data())
def test_the_digest_of_a_data_set_changes_with_any_hash_or_id_but_not_with_paths(
    dataset: Dataset, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(dataset.records)))
    record = dataset.records[name]
    values = {f: getattr(record, f) for f in Record.__dataclass_fields__}
    for change in ({"image_sha256": "0" * 63 + "g"}, {"mask_sha256": "0" * 63 + "g"}, {"id": f"{name}x"}):
        records = dataset.records | {name: Record(**(values | change))}
        assert Dataset("n", dataset.classes, dataset.palette, dataset.values, records).digest != dataset.digest
    moved = dataset.records | {name: Record(**(values | {"image": "elsewhere"}))}
    assert Dataset("n", dataset.classes, dataset.palette, dataset.values, moved).digest == dataset.digest
    assert len(dataset.digest) == 32


def test_the_manifest_is_plain_csv(tmp_path: Path) -> None:
    record = Record("a/1", "i/a/1.jpg", "m/a/1.png", 30, 20, "f" * 64, "0" * 64, (0, 2))
    write_dataset(tmp_path, Dataset("n", ("x", "y", "z"), ((0, 0, 0),) * 3, {0: 0}, {"a/1": record}))
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1] == ["a/1", "i/a/1.jpg", "m/a/1.png", "30", "20", "f" * 64, "0" * 64, "0 2"]


@settings(max_examples=30, deadline=None)
@given(datasets())
def test_the_digest_of_a_data_set_covers_classes_and_values_but_not_colours_or_name(
    dataset: Dataset,
) -> None:
    *others, last = dataset.classes
    for classes, values in (
        ((*others, f"{last}x"), dataset.values),
        (dataset.classes, dataset.values | {65536: 255}),
        (dataset.classes, dict.fromkeys(dataset.values, 254) | {65536: 255}),
    ):
        meant = Dataset(dataset.name, classes, dataset.palette, values, dataset.records)
        assert meant.digest != dataset.digest
        assert digest_of(meant, list(dataset.records)) != digest_of(dataset, list(dataset.records))
    shown = Dataset("another", dataset.classes, ((1, 2, 3),) * len(dataset.classes), dataset.values, dataset.records)
    assert shown.digest == dataset.digest


@pytest.mark.parametrize("path", ["../outside.png", "/etc/passwd", "images/../../outside.png", ".."])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_path_outside_the_data_set_is_refused(column: str, path: str, tmp_path: Path) -> None:
    paths = {"image": "i/a.png", "mask": "m/a.png"} | {column: path}
    record = Record("a", paths["image"], paths["mask"], 30, 20, "f" * 64, "0" * 64, (0,))
    write_dataset(tmp_path, Dataset("n", ("x",), ((0, 0, 0),), {0: 0}, {"a": record}))
    with pytest.raises(StppError, match="points outside the data set"):
        read_dataset(tmp_path)
