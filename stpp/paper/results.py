"""Finished cells of a table, each a small file in git: all that a report reads."""

import json
from pathlib import Path
from typing import Any

from stpp.files import read_json
from stpp.paper.published import table

FOLDER = Path("results")
SEEDS = ("train.seed", "select.seed")
Result = dict[str, Any]
"""setting, system, seed, metrics, params (flat), overlay, files, data, digests, run ids, commit, finished."""
Cell = tuple[str, str]
"""Setting and system."""


def path_of(folder: Path, table: str, setting: str, system: str, seed: int) -> Path:
    return folder / table / setting / system / f"{seed}.json"


def finished(folder: Path, setting: str, system: str, seed: int, expected: Result) -> Result | None:
    """The result of a cell in whichever table it was run for, if it holds what is `expected`."""
    for path in sorted(folder.glob(f"*/{setting}/{system}/{seed}.json")):
        result: Result = read_json(path)
        if all(result.get(key) == value for key, value in expected.items()):
            return result
    return None


def of_table(folder: Path, name: str) -> tuple[dict[Cell, list[Result]], list[Path]]:
    """The results of a table by setting and system in the order of seeds, and the files left out.

    A cell counts in whichever table it was run for: of the settings that the paper's table has, and of those that were
    run for this one. A mean needs equals: of a setting, those count that share parameters (but for seeds), split and
    data with the one that finished last, and of a cell those that share its overlay, too.
    """
    one = table(name)
    own = sorted(path.name for path in (folder / name).glob("*") if path.is_dir())
    cells: dict[Cell, list[Result]] = {}
    left_out = []
    for setting in dict.fromkeys((*(s.name for s in one.settings), *own)):
        by_seed = {system: _newest(folder, setting, system) for system in one.systems}
        every = [result for found in by_seed.values() for _, result in found.values()]
        kind = _kind(max(every, key=_finished)) if every else ""
        for system, found in by_seed.items():
            equal = [result for _, result in found.values() if _kind(result) == kind]
            overlay = max(equal, key=_finished).get("overlay") if equal else None
            for _, (path, result) in sorted(found.items()):
                if _kind(result) == kind and result.get("overlay") == overlay:
                    cells.setdefault((setting, system), []).append(result)
                else:
                    left_out.append(path)
    return cells, left_out


def _newest(folder: Path, setting: str, system: str) -> dict[int, tuple[Path, Result]]:
    """Of every seed, the result that finished last in any table, and its file."""
    found: dict[int, tuple[Path, Result]] = {}
    for path in sorted(folder.glob(f"*/{setting}/{system}/*.json")):
        if path.stem.isdecimal():
            result = read_json(path)
            seed = int(path.stem)
            if seed not in found or _finished(result) > _finished(found[seed][1]):
                found[seed] = path, result
    return found


def _finished(result: Result) -> str:
    return str(result["finished"])


def _kind(result: Result) -> str:
    params = {key: value for key, value in result["params"].items() if key not in SEEDS}
    return json.dumps([params, result.get("files"), result["split_digest"], result["data_digest"]], sort_keys=True)
