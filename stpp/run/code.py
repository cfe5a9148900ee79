"""The modules that a stage depends on, found by reading import statements in the source.

DVC watches them as deps, and a stage is resumed only if they are unchanged.
"""

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

ENTRY = re.compile(r"stpp(\.\w+)+:\w+")
UNWATCHED = {
    f"stpp.{name}"
    for name in (
        *("cli", "params", "store.records", "tracking", "stages.stage", "stages.options"),
        "stages.registration",
        *(f"run.{name}" for name in ("code", "git", "launch", "lineage", "locks", "progress", "resume")),
        "run.training_lines",
    )
}
"""Modules and packages that cannot change a result. DVC watches parameters by value, so `params` is one of them."""


def import_closure(module: str) -> set[str]:
    """Return `module` and all project modules it imports, directly or indirectly, at its top or inside functions.

    Modules in `UNWATCHED` and their imports are left out.
    """
    found: set[str] = set()
    open_ = [module]
    while open_:
        name = open_.pop()
        if name in found or name in UNWATCHED or name.rpartition(".")[0] in UNWATCHED:
            continue
        found.add(name)
        open_ += imports(name)
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Return the project modules that `module` names in an import statement, or in a table as "MODULE:OBJECT"."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source_path(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ENTRY.fullmatch(node.value):
            names.add(node.value.partition(":")[0])
    return frozenset(n for n in names if n.startswith("stpp.") and source_path(n).is_file())


def source_path(module: str) -> Path:
    """Return the path of a module's .py file; it need not exist."""
    return (PACKAGE / Path(*module.split(".")[1:])).with_suffix(".py")
