"""The lineage chain from a file back to the images: which executions made it, from what, and what still matches."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stpp.audit.contents import examine, network_of
from stpp.audit.project import CHANGED, LineageSource, Project
from stpp.params.file import flatten, read_yaml
from stpp.run.lineage import Content, Execution, producer_of
from stpp.store.files import StppError

PERSONS = ("splits", "weights")
"""Folders that a person adds files to, so a change in them is not a contradiction.

The outs of the stages that read these folders hold what was used.
"""
RECORDED = ("train", "train-online", "score", "label", "evaluate")
"""Commands that write a lineage record."""
RECORD = "run.json"
"""Name of the out that holds the record. A record cannot contain its own hash."""
PARAMS = "params.yaml"


@dataclass
class Link:
    """A file or folder in the chain."""

    content: Content
    verdict: str
    """verified, changed or absent."""
    where: str
    """Where the content with this hash was found, or what was found instead."""
    about: str = ""
    """A description of what is in it, for the report."""
    problems: list[str] = field(default_factory=list)
    """Contradictions."""
    made: "Step | None" = None


@dataclass
class Step:
    """An execution in the chain. All links that lead to the same execution share one Step."""

    execution: Execution
    record: LineageSource | None = None
    """The lineage record that the execution itself wrote, if it is known."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    code: list[Link] = field(default_factory=list)
    inputs: list[Link] = field(default_factory=list)
    outs: list[Link] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        """The id of the MLflow run, empty if it is not known."""
        return self.execution.run_id or (self.record.executions[0].run_id if self.record else "")

    @property
    def commit(self) -> str:
        """The commit of the project's repository when the stage ran, empty if it is not known."""
        return self.execution.commit or (self.record.executions[0].commit if self.record else "")


def trace(project: Project, source: LineageSource, content: Content) -> Link:
    """Return the lineage chain behind a file, according to `source`."""
    return _link(project, source, content, "it was made", {})


def _link(project: Project, source: LineageSource, content: Content, since: str, steps: dict[str, Step]) -> Link:
    verdict, where = project.check(content, source.today and content.path not in PERSONS)
    link = Link(content, verdict, where)
    if verdict == CHANGED:
        link.problems.append(f"{content.path}: was changed since {since}: md5 {where}, then {content.md5[:12]}")
    made = producer_of(content.path, source.executions)
    if made is not None and made[1].path == content.path and made[1].md5 != content.md5:
        said = f"{made[0].stage} wrote {made[1].md5[:12]}, but {content.md5[:12]} was used"
        link.problems.append(f"{content.path}: {said}; run `dvc repro`, or check what was edited in {source.name}")
    if made is None and source.today and content.path.startswith("runs/"):
        link.problems.append(f"{content.path}: no stage in {source.name} writes it; was a stage removed there?")
    if made is not None:
        name = made[0].stage
        if name not in steps:
            # If `source` is a record itself, it is the record of its own execution.
            own = source if source.digests and made[0] is source.executions[0] else None
            steps[name] = Step(made[0], own or project.record(made[0], source.today))
            _fill(project, source, steps[name], steps)
        link.made = steps[name]
    return link


def _fill(project: Project, source: LineageSource, step: Step, steps: dict[str, Step]) -> None:
    execution = step.execution
    own = step.record.executions[0] if step.record else None
    sha256 = {(c.path, c.md5): c.sha256 for c in (*own.deps, *own.outs)} if own else {}
    deps, outs = (
        [replace(c, sha256=c.sha256 or sha256.get((c.path, c.md5), "")) for c in contents]
        for contents in (execution.deps, execution.outs)
    )
    for dep in deps:
        since = "it ran" if dep.is_code else f"{execution.stage} read it"
        (step.code if dep.is_code else step.inputs).append(_link(project, source, dep, since, steps))
    for out in outs:
        verdict, where = project.check(out, source.today)
        link = Link(out, verdict, where)
        if verdict == CHANGED:
            link.problems.append(f"{out.path}: is not what {execution.stage} wrote: md5 {where}, then {out.md5[:12]}")
        if ((project.root / out.path).is_dir() and where == "in place") or verdict == CHANGED:
            link.about, problems = examine(project.root / out.path, project.root, parameter_of(source, "data", "root"))
            link.problems += problems
        elif where == "in place" and out.path.endswith(".safetensors"):
            link.about = network_of(project.root / out.path)
        step.outs.append(link)
    if source.today:
        step.problems += _edited_params(project, execution)
        if step.record is not None:
            step.problems += _against_record(step.record, source, execution)
        elif execution.cmd.split()[3:4] and execution.cmd.split()[3] in RECORDED:
            kept = any(Path(out.path).name == RECORD for out in execution.outs)
            why = "its record is not here" if kept else "it has no record (written by an older stpp?)"
            step.notes.append(f"{execution.stage}: {why}, so {source.name} is not compared with it")


def parameter_of(source: LineageSource, section: str, key: str) -> str:
    """Return a parameter, such as data.root, as the first stage that watches it recorded it; empty if none does."""
    for execution in source.executions:
        for params in execution.params.values():
            if isinstance(params.get(section), dict) and key in params[section]:
                return str(params[section][key])
    return ""


def _edited_params(project: Project, execution: Execution) -> list[str]:
    """Return how the params files differ now from what they were when the stage ran."""
    problems = []
    for file, then in execution.params.items():
        try:
            now = json.loads(json.dumps(read_yaml(project.root / file)))
        except StppError as error:
            problems.append(str(error))
            continue
        # A stage watches sections of params.yaml, but a whole overlay.
        watched = then if file == PARAMS else {**dict.fromkeys(now), **then}
        problems += [
            f"{file}: {key} is {present!r}; it was {value!r} when {execution.stage} ran"
            for key, value, present in _differing(watched, now)
        ]
    return problems


def _against_record(record: LineageSource, source: LineageSource, execution: Execution) -> list[str]:
    """Return the contradictions between dvc.lock and the stage's own record of the same execution."""
    own, problems = record.executions[0], list[str]()
    edited = f"in {record.name}, of {execution.stage}; one of the two was edited, or belongs to another run"
    if shlex.split(execution.cmd) != shlex.split(own.cmd):
        problems.append(f"{execution.stage}: ran `{execution.cmd}` in {source.name}, but `{own.cmd}` {edited}")
    for kind in ("deps", "outs"):
        here = {c.path: c.md5 for c in getattr(execution, kind) if Path(c.path).name != RECORD}
        there = {c.path: c.md5 for c in getattr(own, kind)}
        problems += [
            f"{path}: {here.get(path, 'nothing')[:12]} in {source.name}, but {there.get(path, 'nothing')[:12]} {edited}"
            for path in sorted(here.keys() | there.keys())
            if here.get(path) != there.get(path)
        ]
    stages = {one.stage for one in source.executions}
    gone = [one.stage for one in record.executions[1:] if one.stage not in stages]
    problems += [
        f"{stage}: is a stage in {record.name}, but not in {source.name}; was it removed there?" for stage in gone
    ]
    for file, sections in execution.params.items():
        problems += [
            f"{file}: {key} is {value!r} in {source.name}, but {other!r} {edited}"
            for key, value, other in _differing(sections, own.params.get(file, {}))
        ]
    return problems


def _differing(watched: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (dotted key, value, other value) of the parameters in which two files differ.

    A value is None if its file does not have the key. watched: sections, or values under dotted keys. Further keys of
    the other file do not count.
    """
    one, two = flatten(watched), flatten({key: _value(other, key) for key in watched})
    keys = dict.fromkeys((*one, *two))
    return [(key, one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)]


def _value(params: dict[str, Any], key: str) -> Any:
    """Return a value by its dotted key, None if there is none."""
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def steps_of(link: Link) -> Iterator[Step]:
    """Yield every execution of a chain once, the nearest first."""
    seen: set[int] = set()
    open_ = [link]
    while open_:
        step = open_.pop(0).made
        if step is not None and id(step) not in seen:
            seen.add(id(step))
            yield step
            open_ += step.inputs


def problems_of(link: Link) -> list[str]:
    """Return all contradictions in a chain, each once."""
    found = list(link.problems)
    for step in steps_of(link):
        found += step.problems
        for one in (*step.code, *step.inputs, *step.outs):
            found += one.problems
    return list(dict.fromkeys(found))
