"""Tests of packed rows: they equal what was written, a look-up reads few rows, and damaged files are refused."""

import csv
import multiprocessing
import pickle
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.store.files import ID, StppError, write_csv
from stpp.store.packed import MappedRows, MappedTable, PackedStrings

FEW = settings(max_examples=40, deadline=None)
TEXT = st.text(st.sampled_from("ab,\"' é日;"), max_size=5)
NAMES = st.text(st.sampled_from("ab,\"' é日;="), min_size=1, max_size=5).filter(ID.match)
IDS = st.from_regex(ID, fullmatch=True) | NAMES


def as_given(row: list[str]) -> list[str]:
    return row


@FEW
@given(st.lists(st.text("aé日,\n", max_size=4)), st.slices(6), st.integers(-9, 9))
def test_packed_strings_equal_the_original_list(items: list[str], part: slice, at: int) -> None:
    packed = PackedStrings(iter(items))
    assert packed == items
    assert packed == PackedStrings(packed) == pickle.loads(pickle.dumps(packed))
    assert packed[part] == items[part]
    assert list(packed.order()) == sorted(range(len(items)), key=items.__getitem__)
    if -len(items) <= at < len(items):
        assert packed[at] == items[at]
    else:
        with pytest.raises(IndexError):
            packed[at]


@FEW
@given(st.dictionaries(IDS, st.tuples(TEXT, TEXT), max_size=8), IDS)
def test_a_mapped_table_equals_the_dict_of_its_rows(rows: dict[str, tuple[str, str]], other: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        write_csv(path, ("id", "a", "b"), [(i, *values) for i, values in rows.items()])
        for table in (found := MappedTable.read(path, ("id", "a"), as_given), pickle.loads(pickle.dumps(found))):
            assert dict(table) == {i: [i, *values] for i, values in rows.items()}
            assert list(table) == list(rows)
            assert list(table.values()) == [[i, *values] for i, values in rows.items()]
            assert all(table[i] == [i, *rows[i]] and table.find(i) is not None for i in rows)
            assert (other in table) == (other in rows)
        with path.open(newline="") as file:
            assert [list(row.values()) for row in csv.DictReader(file)] == list(table.values())


@FEW
@given(st.lists(st.tuples(st.sampled_from("abé") | NAMES, TEXT, st.text(max_size=3)), max_size=9))
def test_spooled_rows_hold_any_text_and_are_ordered_by_their_key(rows: list[tuple[str, str, str]]) -> None:
    found = MappedRows.spooled(rows)
    assert list(found) == [list(row) for row in rows]
    with patch("stpp.store.packed.FEW", 2):  # rows that are sorted together
        assert list(found.ordered()) == [list(row) for row in sorted(rows, key=lambda row: row[0])]


def test_sorting_takes_few_bytes_of_memory_for_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpp.store.packed.FEW", 1000)
    count = 20_000
    rows = MappedRows.spooled([f"{at * 7919 % count:020d}", "x"] for at in range(count))
    tracemalloc.start()
    assert rows.ordered().key(count - 1) == f"{count - 1:020d}".encode()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * count


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a table of id, a"),
        (b"a,id\n1,x\n", "not a table of id, a"),
        (b"id,a\nx,1\ny\n", "line 3: expected 2 values"),
        (b"id,a\nx,1\ny,2,3\n", "line 3: expected 2 values"),
        (b"id,a\nx,1\n\ny,2\n", "line 3: expected 2 values"),
        (b'id,a\nx,"1\n2"\n', "line 2: expected 2 values"),
        (b'id,a\n"x",1\n', "line 2: 'x' is not a valid id"),
        (b'id,a\n"x"y,1\n', "line 2: 'xy' is not a valid id"),
        (b'id,a\n"x,y",1\n"x,y",2\n', "x,y is listed twice"),
        (b'id,a\n"x,1\ny,2\n', "expected 2 values"),
        (b"id,a\nx,1\nx,2\n", "x is listed twice"),
        (b"id,a\ny,1\nx,2\ny,2\n", "y is listed twice"),
        (b"id,a\n\xff,1\n", "utf-8"),
    ],
)
def test_a_damaged_table_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        MappedTable.read(tmp_path / "t.csv", ("id", "a"), as_given)


def test_every_row_is_checked_when_the_table_is_opened(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ("id", "n"), [("a", 1), ("b", "two")])
    with pytest.raises(ValueError, match="two"):
        MappedTable.read(tmp_path / "t.csv", ("id", "n"), lambda row: int(row[1]))


def many(path: Path, count: int) -> MappedTable[list[str]]:
    write_csv(path, ("id", "n"), ((f"{i:07d}", i) for i in range(count)))
    return MappedTable.read(path, ("id", "n"), as_given)


def test_a_look_up_reads_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, looks, key = many(tmp_path / "t.csv", 5000), 0, MappedRows.key

    def counted(self: MappedRows, at: int) -> bytes:
        nonlocal looks
        looks += 1
        return key(self, at)

    monkeypatch.setattr(MappedRows, "key", counted)
    for i in range(0, 5000, 500):
        assert table[f"{i:07d}"][1] == str(i)
    assert looks <= 10 * 16


def _reads(table: MappedTable[list[str]], out: Any) -> None:
    out.put([table[f"{i:07d}"][1] for i in (0, 7, 999)])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_another_process_reads_a_table_from_its_file(start: str, tmp_path: Path) -> None:
    table = many(tmp_path / "t.csv", 1000)
    assert len(pickle.dumps(table)) < 9 * 1000
    context = multiprocessing.get_context(start)
    out = context.Queue()
    worker = context.Process(target=_reads, args=(table, out))
    worker.start()
    assert out.get(timeout=60) == ["0", "7", "999"]
    worker.join(60)


def test_a_table_whose_file_was_exchanged_is_refused(tmp_path: Path) -> None:
    sent = pickle.dumps(many(tmp_path / "t.csv", 100))
    (tmp_path / "t.csv").rename(tmp_path / "old.csv")
    many(tmp_path / "t.csv", 100)
    with pytest.raises(StppError, match="was changed"):
        pickle.loads(sent)


def test_a_table_whose_file_was_removed_can_still_be_read(tmp_path: Path) -> None:
    table = many(tmp_path / "t.csv", 100)
    (tmp_path / "t.csv").unlink()
    assert len(list(table.items())) == 100
