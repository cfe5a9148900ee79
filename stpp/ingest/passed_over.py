"""Counts of the files in a data set's folder that its listing passes over, and of those that data.exclude names."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import translate

from stpp.ingest.known_layouts import Layout
from stpp.ingest.names import READ, UNREAD, ending
from stpp.ingest.patterns import compile_pattern, folders_before_names
from stpp.store.files import printable, quoted, unicode_forms


class PassedOver:
    """Counts of the files that the listing passes over, by folder and by ending.

    The memory it takes is bounded: it keeps FOLDERS folders by name, and EXAMPLES file names of each.
    """

    FOLDERS, EXAMPLES = 10, 3

    def __init__(self, known: Layout, ours: set[str]) -> None:
        """ours: paths of the project's own files in the data set, which are never reported."""
        self._known, self._ours = known, ours
        self._inside = folders_before_names(known.images) if known.others else ""
        stem, dot, ending_ = known.images.rpartition(".")
        self._wider = f"{stem}.{{ext}}" if dot and "{" not in ending_ and "{ext}" not in stem else ""
        self._of_any_kind = compile_pattern(self._wider, "data.images")[0] if self._wider else None
        self._found: dict[tuple[str, str], tuple[list[int], list[str], list[bool]]] = {}
        self._kinds: Counter[str] = Counter()
        self._strays = 0
        self._stray = ""

    def stray(self, path: str) -> None:
        """Count a hidden file or folder, or one that an operating system leaves behind."""
        self._strays += 1
        self._stray = self._stray or path

    def unmatched(self, path: str) -> None:
        """Count a file that no pattern matches."""
        if path in self._ours or not path.startswith(self._inside):
            return
        if ending(path) in (*READ, *UNREAD):
            likely = self._of_any_kind is not None and self._of_any_kind.fullmatch(path) is not None
            self._add("match no pattern", path, likely)
        elif not self._known.others:
            self._kinds[ending(path) or "no ending"] += 1

    def orphan(self, path: str) -> None:
        """Count a file that is named as a mask but belongs to no image."""
        self._add("are named like masks, but belong to no image", path, False)

    def _add(self, what: str, path: str, likely: bool) -> None:
        folder, _, name = path.rpartition("/")
        key = (what, folder)
        if key not in self._found and len(self._found) >= self.FOLDERS:
            key = (what, "*")
        count, examples, hints = self._found.setdefault(key, ([0], [], []))
        count[0] += 1
        if len(examples) < self.EXAMPLES:
            examples.append(name if key[1] != "*" else path)
        if likely and not hints:
            hints.append(True)

    def said(self) -> list[str]:
        """Return the notes for the user: one for each folder and reason, one for other files, one for stray files."""
        said = []
        for (what, folder), ((count,), examples, hints) in sorted(self._found.items()):
            where = {"": "data.root", "*": "other folders"}.get(folder, f"{folder}/")
            remedy = f"; did you mean data.images: {self._wider}?" if hints else ""
            said.append(f"{count} file(s) in {where} {what}, such as {', '.join(map(quoted, examples))}{remedy}")
        if self._kinds:
            kinds = [f"{count} {kind}" for kind, count in self._kinds.most_common(5)]
            more = "" if len(self._kinds) <= len(kinds) else ", ..."
            said.append(f"{self._kinds.total()} file(s) without the extension of an image ({', '.join(kinds)}{more})")
        if self._strays:
            said.append(f"{self._strays} hidden file(s) or folder(s), or system files, such as {quoted(self._stray)}")
        return [printable(f"skipped: {line}") for line in said]


class Excluded:
    """The images that `data.exclude` leaves out, counted; and its patterns or lines that match none."""

    def __init__(self, exclude: str | Sequence[str] | None, lines_of: Callable[[str], Sequence[str]]) -> None:
        """exclude: shell patterns, or the name of a list. lines_of: reads a list."""
        listed = isinstance(exclude, str)
        names = [line.strip() for line in lines_of(exclude)] if isinstance(exclude, str) else list(exclude or ())
        self._where = f"data.exclude: {exclude}" if listed else "data.exclude"
        self._used = dict.fromkeys(filter(None, names), False)
        self._patterns = {} if listed else {name: re.compile(translate(name)) for name in self._used}
        self._any = re.compile("|".join(translate(name) for name in self._patterns) or r"(?!)")
        self._count, self._examples = 0, list[str]()

    def counts(self, name: str, image: str) -> bool:
        """Return whether an image is left out, and count it. name: its id. image: its path."""
        if not self._used:
            return False
        own = [form for key in (name, image) for form in unicode_forms(key)]
        by = [key for key in own if key in self._used]
        if not by and not any(map(self._any.match, own)):
            return False
        by += [key for key, pattern in self._patterns.items() if any(map(pattern.match, own))]
        self._used.update(dict.fromkeys(by, True))
        self._count += 1
        if self._count <= PassedOver.EXAMPLES:
            self._examples.append(f"`{name}`")
        return True

    def said(self) -> list[str]:
        """Return the notes for the user: how many images are left out, and what matches none."""
        unused = [name for name, used in self._used.items() if not used]
        said = [f"{self._count} image(s) are left out, such as {', '.join(self._examples)}"] if self._count else []
        if unused:
            examples = ", ".join(f"`{name}`" for name in unused[: PassedOver.EXAMPLES])
            said.append(f"{len(unused)} of {len(self._used)} name(s) or pattern(s) match no image, such as {examples}")
        return [printable(f"{self._where}: {line}") for line in said]
