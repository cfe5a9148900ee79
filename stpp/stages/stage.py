"""What every stage that computes for long has in common: work that survives a kill, an MLflow run, and run.json."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from stpp.params.file import code_deps, load, read_yaml
from stpp.params.models import Params
from stpp.run import distributed, launch
from stpp.run.code import PACKAGE, closure, source
from stpp.run.git import git
from stpp.run.lineage import Content, Execution, as_json, behind, command, contents_of, locked_now
from stpp.run.resume import Job, job_of, root
from stpp.store.files import write_json
from stpp.store.manifest import split_digest
from stpp.store.records import Digested, read
from stpp.tracking.run import Run, track


@dataclass(frozen=True)
class Recipe:
    """How a stage comes from its inputs to its results: the code and the parameters that count."""

    module: str
    """The stage's own, whose imports are the code."""
    watched: tuple[str, ...]
    """Sections of params.yaml, as in the stage's `params:` of dvc.yaml."""

    def sections(self, params: Params) -> dict[str, Any]:
        return {name: getattr(params, name).model_dump() for name in self.watched}


@dataclass(frozen=True)
class Inputs:
    """What a stage reads: the data set, perhaps the split, and files and folders besides."""

    data: Path
    split: Path | None
    others: list[Path]

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.data, self.split, *self.others) if path is not None]

    @property
    def tags(self) -> dict[str, str]:
        """What names the content of data and split."""
        tags = {"stpp.data.digest": read(self.data / "dataset.json", Digested)["digest"]}
        return tags if self.split is None else tags | {"stpp.split.digest": split_digest(self.split)}


@dataclass(frozen=True)
class Stage:
    """A stage at work."""

    name: str
    recipe: Recipe
    files: list[Path]
    """Where `params` were read; the first is the setting, in which systems compare, the others make the system."""
    params: Params
    out: Path
    job: Job
    run: Run

    @property
    def finished(self) -> bool:
        """Whether an earlier attempt has done all of the work: there is nothing left to do."""
        return self.job.finished

    @property
    def folder(self) -> Path:
        """Where its outs are made."""
        return self.job.folder


@contextmanager
def open_stage(
    name: str,
    recipe: Recipe,
    files: list[Path],
    inputs: Inputs,
    *,
    out: Path,
    outs: list[str],
    also: Mapping[str, Any] | None = None,
) -> Iterator[Stage]:
    """Work under an MLflow run called `name`, once; at the end `outs` of its folder, and run.json, go to `out`.

    Where several processes are asked for, they are started here, with the command line of this one.

    also: what counts besides inputs and parameters.

    run.json points to the run, and is DVC's out: a stage restored from DVC's cache still names the run that made it. It
    holds the run's lineage as well: its command, parameters, and hashes of what went in and came out, and those of
    what is behind it.
    """
    if launch.wanted():
        raise SystemExit(launch.launch(sys.argv[1:]))
    params, tags = load(files), inputs.tags
    job_name = out.as_posix().strip("/").replace("/", "-")
    sections = {"name": name, **recipe.sections(params), **(also or {})}
    places = {file: out / file for file in [*outs, "run.json"]}
    with (
        distributed.process_group(),
        job_of(job_name, module=recipe.module, sections=sections, inputs=inputs.paths, outs=places) as job,
    ):
        run = Run(name, job.key, params, tags, root(), job.folder / "mlflow_run")
        stage = Stage(name, recipe, files, params, out, job, run)
        if job.finished or not distributed.is_main():
            yield stage
            return
        with track(name, job.key, params, load(files[:1]), tags, root(), job.folder / "mlflow_run") as run:
            run.tag("stpp.out", out.as_posix())
            stage = replace(stage, run=run)
            yield stage
            _record(stage, tags, outs)


def _record(stage: Stage, tags: dict[str, str], outs: list[str]) -> None:
    """Write run.json."""
    job, run = stage.job, stage.run
    found = contents_of([job.folder / name for name in outs], job.folder)
    made = [replace(content, path=(stage.out / content.path).as_posix()) for content in found]
    about = {
        "stage": stage.name,
        "key": job.key,
        "execution": uuid4().hex,
        "run_id": run.run_id,
        "experiment": stage.params.data.name,
        **tags,
        "stpp.setting": run.tags["stpp.setting"],
        "lineage": _lineage(stage, made),
    }
    write_json(job.folder / "run.json", about)
    for content in made:
        run.tag(f"stpp.out.{Path(content.path).name}", content.sha256)
    run.artifact(job.folder / "run.json")


def _lineage(stage: Stage, made: list[Content]) -> list[dict[str, Any]]:
    """This execution of a stage, and those behind it."""
    own = Execution(
        stage=stage.run.tags["stpp.dvc.stage"],
        cmd=command(),
        deps=(*stage.job.inputs, *_code(stage)),
        params={file.as_posix(): read_yaml(file) for file in stage.files},
        outs=tuple(made),
        run_id=stage.run.run_id or "",
        commit=git("rev-parse", "HEAD"),
    )
    return as_json([own, *behind(own.deps, locked_now(Path()))])


def _code(stage: Stage) -> list[Content]:
    """The code behind a stage, under the names that the stage's dvc.yaml has for it; by modules where DVC runs none."""
    modules = [source(name) for name in sorted(closure(stage.recipe.module))]
    named = [PACKAGE.parent / path for path in code_deps(os.environ.get("DVC_STAGE", ""))]
    return contents_of(named or modules, PACKAGE.parent)
