"""Finished cells of a table, each a small file in git: all that a report reads."""

from pathlib import Path
from typing import Any

from stpp.files import read_json, write_json

FOLDER = Path("results")


def path_of(folder: Path, table: str, setting: str, system: str, seed: int) -> Path:
    return folder / table / setting / system / f"{seed}.json"


def write(path: Path, result: dict[str, Any]) -> None:
    write_json(path, result)


def finished(folder: Path, setting: str, system: str, seed: int, params: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a cell in whichever table it was run for, if it was run with these parameters (flattened)."""
    for path in sorted(folder.glob(f"*/{setting}/{system}/{seed}.json")):
        result: dict[str, Any] = read_json(path)
        if result["params"] == params:
            return result
    return None


def of_table(folder: Path, table: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The results of a table by setting and system, in the order of seeds."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted((folder / table).glob("*/*/*.json"), key=lambda p: (p.parent.as_posix(), int(p.stem))):
        found.setdefault((path.parent.parent.name, path.parent.name), []).append(read_json(path))
    return found
