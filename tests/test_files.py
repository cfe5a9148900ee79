"""Tests of files: they are written atomically, hashed by name and content, and read back as written."""

import errno
import hashlib
import os
import resource
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from stpp.store.files import (
    ID,
    StppError,
    atomic_folder,
    atomic_write,
    digest,
    grouped,
    publish,
    quoted,
    raise_problems,
    read_csv,
    read_ids,
    read_json,
    scan_csv,
    sha256,
    walk,
    write_csv,
    write_ids,
    write_json,
    write_text,
)

FEW = settings(max_examples=30, deadline=None)


class InterruptedWriteError(Exception):
    """Raised in the middle of writing."""


def broken(good: Any) -> Iterator[Any]:
    yield good
    raise InterruptedWriteError


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# -- atomic writes ----------------------------------------------------------------------------------------------------

FAILING: dict[str, Callable[[Path], None]] = {
    "text that is no UTF-8": lambda path: write_text(path, "a\udcff"),
    "JSON of what JSON cannot hold": lambda path: write_json(path, {"a": {1, 2}}),
    "rows that end early": lambda path: write_csv(path, ("a",), broken(("1",))),
    "ids that end early": lambda path: write_ids(path, broken("a")),
}


@pytest.mark.parametrize("old", [b"old", None])
@pytest.mark.parametrize("write", FAILING.values(), ids=FAILING)
def test_an_error_during_writing_leaves_the_old_file(
    write: Callable[[Path], None], old: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises((InterruptedWriteError, UnicodeEncodeError, TypeError)):
        write(path)
    assert contents(tmp_path) == ({} if old is None else {"file": old})


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("whole")
    assert contents(tmp_path) == {"new/file": b"whole"}
    with atomic_write(path) as partial:
        partial.write_text("newer")
        assert path.read_text() == "whole"
    assert contents(tmp_path) == {"new/file": b"newer"}


def test_writing_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        pass
    assert contents(tmp_path) == {"file": b"old"}


def test_an_error_during_writing_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as partial:
        write_text(partial / "deep" / "a", "1")
    with pytest.raises(InterruptedWriteError), atomic_folder(out) as partial:
        write_text(partial / "b", "2")
        raise InterruptedWriteError
    assert contents(tmp_path) == {"out/deep/a": b"1"}
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_a_new_folder_replaces_the_whole_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in ("1", "2"):
        before = contents(out)
        with atomic_folder(out) as partial:
            write_text(partial / "a", content)
            assert contents(out) == before
    assert contents(tmp_path) == {"out/a": b"2"}


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "out" / "thesis.txt", "years of work")
    with pytest.raises(StppError, match=r"contains thesis\.txt"), atomic_folder(tmp_path / "out") as partial:
        write_text(partial / "a", "1")
    assert contents(tmp_path) == {"out/thesis.txt": b"years of work"}


def test_a_folder_without_a_name_is_refused() -> None:
    with pytest.raises(StppError, match="give a separate folder"), atomic_folder(Path()):
        pass


def test_files_left_by_a_killed_process_do_not_get_into_the_new_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as first:
        left = first
    left.mkdir()
    (left / "half").write_text("half")
    with atomic_folder(tmp_path / "out") as partial:
        write_text(partial / "a", "1")
    assert contents(tmp_path) == {"out/a": b"1"}


def test_a_symbolic_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    write_text(target / "precious", "1")
    (tmp_path / "out").symlink_to(target)
    with atomic_folder(tmp_path / "out") as partial:
        write_text(partial / "a", "2")
    assert contents(tmp_path) == {"target/precious": b"1", "out/a": b"2"}


def test_publish_copies_a_file_or_a_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "state" / "a" / "b", "1")
    write_text(tmp_path / "out" / "a" / "b", "0")
    write_text(tmp_path / "state" / "a" / ".b.1.partial", "half")
    publish(tmp_path / "state", tmp_path / "out")
    publish(tmp_path / "state" / "a" / "b", tmp_path / "new" / "file")
    assert contents(tmp_path / "out") == {"a/b": b"1"}
    assert contents(tmp_path / "new") == {"file": b"1"}


def order_of(write: Callable[[], None]) -> list[str]:
    """Return the names of the fsync, replace and rename calls that `write` makes, in order."""
    made: list[str] = []

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function in (os.fsync, os.replace, os.rename):
            made.append(function.__name__)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        write()
    finally:
        sys.setprofile(before)
    return made


def test_content_is_synced_before_the_rename(tmp_path: Path) -> None:
    """After a power cut, a file with its final name is complete."""

    def folder() -> None:
        with atomic_folder(tmp_path / "out") as partial:
            (partial / "deep").mkdir()
            for name in ("a", "b", "deep/c"):
                (partial / name).write_text("1")

    assert order_of(lambda: write_text(tmp_path / "file", "1")) == ["fsync", "replace"]
    assert order_of(folder) == ["fsync", "fsync", "fsync", "rename"]


def test_an_open_file_stays_readable_while_it_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with (tmp_path / "file").open() as file:
        write_text(tmp_path / "file", "new")
        assert file.read() == "old"
    assert (tmp_path / "file").read_text() == "new"


# -- hashes -----------------------------------------------------------------------------------------------------------

NAMES = st.text("ab", min_size=1, max_size=2)
TREES = st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=3), min_size=1, max_size=5)


def made(tree: list[tuple[tuple[str, str], bytes]], root: str) -> str:
    """Fill a folder in this order, and return its digest."""
    for (folder, name), content in tree:
        path = Path(root, folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return digest([Path(root)])


@FEW
@given(TREES, st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order_of_creation(tree: dict[tuple[str, str], bytes], random: Any) -> None:
    other = list(tree.items())
    random.shuffle(other)
    with TemporaryDirectory() as a, TemporaryDirectory() as b:
        assert made(list(tree.items()), a) == made(other, b)


@FEW
@given(TREES, TREES)
def test_two_trees_have_the_same_digest_only_if_they_are_equal(
    a: dict[tuple[str, str], bytes], b: dict[tuple[str, str], bytes]
) -> None:
    with TemporaryDirectory() as x, TemporaryDirectory() as y:
        assert (made(list(a.items()), x) == made(list(b.items()), y)) == (a == b)


def test_the_digest_of_a_file_depends_only_on_its_content(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c = (digest([tmp_path / name]) for name in "abc")
    assert a == b != c
    assert digest([tmp_path / "a", tmp_path / "c"]) not in (a, c)


@FEW
@given(st.binary(max_size=100))
def test_a_files_hash_is_sha256(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(content)
        assert sha256(path) == hashlib.sha256(content).hexdigest()


NAMES = st.lists(st.text("a.-B", min_size=1, max_size=3).filter(lambda n: n.strip(".")), min_size=1, max_size=3)


@FEW
@given(st.lists(NAMES.map("/".join), max_size=8))
def test_walk_orders_files_by_path_parts_or_by_text(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder, name)
            if not path.exists() and not any(parent.is_file() for parent in path.parents):
                write_text(path, name)
        there = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert list(walk(Path(folder))) == [path.relative_to(folder).as_posix() for path in sorted(there)]
        assert list(walk(Path(folder), as_text=True)) == sorted(path.relative_to(folder).as_posix() for path in there)
        lines = (f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n" for path in sorted(there))
        assert digest([Path(folder)]) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_walk_returns_links_to_files_and_does_not_follow_links_to_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a/file", "x")
    (tmp_path / "a/link").symlink_to(tmp_path / "a/file")
    (tmp_path / "a/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a/folder").symlink_to(tmp_path / "a")
    assert list(walk(tmp_path)) == ["a/file", "a/link"]


@FEW
@given(st.lists(st.tuples(st.text("ab,é", min_size=1), st.text('a,"\n')), max_size=5))
def test_scan_csv_returns_the_rows_that_were_written(rows: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        write_csv(Path(folder, "t.csv"), ("x", "other", "y"), [(x, "o", y) for x, y in rows])
        assert list(scan_csv(Path(folder, "t.csv"), ("y", "x"))) == [(y, x) for x, y in rows]


# -- ids --------------------------------------------------------------------------------------------------------------


def sane(name: str) -> bool:
    """Return whether a name obeys the rule for ids; checks each part and each character."""
    for part in name.split("/"):
        if part in ("", ".", "..") or part.strip() != part:
            return False
        for char in part:
            if char in "\\" or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or ord(char) in INVISIBLE:
                return False
    return True


INVISIBLE = {0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF, 0xE0001}
INVISIBLE.update(range(0x202A, 0x202F), range(0x2060, 0x2070), range(0xFFF9, 0xFFFC))

HOSTILE = [
    "../x",
    "/abs",
    "",
    "a//b",
    ".",
    "..",
    "a/..",
    "a/../b",
    "./a",
    "a/",
    "a/.",
    "a\\b",
    "a ",
    " a",
    "a /b",
    "a/ b",
]
HOSTILE += ["a\n", "a\nb", "\na", "a\tb", "a\rb", "a\0b", "a\x1b", "a\x7fb", "a\x85b", "a\u2028b", "a\xa0", "a\udcff"]
HOSTILE += ["a\u202eb", "\ufeffa", "a\u200bb", "\u3000a"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_are_refused(name: str) -> None:
    assert not ID.match(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a",
            "2007_000032",
            "train/aachen/aachen_000000_000019",
            "..a",
            "a..",
            "a.b/c.d",
            "-",
            "ü/日本",
            "...",
            "a'b",
        ),
        *("a b", "a, b", 'Foto 1 (Kopie), "a"', "#1 100%", "a\xa0b", "a\u202fb", "a\u200cb", "=cmd|'C", "<b>"),
    ],
)
def test_sane_ids_are_accepted(name: str) -> None:
    assert ID.match(name)


PIECES = st.sampled_from(
    ["a", "b.c", "é", ".", "..", "/", "//", " ", ",", '"', "\\", "\n", "\0", "\x7f", "\x85", "\u3000"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES | st.characters(), max_size=6).map("".join))
def test_an_id_is_accepted_exactly_if_every_part_of_it_is_sane(name: str) -> None:
    assert bool(ID.match(name)) == sane(name)


PARTS = st.text(st.characters(exclude_characters="/") | st.sampled_from('.-a, "'), min_size=1, max_size=4).filter(sane)
IDS = st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=4, unique=True)


@FEW
@given(IDS)
def test_every_valid_id_is_read_back_from_lists_and_tables(ids: list[str]) -> None:
    assert all(ID.match(i) for i in ids)
    with TemporaryDirectory() as folder:
        path = Path(folder, "ids.txt")
        write_ids(path, ids)
        assert read_ids(path) == ids
        write_csv(path, ("id", "n"), [(i, n) for n, i in enumerate(ids)])
        assert read_csv(path, ("id", "n")) == [{"id": i, "n": str(n)} for n, i in enumerate(ids)]
        for name in ids:
            assert Path(folder, name).resolve().is_relative_to(Path(folder).resolve())


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_json, lambda path: read_csv(path, ("id",)), read_ids])
@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_the_error_names_a_file_that_cannot_be_read(
    read: Callable[[Path], Any], content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "the-file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StppError, match=r"the-file: not readable"):
        read(path)


def test_the_error_names_a_truncated_json_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(StppError, match=r"a\.json: not readable"):
        read_json(tmp_path / "a.json")


def test_written_files_are_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "a\nb\n")
    write_csv(tmp_path / "c", ("x", "y"), [(1, "é,")])
    write_json(tmp_path / "j", {"é": [1]})
    assert contents(tmp_path) == {
        "t": b"a\nb\n",
        "c": 'x,y\n1,"é,"\n'.encode(),
        "j": '{\n  "é": [\n    1\n  ]\n}\n'.encode(),
    }


# -- errors -----------------------------------------------------------------------------------------------------------


def test_all_problems_are_in_one_error_with_one_line_each() -> None:
    with pytest.raises(StppError) as error:
        raise_problems(["a: wrong", "b: wrong"], "data")
    assert str(error.value).splitlines() == ["data: 2 problem(s):", "a: wrong", "b: wrong"]


def test_many_problems_of_one_kind_are_shortened_and_a_file_lists_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    masks = [f"masks/{i}.png: value {i % 7} at ({i}, 3) is not a class; add it to data.values" for i in range(1000)]
    odd = f"images/a.jpg: unreadable {'x' * 10_000_000}"
    with pytest.raises(StppError) as error:
        raise_problems([*masks[:500], odd, *masks[500:]], "data")
    lines = str(error.value).splitlines()
    assert lines[0] == "data: 1001 problem(s):"
    assert lines[1:5] == [*masks[:3], "... and 997 more like these"]
    assert lines[5].startswith("images/a.jpg: unreadable xxx")
    assert len(lines[5]) < 600
    assert lines[6:] == ["full list: .stpp/problems.txt"]
    assert len((tmp_path / ".stpp/problems.txt").read_text().splitlines()) == 1001


def test_problems_whose_names_hold_spaces_are_of_one_kind() -> None:
    names = ["Anna", "Anna am See", 'it\'s Anna (1), "a"', "/x/Anna/am See", "Bob"]
    lines = grouped(f"i/{name}.jpg: the same image as {quoted(f'i/{name} 2.jpg')}; remove one" for name in names)
    assert lines[3:] == ["... and 2 more like these"]


def test_a_file_with_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "日" * 85):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text" and list(tmp_path.iterdir()) == [tmp_path / name]
        (tmp_path / name).unlink()


def test_many_kinds_of_problems_are_cut_and_the_rest_is_counted() -> None:
    words = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    lines = grouped(f"file: {word} is wrong" for word in words)
    assert len(lines) == 21
    assert lines[-1] == "... and 80 more, of 80 other kinds"


def test_the_error_names_a_table_without_the_requested_columns(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ("id", "other"), [("a", 1)])
    with pytest.raises(StppError, match=r"t\.csv: not a table of id, stability"):
        read_csv(tmp_path / "t.csv", ("id", "stability"))


def test_partial_folders_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    gone, alive = tmp_path / ".a.999999999.partial", tmp_path / f".a.{os.getppid()}.partial"
    for left in (gone, alive):
        write_text(left / "half", "half")
    with atomic_folder(tmp_path / "a") as partial:
        write_text(partial / "x", "1")
    assert contents(tmp_path) == {"a/x": b"1", f"{alive.name}/half": b"half"}


@pytest.mark.parametrize("theirs", ["images/mine.jpg", "images/deep/mine.jpg", "b"])
def test_a_file_that_is_not_in_the_new_folder_is_never_removed(tmp_path: Path, theirs: str) -> None:
    write_text(tmp_path / "out" / theirs, "precious")
    before = contents(tmp_path)
    with pytest.raises(StppError, match=f"out: contains {theirs}"), atomic_folder(tmp_path / "out") as partial:
        write_text(partial / "images/new.jpg", "new")
    assert contents(tmp_path) == before


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "notes", "precious")
    with pytest.raises(StppError, match="notes: is a file"), atomic_folder(tmp_path / "notes") as partial:
        write_text(partial / "a", "1")
    assert contents(tmp_path) == {"notes": b"precious"}


def test_publishing_to_a_full_disk_raises_the_error_of_the_system(tmp_path: Path) -> None:
    write_text(tmp_path / "state/a", "x" * 9000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            publish(tmp_path / "state", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert not (tmp_path / "out").exists()


class Broken(TorchDataset[int]):
    def __getitem__(self, index: int) -> int:
        raise StppError("a.jpg: no such file")

    def __len__(self) -> int:
        return 1


def test_an_error_in_a_loader_worker_keeps_its_message() -> None:
    with pytest.raises(StppError) as error:
        list(DataLoader(Broken(), num_workers=1))
    assert str(error.value) == "a.jpg: no such file"
