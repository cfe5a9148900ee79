"""Finished cells of a table, each a small file in git: all that a report reads."""

import json
from pathlib import Path
from typing import Any

from stpp.files import read_json

FOLDER = Path("results")
SEEDS = ("train.seed", "select.seed")
Result = dict[str, Any]
"""setting, system, seed, metrics, params (flat), lists, digests, run ids, commit, finished (ISO time)."""
Cell = tuple[str, str]
"""Setting and system."""


def path_of(folder: Path, table: str, setting: str, system: str, seed: int) -> Path:
    return folder / table / setting / system / f"{seed}.json"


def finished(folder: Path, setting: str, system: str, seed: int, expected: Result) -> Result | None:
    """The result of a cell in whichever table it was run for, if it holds what is `expected` (params, lists)."""
    for path in sorted(folder.glob(f"*/{setting}/{system}/{seed}.json")):
        result: Result = read_json(path)
        if all(result.get(key) == value for key, value in expected.items()):
            return result
    return None


def of_table(folder: Path, table: str) -> tuple[dict[Cell, list[Result]], list[Path]]:
    """The results of a table by setting and system in the order of seeds, and the files left out.

    A mean needs equals: of a setting, those count that share parameters (but for seeds), split and data with the one
    that finished last.
    """
    found: dict[str, list[tuple[Path, Result]]] = {}
    for path in sorted((folder / table).glob("*/*/*.json"), key=lambda p: (p.parent.as_posix(), int(p.stem))):
        found.setdefault(path.parent.parent.name, []).append((path, read_json(path)))
    cells: dict[Cell, list[Result]] = {}
    left_out = []
    for setting, results in found.items():
        newest = _kind(max((result for _, result in results), key=lambda result: str(result["finished"])))
        for path, result in results:
            if _kind(result) == newest:
                cells.setdefault((setting, path.parent.name), []).append(result)
            else:
                left_out.append(path)
    return cells, left_out


def _kind(result: Result) -> str:
    params = {key: value for key, value in result["params"].items() if key not in SEEDS}
    return json.dumps([params, result["split_digest"], result["data_digest"]], sort_keys=True)
