"""Path patterns such as `{set}/{name}.jpg`: which paths match, and which path a pattern gives."""

import re
from pathlib import Path

from stpp.ingest.names import READ, UNREAD
from stpp.store.files import StppError

_ENDINGS = "|".join(one[1:] for one in (*READ, *UNREAD))


def compile_pattern(pattern: str, key: str, wild: bool = False) -> tuple[re.Pattern[str], list[str]]:
    """Compile a path pattern; return a regex with a group for each placeholder, and the placeholders' names.

    The regex ignores the case of the file ending. `{ext}` matches the endings of images only. key: the parameter to
    name in errors. wild: `*` stands for any part of a name. Raises StppError for a pattern without a placeholder, or
    with a placeholder that is no name.
    """
    names = re.findall(r"\{(\w+)\}", pattern)
    odd = [name for name in names if not name.isidentifier()]
    if odd or not names:
        what = f"holds {{{odd[0]}}}, which is not a valid name" if odd else "matches only one file"
        raise StppError(f"{key}: {pattern} {what}; use a placeholder such as {{name}} for the part that changes")
    regex, seen = "", set()
    for literal, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", pattern):
        regex += re.escape(literal).replace(r"\*", "[^/]*") if wild else re.escape(literal)
        if name:
            any_of = f"(?i:{_ENDINGS})" if name == "ext" else "[^/]+"
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>{any_of})"
            seen.add(name)
    if literal_ending := re.search(r"\\\.[A-Za-z0-9]+\Z", regex):
        regex = f"{regex[: literal_ending.start()]}(?i:{literal_ending[0]})"
    return re.compile(regex), list(dict.fromkeys(names))


def fill(pattern: str, parts: dict[str, str]) -> str:
    """Return the pattern with the values of its placeholders."""
    return re.sub(r"\{(\w+)\}", lambda m: parts[m[1]], pattern)


def folders_before_names(pattern: str) -> str:
    """Return the folders at the start of a pattern that hold no placeholder."""
    return pattern[: pattern.find("{")].rpartition("/")[0]


def leads_out(name: str) -> bool:
    """Return whether a path can lead out of its root: it is absolute, holds `..`, or is empty."""
    return Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name


def check_inside(name: str, where: str) -> None:
    """Raise StppError, naming the parameter `where`, if a path leads out of the root."""
    if leads_out(name):
        raise StppError(f"{where}: {name} points outside data.root; give a path below it")
