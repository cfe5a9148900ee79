"""The command-line options that stages share, so that each option has one description."""

import re
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.store.files import StppError

Params = Annotated[
    list[Path] | None,
    Option(
        help="Params file; give it again for an overlay, which has only the keys that differ.",
        show_default="params.yaml",
    ),
]
Data = Annotated[Path, Option(help="Folder that `stpp prepare` wrote.")]
Split = Annotated[Path, Option(help="Folder that `stpp split` wrote.")]
Role = Annotated[str, Option(help="Role of the model: teacher, student_1, student. Part of every seed.")]
Backbone = Annotated[Path, Option(help="File that `stpp backbone` wrote.")]
Out = Annotated[
    Path, Option(help="Folder for the results, written at the end; files of other origin in it are never replaced.")
]
Named = Annotated[list[str], Option(help="Model as NAME=PATH; may be given several times.")]


def params_files(given: list[Path] | None) -> list[Path]:
    """Return the given params files, or params.yaml if none is given."""
    return given or [Path("params.yaml")]


def named(pairs: list[str]) -> dict[str, Path]:
    """Parse pairs NAME=PATH: ["a=x", "b=y"] -> {"a": x, "b": y}.

    Raises StppError for a pair of another form, and for a name that is given twice.
    """
    result = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not path or not re.fullmatch(r"\w[\w.-]*", name):
            raise StppError(f"{pair}: expected NAME=PATH, with a name of letters, digits and _ . -")
        if name in result:
            raise StppError(f"{pair}: the name {name} is given twice; give each path its own name")
        result[name] = Path(path)
    return result
