"""Reading and atomic writing of the project's files: text, JSON, YAML, CSV, id lists and folders; also hashes.

A file or folder appears under its final name only when it is complete. `StppError` and the printing of problem lists
are here too.
"""

import csv
import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, AnyStr

_UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0001"
)
UNSEEN = re.compile(f"[{_UNSEEN}]")
"""Characters that a name may not have: control characters, line breaks, direction marks, lone surrogates, and others
that nobody sees. Spaces of any width, and the joiners of emoji and of Persian, are allowed."""
_PART = rf"(?!\.{{1,2}}(?:/|\Z)|\s)[^/\\{_UNSEEN}]+(?<!\s)"
ID = re.compile(rf"{_PART}(?:/{_PART})*\Z")
"""A valid image id: parts joined by `/`, none of them `.` or `..`.

A part has no backslash and no character of UNSEEN, and neither begins nor ends with white space.
"""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errno values of a write that found no room."""


WORKER = "Original Traceback (most recent call last):"
"""The text by which torch marks an error that a data loader's worker raised."""


class StppError(Exception):
    """An error that the user can fix: its message names the file, key or image, and what to do."""

    def __init__(self, message: str) -> None:
        # torch re-raises the error of a loader's worker with a traceback as its message; keep only the message.
        super().__init__(message.rpartition(f"{__name__}.StppError: ")[2].rstrip() if WORKER in message else message)


EXAMPLES, KINDS, LINE = 3, 20, 500
"""Limits of what is shown: problems of one kind, kinds of problems, and characters of a line."""
PROBLEMS = Path(".stpp/problems.txt")
"""The file that holds the whole list when only a part is shown."""


def raise_problems(problems: Sequence[str], where: str) -> None:
    """Raise one StppError that lists all problems, if there are any.

    The message shows the first three problems of each kind and the number of the others, for at most 20 kinds. If it
    leaves problems out, the whole list is written to `PROBLEMS`, which the message names. problems: each
    "PLACE: what is wrong; the remedy".
    """
    if problems:
        lines = [f"{where}: {len(problems)} problem(s):", *shown(problems)]
        raise StppError("\n".join(map(printable, lines)))


def shown(problems: Sequence[str], kinds: int = KINDS) -> list[str]:
    """Return `grouped` lines for the problems.

    If they leave something out, write all problems to `PROBLEMS` and add a line that names the file.
    """
    lines = grouped(problems, kinds)
    if lines != list(problems):
        with suppress(OSError):
            write_text(PROBLEMS, "".join(f"{printable(problem)}\n" for problem in problems))
            lines.append(f"full list: {PROBLEMS}")
    return lines


def grouped(problems: Iterable[str], most: int = KINDS) -> list[str]:
    """Return lines with the first problems of each kind and the number of the others, for at most `most` kinds."""
    kinds: dict[str, list[str]] = {}
    more: dict[str, int] = {}
    for problem in problems:
        what = problem[:LINE].partition(": ")[2] or problem[:LINE]
        kind = VARIES.sub("#", what)
        examples = kinds.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(problem if len(problem) <= LINE else f"{problem[:LINE]} ...")
        else:
            more[kind] = more.get(kind, 0) + 1
    lines = []
    for kind in list(kinds)[:most]:
        lines += kinds[kind]
        lines += [f"... and {more[kind]} more like these"] if kind in more else []
    rest = sum(len(kinds[kind]) + more.get(kind, 0) for kind in list(kinds)[most:])
    return [*lines, *([f"... and {rest} more, of {len(kinds) - most} other kinds"] if rest else [])]


VARIES = re.compile(r"`[^`]*`|\S*[\d/]\S*|'[^']*'|\"[^\"]*\"")
"""The parts in which problems of one kind differ: numbers, paths and quoted text."""


def quoted(name: str) -> str:
    """Return a name for a message: in backticks if it holds white space, so that its end shows."""
    return f"`{name}`" if len(name.split()) > 1 else name


def printable(line: str) -> str:
    """Return a line with every character of UNSEEN replaced by U+FFFD.

    File names may hold control characters, which must not reach a terminal.
    """
    return line if line.isprintable() else UNSEEN.sub("\ufffd", line)


# -- reading ----------------------------------------------------------------------------------------------------------

TEXT = 2**26
"""The largest text file that is read as a whole, in bytes: 64 MiB."""
KIND = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""Names in messages for what is not a regular file."""
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""The errors that JSON and YAML decoders raise for malformed text."""


def open_regular(path: Path, limit: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading bytes, and refuse pipes, devices and folders.

    A pipe would block the reader. limit: the largest allowed size in bytes. Raises OSError as `open` does. Raises
    StppError naming the path if it is not a regular file or is larger than `limit`.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise StppError(f"{path}: is {KIND.get(stat.S_IFMT(found.st_mode), 'a special file')}, not a regular file")
        if limit is not None and found.st_size > limit:
            raise StppError(f"{path}: too large: {found.st_size} bytes (limit: {limit}); is it the right file?")
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def regular(path: Path) -> Path:
    """Return `path` if it is a regular file, for readers that open files by name. Raises as `open_regular`."""
    open_regular(path).close()
    return path


def read_bytes(path: Path, limit: int = TEXT) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises as `open_regular` does."""
    with open_regular(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # the file has grown since, or the reported size was wrong
        raise StppError(f"{path}: too large: more than {limit} bytes; is it the right file?")
    return data


def read_text(path: Path, limit: int = TEXT, encoding: str = "utf-8") -> str:
    """Return the text of a regular file of at most `limit` bytes, with every line end as a newline character.

    Raises as `read_bytes` does, and UnicodeDecodeError.
    """
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, limit)), encoding=encoding).read()


LONGEST = 2**24
"""The longest allowed line of a table, in bytes or characters."""


def lines_of(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Yield the lines of a table, each with its line end. Raises ValueError for a line longer than `LONGEST`."""
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise ValueError(f"a line is longer than {LONGEST} characters")
        yield line


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError for every kind of malformed text."""
    try:
        return json.loads(text)
    except MALFORMED as error:
        raise ValueError(_one_line(error)) from None


NODES = 100_000
"""The most values a YAML file may hold with aliases expanded: a few lines of nested aliases can mean billions."""
DEPTH = 100
"""The most collections inside one another in a YAML file: the C library for YAML crashes on very many."""


def parse_yaml(text: str, nodes: int = NODES) -> Any:
    """Return the value of a YAML 1.2 text, read as DVC reads it.

    Raises ValueError for every kind of malformed text, for more than `nodes` values, and for more than `DEPTH` levels.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    try:
        depth = 0
        for event in YAML(typ="safe").parse(io.StringIO(text)):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError(f"more than {DEPTH} levels")
        yaml = YAML(typ="safe")
        node = yaml.compose(io.StringIO(text))
        if _written_out(node, {}, nodes) > nodes:
            raise ValueError(f"more than {nodes} values, with all aliases expanded")
        return None if node is None else yaml.constructor.construct_document(node)
    except (YAMLError, *MALFORMED) as error:
        raise ValueError(_one_line(error)) from None


def _written_out(node: Any, known: dict[int, int], nodes: int) -> int:
    """Return how many values a YAML node holds with aliases expanded; counting stops at `nodes` + 1."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = nodes + 1  # the count of a node that holds itself would be endless
        total = 1
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                total = min(total + _written_out(part, known, nodes), nodes + 1)
        known[id(node)] = total
    return known[id(node)]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# -- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Open a temporary path beside `path`, and rename it to `path` at the end of the block.

    After an error in the block, the temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file that a stage wrote. Raises StppError naming a file that is not readable."""
    try:
        return parse_json(read_bytes(path).decode())
    except (OSError, ValueError) as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file that has at least the columns `columns`.

    Raises StppError naming the file if it is not readable, or if a column or a value is missing.
    """
    try:
        with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(lines_of(file))
            missing = set(columns) - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None
    if missing or any(row[column] is None for row in rows for column in columns):
        raise _no_table(path, columns)
    return rows


def scan_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the values of `columns` for each row of a CSV file, reading it row by row. Raises as `read_csv` does."""
    try:
        with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(lines_of(file))
            header = next(reader, [])
            if not set(columns) <= set(header):
                raise _no_table(path, columns)
            places = [header.index(column) for column in columns]
            for row in reader:
                if row and len(row) <= max(places):
                    raise _no_table(path, columns)
                if row:
                    yield tuple([row[at] for at in places])
    except (OSError, ValueError, csv.Error) as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None


def header(path: Path, columns: Sequence[str]) -> list[str]:
    """Return all column names of a CSV file, whose first ones must be `columns`. Raises as `read_csv` does."""
    try:
        with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(lines_of(file)), [])
    except (OSError, ValueError, csv.Error) as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None
    if names[: len(columns)] != list(columns):
        raise _no_table(path, columns)
    return names


def _no_table(path: Path, columns: Sequence[str]) -> StppError:
    return StppError(f"{path}: not a table of {', '.join(columns)}; is it the right file?")


@contextmanager
def atomic_folder(out: Path, *, ours: bool = False) -> Iterator[Path]:
    """Open an empty temporary folder beside `out`, which replaces `out` at the end of the block.

    `out` never shows a part of the new content. Raises StppError if `out` is a file, or holds a file that the new
    folder does not have: that file may be a person's. ours: an earlier run wrote `out`, so all of it may be replaced.
    """
    if not out.name:
        raise StppError(f"{out}: give a separate folder for the results")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(out)
    partial.mkdir()
    try:
        yield partial
        written = {file.relative_to(partial) for file in partial.rglob("*") if file.is_file()}
        if out.is_file() and not out.is_symlink():
            raise StppError(f"{out}: is a file, not a folder; remove it, or give another name")
        if out.is_dir() and not out.is_symlink() and not ours:
            there = {file.relative_to(out) for file in out.rglob("*") if not file.is_dir() or file.is_symlink()}
            if others := sorted(there - written):
                what = f"{others[0]}, which would be lost"
                raise StppError(f"{out}: contains {what}; move it away, or give another folder")
        for name in written:
            _sync(partial / name)
        old = _partial(out.with_name(f"{out.name}.old"))
        if out.is_dir() and not out.is_symlink():
            out.rename(old)  # a rename is instant; while a folder is removed, `out` would show half of it
        else:
            _remove(out)
        partial.rename(out)
        _remove(old)
    finally:
        _remove(partial)


def publish(source: Path, out: Path, *, ours: bool = False) -> None:
    """Copy a finished file or folder to its final name, atomically; `ours` as in `atomic_folder`."""
    if source.is_dir():
        with atomic_folder(out, ours=ours) as partial:
            for file in source.rglob("*"):
                copy = partial / file.relative_to(source)
                if file.is_dir():
                    copy.mkdir(parents=True, exist_ok=True)
                elif not file.name.endswith(".partial"):
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, copy)
    else:
        with atomic_write(out) as partial:
            shutil.copyfile(source, partial)


def _sync(path: Path) -> None:
    """Wait until a file's content is on the disk, so that a final name never stands for incomplete content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


LONG = 200
"""The longest name, in bytes, that is part of a temporary name; file systems allow 255 bytes in all."""


def _partial(path: Path) -> Path:
    """Return a temporary path beside `path` for this process alone, and remove those that killed processes left."""
    name = path.name
    if len(os.fsencode(name)) > LONG:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    for left in path.parent.glob(f".{glob.escape(name)}.*.partial"):
        pid = left.name.split(".")[-2]
        if pid == str(os.getpid()) or not alive(pid):
            _remove(left)
    return path.with_name(f".{name}.{os.getpid()}.partial")


def alive(pid: str) -> bool:
    """Return whether a process with this process id runs."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # it runs, as another user
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# -- hashes -----------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(folder: Path, *, as_text: bool = False) -> Iterator[str]:
    """Yield the relative names of all files below a folder and of links to files; links to folders are left out.

    Names are sorted part by part, so folder `a` comes before `a-b`. as_text: names are sorted as plain text, so `a/`
    comes after `a-b`. Memory holds only the entries of the folders on the path to the current file. Raises StppError
    naming a folder that cannot be read.
    """

    def below(inside: str) -> Iterator[str]:
        try:
            with os.scandir(folder / inside) as entries:
                found = [
                    (e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.is_dir() or not e.is_symlink()
                ]
        except OSError as error:
            raise StppError(f"{folder / inside}: not readable: {error.strerror}") from None
        found.sort(key=lambda one: f"{one[0]}/" if as_text and one[1] else one[0])
        for name, is_folder in found:
            if is_folder:
                yield from below(f"{inside}{name}/")
            elif (folder / inside / name).is_file():
                yield f"{inside}{name}"

    return below("")


def digest(paths: Iterable[Path]) -> str:
    """Return one sha256 over files and folders, made of the content and the name below its folder of each file.

    Raises StppError naming a path that does not exist.
    """
    total = hashlib.sha256()
    for path in paths:
        if not path.exists():
            raise StppError(f"{path}: no such file or folder; run the stage that makes it, or `dvc repro`")
        for name in walk(path) if path.is_dir() else [""]:
            total.update(f"{name}\0{sha256(path / name)}\n".encode())
    return total.hexdigest()


# -- ids --------------------------------------------------------------------------------------------------------------


def unicode_forms(name: str) -> tuple[str, ...]:
    """Return a name as it is written, then composed (NFC) and decomposed (NFD, as macOS writes it), without repeats."""
    if name.isascii():
        return (name,)
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))


def write_ids(path: Path, ids: Iterable[str]) -> None:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{i}\n" for i in ids)


def read_ids(path: Path) -> list[str]:
    """Return the ids in a list that a stage wrote, one per line. Raises StppError if it is not readable."""
    try:
        return read_text(path, 2**30).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StppError(f"{path}: not readable: {error}") from None
