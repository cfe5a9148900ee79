"""Comparison of two evaluated runs: the differences in their inputs, and the differences in their results."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from stpp.params.file import flatten
from stpp.report.labels import LABELS
from stpp.run.lineage import Execution

NONE = "-"
WIDEST = 28
"""The most characters of a column's name that is made of parameters."""


@dataclass
class Evaluated:
    """An evaluated run: its inputs, and the scores of its final model. Unknown fields are empty."""

    name: str
    model: str
    miou: dict[str, float]
    """mIoU (%) by set."""
    classes: dict[str, dict[str, float]]
    """IoU (%) by set and class; NaN if no true and no predicted pixel has the class."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of data and split, and of the images that each set was measured on."""
    executions: list[Execution] = field(default_factory=list)
    """The lineage: executions of all stages behind the run, its own first."""

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of all stages behind the run, by `file: dotted key`."""
        return {
            f"{file}: {key}": value
            for execution in reversed(self.executions)
            for file, sections in execution.params.items()
            for key, value in flatten(sections or {}).items()
        }

    @property
    def code(self) -> dict[str, str]:
        """md5 of all code behind the run, by path."""
        return {dep.path: dep.md5 for execution in reversed(self.executions) for dep in execution.deps if dep.is_code}


def differences(one: Evaluated, other: Evaluated) -> list[str]:
    """Return lines that say in which parameters, code, data and split two runs differ."""
    lines = []
    if not one.executions or not other.executions:
        unknown = " and ".join(run.name for run in (one, other) if not run.executions)
        lines.append(f"parameters and code of {unknown} are not known (no run.json with a lineage beside metrics.json)")
    else:
        lines += _changed("parameters", one.params, other.params, whole=True)
        lines += _changed("code", one.code, other.code, whole=False)
    return [*lines, *_changed("data and split", one.digests, other.digests, whole=False)]


def _changed(what: str, one: dict[str, Any], other: dict[str, Any], whole: bool) -> list[str]:
    """Return a line that counts the differences, and one line for each key that differs.

    whole: show each value in full, not only its first 12 characters.
    """
    keys = _differing(one, other)
    if not keys:
        return [f"{what}: equal"]
    shown = [f"  {key}: {_short(one.get(key, NONE), whole)} -> {_short(other.get(key, NONE), whole)}" for key in keys]
    return [f"{what}: {len(keys)} differ", *shown]


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(key for key in {*one, *other} if one.get(key, NONE) != other.get(key, NONE))


def _short(value: Any, whole: bool) -> str:
    return str(value) if whole else str(value)[:12]


def table(one: Evaluated, other: Evaluated) -> str:
    """Return a table of mIoU by set, each with the IoU of its classes, in %, of two runs with their difference."""
    head = ("", *_columns(one, other), "difference")
    rows = [head]
    for name in dict.fromkeys((*one.miou, *other.miou)):
        rows.append(_row(f"{name} mIoU", one.miou.get(name), other.miou.get(name)))
        first, second = one.classes.get(name, {}), other.classes.get(name, {})
        rows += [_row(f"  {c}", first.get(c), second.get(c)) for c in dict.fromkeys((*first, *second))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _columns(one: Evaluated, other: Evaluated) -> tuple[str, str]:
    """Return names for two runs: of their models, else one or two parameters that differ, else of the runs."""
    models = LABELS.get(one.model, one.model), LABELS.get(other.model, other.model)
    if models[0] != models[1]:
        return models
    keys = _differing(one.params, other.params)
    first, second = (
        ", ".join(f"{re.split('[.: ]', key)[-1]} {run.params.get(key, NONE)}" for key in keys) for run in (one, other)
    )
    few = 1 <= len(keys) <= 2 and len(first) <= WIDEST and len(second) <= WIDEST and one.executions and other.executions
    return (first, second) if few else (one.name, other.name)


def _row(name: str, one: float | None, other: float | None) -> tuple[str, str, str, str]:
    def shown(value: float | None) -> str:
        return NONE if value is None or math.isnan(value) else f"{value:.1f}"

    known = NONE not in (shown(one), shown(other))
    return name, shown(one), shown(other), f"{(other or 0) - (one or 0):+z.1f}" if known else NONE
