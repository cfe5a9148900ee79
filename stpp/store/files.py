"""The files of a run: id lists, tables, JSON; every one written whole or not at all."""

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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, AnyStr

_PART = r"(?!\.{1,2}(?:/|\Z))[^\s/\\,\"\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
ID = re.compile(rf"{_PART}(?:/{_PART})*\Z")


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


WORKER = "Original Traceback (most recent call last):"


class StppError(Exception):
    """Something the user can mend: the message names the file, key or image, and what to do."""

    def __init__(self, message: str) -> None:
        # torch raises what a loader's worker raised again, with the worker's traceback for a message.
        super().__init__(message.rpartition(f"{__name__}.StppError: ")[2].rstrip() if WORKER in message else message)


EXAMPLES, KINDS, LINE = 3, 20, 500
"""Problems of one kind that are shown, kinds that are, and characters of a line."""
PROBLEMS = Path(".stpp/problems.txt")
"""The whole list where not all of it is shown."""


def raise_all(problems: Sequence[str], where: str) -> None:
    """One StppError with a line for every problem, if there are any: of many of one kind, three and their number.

    problems: each "PLACE: what is wrong; the remedy". The whole list goes to a file, which is named.
    """
    if problems:
        lines = [f"{where}: {len(problems)} problem(s):", *shown(problems)]
        raise StppError("\n".join(map(printable, lines)))


def shown(problems: Sequence[str], kinds: int = KINDS) -> list[str]:
    """Lines for problems of so many kinds at most, and the file that has all of them, where these are not all."""
    lines = grouped(problems, kinds)
    if lines != list(problems):
        with suppress(OSError):
            write_text(PROBLEMS, "".join(f"{printable(problem)}\n" for problem in problems))
            lines.append(f"all of them: {PROBLEMS}")
    return lines


def grouped(problems: Iterable[str], most: int = KINDS) -> list[str]:
    """Problems as they are shown: the first of every kind, and how many more are like them; `most` kinds."""
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
    return [*lines, *([f"... and {rest} of {len(kinds) - most} other kinds"] if rest else [])]


VARIES = re.compile(r"\S*[\d/]\S*|`[^`]*`|'[^']*'|\"[^\"]*\"")
"""What differs between problems of one kind: numbers, paths, and what is quoted."""


def printable(line: str) -> str:
    """A line as it may be shown: names from files may hold anything, and write to a terminal but letters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


# -- reading ----------------------------------------------------------------------------------------------------------

TEXT = 2**26
"""Bytes of the largest text that is read as a whole: 64 MiB."""
KIND = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""What decoders raise for text that is not what they decode."""


def open_regular(path: Path, limit: int | None = None) -> io.BufferedReader:
    """Open a regular file to read its bytes. A pipe, which would be waited for, is none, nor is a device.

    limit: bytes that it may have at most. Raises OSError as `open` does, and StppError naming what is no such file.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise StppError(f"{path}: is {KIND.get(stat.S_IFMT(found.st_mode), 'no file')}, not a regular file")
        if limit is not None and found.st_size > limit:
            raise StppError(f"{path}: has {found.st_size} bytes, more than {limit}; is it the right file?")
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def regular(path: Path) -> Path:
    """The path itself, for readers that open it by name. Raises as `open_regular` does."""
    open_regular(path).close()
    return path


def read_bytes(path: Path, limit: int = TEXT) -> bytes:
    """A regular file of at most `limit` bytes. Raises as `open_regular` does."""
    with open_regular(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # it grew, or its size was not the truth
        raise StppError(f"{path}: has more than {limit} bytes; is it the right file?")
    return data


def read_text(path: Path, limit: int = TEXT, encoding: str = "utf-8") -> str:
    """As `read_bytes`, as text with the line ends of this system. Raises UnicodeDecodeError, too."""
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, limit)), encoding=encoding).read()


LONGEST = 2**24
"""Bytes or characters of the longest line of a table."""


def lines_of(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """The lines of a table, each with its end. Raises ValueError for one that is far too long."""
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise ValueError(f"a line of more than {LONGEST} characters")
        yield line


def parse_json(text: str) -> Any:
    """What JSON says. Raises ValueError for whatever is wrong with it."""
    try:
        return json.loads(text)
    except MALFORMED as error:
        raise ValueError(_one_line(error)) from None


NODES = 100_000
"""Values that a YAML file may hold, written out: a few lines with aliases of aliases stand for billions."""


def parse_yaml(text: str, nodes: int = NODES) -> Any:
    """What YAML 1.2 says, as DVC reads it. Raises ValueError for whatever is wrong with it, or more than `nodes`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        yaml = YAML(typ="safe")
        node = yaml.compose(io.StringIO(text))
        if _written_out(node, {}, nodes) > nodes:
            raise ValueError(f"it holds more than {nodes} values, aliases written out")
        return None if node is None else yaml.constructor.construct_document(node)
    except (YAMLError, *MALFORMED) as error:
        raise ValueError(_one_line(error)) from None


def _written_out(node: Any, known: dict[int, int], nodes: int) -> int:
    """How many values a YAML node holds if its aliases are written out, counted up to some more than `nodes`."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = nodes + 1  # of a node that holds itself, it is endless
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
    """Give a temporary name beside `path`; what was written there takes the final name at the end, or nothing does."""
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
    try:
        return parse_json(read_bytes(path).decode())
    except (OSError, ValueError) as error:
        raise StppError(f"{path}: not readable: {error}; run the stage that makes it again") from None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table that has `columns`, and perhaps more. Raises StppError naming the file if it has not."""
    try:
        with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(lines_of(file))
            missing = set(columns) - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise StppError(f"{path}: not readable: {error}; run the stage that makes it again") from None
    if missing or any(row[column] is None for row in rows for column in columns):
        raise _no_table(path, columns)
    return rows


def scan_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The values of `columns` in every row of a table, read as they are asked for. Raises as `read_csv` does."""
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
        raise StppError(f"{path}: not readable: {error}; run the stage that makes it again") from None


def header(path: Path, columns: Sequence[str]) -> list[str]:
    """The names of a table's columns, which begin with `columns`. Raises as `read_csv` does."""
    try:
        with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(lines_of(file)), [])
    except (OSError, ValueError, csv.Error) as error:
        raise StppError(f"{path}: not readable: {error}; run the stage that makes it again") from None
    if names[: len(columns)] != list(columns):
        raise _no_table(path, columns)
    return names


def _no_table(path: Path, columns: Sequence[str]) -> StppError:
    return StppError(f"{path}: not a table of {', '.join(columns)}; is it the right file?")


@contextmanager
def atomic_folder(out: Path, *, ours: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its place at the end; `out` never shows a part of it.

    Raises StppError if `out` is a file, or holds one that the new folder does not: it may be a person's, unless
    `ours` says that an earlier run wrote it.
    """
    if not out.name:
        raise StppError(f"{out}: name a folder of its own for the results")
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
                what = f"{others[0]}, which is not replaced here"
                raise StppError(f"{out}: holds {what}; remove it, or give another folder")
        for name in written:
            _sync(partial / name)
        old = _partial(out.with_name(f"{out.name}.old"))
        if out.is_dir() and not out.is_symlink():
            out.rename(old)  # removing takes time, in which half of it would stand there
        else:
            _remove(out)
        partial.rename(out)
        _remove(old)
    finally:
        _remove(partial)


def publish(source: Path, out: Path, *, ours: bool = False) -> None:
    """Copy a finished file or folder to its final name; `ours` as for `replacing_folder`."""
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
    """Wait until a file's content is on the disk, so that no final name ever stands for less."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _partial(path: Path) -> Path:
    """A temporary name beside `path`, of this process alone; what killed processes left of such is removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        pid = left.name.split(".")[-2]
        if pid == str(os.getpid()) or not alive(pid):
            _remove(left)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def alive(pid: str) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # another user's
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
    """The files below a folder and links to files, by relative names; links to folders are left out.

    In the order of the names' parts, or, `as_text`, of the names themselves: in that a folder `a` comes after `a-b`.
    Only the names in the folders on the way are held. Raises StppError naming a folder that cannot be read.
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
    """One sha256 over files and the files below folders, by relative name and content.

    Raises StppError naming a path that is not there.
    """
    total = hashlib.sha256()
    for path in paths:
        if not path.exists():
            raise StppError(f"{path}: no such file or folder; run the stage that makes it, or `dvc repro`")
        for name in walk(path) if path.is_dir() else [""]:
            total.update(f"{name}\0{sha256(path / name)}\n".encode())
    return total.hexdigest()


# -- ids --------------------------------------------------------------------------------------------------------------


def write_ids(path: Path, ids: Iterable[str]) -> None:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{i}\n" for i in ids)


def read_ids(path: Path) -> list[str]:
    """The ids of a list that a stage wrote, one a line."""
    try:
        return read_text(path, 2**30).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StppError(f"{path}: not readable: {error}") from None
