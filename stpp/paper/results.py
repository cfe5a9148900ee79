"""Results of the finished cells of a table, each in a small JSON file in git.

A report reads these files and nothing else.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_jsonable_python

from stpp.paper.published import table
from stpp.params.file import flatten
from stpp.params.models import Params
from stpp.store.files import StppError, read_json
from stpp.store.records import JsonFile, Percent

SEEDS = ("train.seed", "select.seed")
"""Parameters that differ between the seeds of a cell."""
Result = dict[str, Any]
"""The content of a result file.

Keys: setting, system, seed, unit (%), metrics, numbers, evaluation, keep, params (by dotted name), overlay, files,
data, digests, run ids, commit, finished.
"""
Cell = tuple[str, str]
"""A cell: (setting, system)."""


class _Scores(BaseModel):
    miou: Annotated[float, Field(ge=0, le=100)]


class Numbers(JsonFile):
    """The numbers that were measured in one run; mIoU and IoU are in percent or NaN."""

    miou: dict[str, dict[str, Percent]] = Field(default_factory=dict)
    """mIoU by set and model for `val` and `test`. For `masks` it is by mask set, if true masks of its images are
    known."""
    correlation: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Rank correlation of stability and the true quality of pseudo masks."""
    classes: dict[str, dict[str, dict[str, Percent]]] = Field(default_factory=dict)
    """IoU by set, model and class. A class that does not occur is left out."""


class _Result(BaseModel):
    """The part of a result file that a report needs."""

    setting: str
    system: str
    seed: int
    unit: Literal["%"] | None = None
    metrics: dict[str, dict[str, _Scores]]
    params: dict[str, Any]
    numbers: Numbers | None = None
    evaluation: str
    keep: str
    data_digest: str
    split_digest: str
    commit: str
    finished: str


def read(path: Path) -> Result:
    """Return the result in a file, and check that it is of the cell that the path names.

    Raises StppError that names the file and what is wrong in it.
    """
    try:
        raw = read_json(path)
        known = _Result.model_validate(raw)
        if known.unit is None:  # older versions wrote fractions
            raw |= {"metrics": _scaled(known.metrics), "numbers": known.numbers and _scaled(known.numbers)}
            known = _Result.model_validate(raw)
        setting, system, seed = path.parent.parent.name, path.parent.name, int(path.stem)
        if (known.setting, known.system, known.seed) != (setting, system, seed):
            wrong = f"it is the result of {known.setting}/{known.system}, seed {known.seed}"
        elif known.params.get("train.seed") != seed:
            wrong = f"it was trained with train.seed {known.params.get('train.seed')}"
        elif system not in known.metrics.get("val", {}):
            wrong = f"metrics.val.{system} is missing"
        else:
            return dict(raw) | {"params": _complete(known.params)}
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    except StppError:
        wrong = "not readable as JSON"
    raise StppError(
        f"{path}: {wrong}; remove it (git keeps what was committed), and `stpp paper run` runs the cell again"
    )


def _scaled(value: Any) -> Any:
    """Return fractions in percent: a number, or all scores of a dict, `_Scores` or `Numbers`."""
    if isinstance(value, Numbers):
        return value.model_dump() | {"miou": _scaled(value.miou), "classes": _scaled(value.classes)}
    if isinstance(value, _Scores):
        return {"miou": 100 * value.miou}
    return {key: _scaled(one) for key, one in value.items()} if isinstance(value, dict) else 100 * value


def _complete(params: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of parameters that did not exist yet when a cell was run.

    A default does what the code did before the parameter existed.
    """
    sections = {key[:at] for key in params for at, sign in enumerate(key) if sign == "."}
    return {key: value for key, value in _defaults().items() if key not in sections} | params


@cache
def _defaults() -> dict[str, Any]:
    """Return the default of every parameter that has one, by dotted name, without sections `runtime` and `toy`."""
    sections = {
        name: section.annotation for name, section in Params.model_fields.items() if name not in ("runtime", "toy")
    }
    values = {
        name: {key: one.default for key, one in section.model_fields.items() if not one.is_required()}
        if isinstance(section, type)
        else Params.model_fields[name].default  # a section that may be null, and is
        for name, section in sections.items()
    }
    return flatten(to_jsonable_python(values))


def path_of(folder: Path, table: str, setting: str, system: str, seed: int) -> Path:
    """Return the path of a cell's result file for one seed."""
    return folder / table / setting / system / f"{seed}.json"


def finished(folder: Path, setting: str, system: str, seed: int, expected: Result) -> Result | None:
    """Return a result of a cell, from any table, that holds all values of `expected`; None if there is none."""
    for path in sorted(folder.glob(f"*/{setting}/{system}/{seed}.json")):
        result = read(path)
        if all(result.get(key) == value for key, value in expected.items()):
            return result
    return None


def of_table(folder: Path, name: str) -> tuple[dict[Cell, list[Result]], list[Path]]:
    """Return the results of a table by setting and system, in the order of seeds, and the files that are left out.

    The settings are those of the paper's table, and those that were run for this table. A cell counts even if it was
    run for another table. A mean needs comparable results: within a setting, a result counts if it has the parameters
    (except seeds), lists, weights, split and data of the result that finished last. Within a cell, it must have the
    overlay of the cell's last such result, too.
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
    """Return by seed the file and the content of the result that finished last, in any table."""
    found: dict[int, tuple[Path, Result]] = {}
    for path in sorted(folder.glob(f"*/{setting}/{system}/*.json")):
        if path.stem.isdecimal():
            result, seed = read(path), int(path.stem)
            if seed not in found or _finished(result) > _finished(found[seed][1]):
                found[seed] = path, result
    return found


def _finished(result: Result) -> str:
    return str(result["finished"])


def _kind(result: Result) -> str:
    """Return as text what results of a setting must share to enter one mean."""
    params = {key: value for key, value in result["params"].items() if key not in SEEDS}
    return json.dumps([params, result.get("files"), result["split_digest"], result["data_digest"]], sort_keys=True)
