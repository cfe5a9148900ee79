"""The common frame of all stages that compute for long: work that survives a kill, an MLflow run, and run.json."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from stpp.params.file import code_deps, load, read_yaml, system_of
from stpp.params.models import Params
from stpp.report.labels import system_label
from stpp.run import distributed, launch
from stpp.run.code import PACKAGE, import_closure, source_path
from stpp.run.git import git
from stpp.run.lineage import Content, Execution, as_json, command, contents_of, read_dvc_locks, upstream
from stpp.run.progress import duration
from stpp.run.resume import Job, open_job, root
from stpp.store.files import write_json
from stpp.store.manifest import split_digest
from stpp.store.records import Digested, read
from stpp.tracking.run import Run, track


@dataclass(frozen=True)
class Recipe:
    """What determines a stage's results besides its inputs: the code and the parameters that count."""

    module: str
    """The stage's own module; the code is this module and the modules of stpp that it imports."""
    watched: tuple[str, ...]
    """The sections of params.yaml that count, as under the stage's `params:` in dvc.yaml."""

    def sections(self, params: Params) -> dict[str, Any]:
        return {name: getattr(params, name).model_dump() for name in self.watched}


@dataclass(frozen=True)
class Inputs:
    """What a stage reads: the data set, the split (or None), and other files and folders."""

    data: Path
    split: Path | None
    others: list[Path]

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.data, self.split, *self.others) if path is not None]

    @property
    def tags(self) -> dict[str, str]:
        """MLflow tags with the digests of data and split, which identify their content."""
        tags = {"stpp.data.digest": read(self.data / "dataset.json", Digested)["digest"]}
        return tags if self.split is None else tags | {"stpp.split.digest": split_digest(self.split)}


@dataclass(frozen=True)
class Stage:
    """A running stage: its parameters, its job, and its MLflow run."""

    name: str
    recipe: Recipe
    files: list[Path]
    """The files that `params` were read from: first the setting, which compared systems share, then the overlays.

    The overlays define the system.
    """
    params: Params
    out: Path
    job: Job
    run: Run
    about: dict[str, Any] = field(default_factory=dict)
    """What the stage adds to run.json."""
    begun: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        """Whether an earlier attempt has done all of the work, so that nothing is left to do."""
        return self.job.finished

    @property
    def folder(self) -> Path:
        """The job's folder, in which the outs are made."""
        return self.job.folder

    def resumed(self, done: int, of: int) -> None:
        """Print how many parts of the work an earlier attempt did; on the main process (rank 0), and if it did any."""
        if done and distributed.is_main():
            print(f"{self.name}: resumed; {done} of {of} parts were done before", flush=True)

    def done(self, what: str, *files: str) -> None:
        """Print the stage's last line: what it did, how long that took, and its folder with the files to look at."""
        took = duration(time.monotonic() - self.begun)
        print(f"{self.name}: {what}; {took}; {self.out.as_posix()} ({', '.join(files)})", flush=True)


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
    """Open a stage: take up its job, track it in an MLflow run called `name`, and publish its outs at the end.

    The work is done once: `finished` of the stage says whether an earlier attempt has done it. At the end, `outs` and
    run.json are copied from the job's folder to `out`.

    If the environment asks for several processes, this starts them with the command line of this process, and exits
    with their exit code.

    also: what determines the results besides inputs and parameters.

    run.json names the MLflow run, and is one of DVC's outs. So a stage that was restored from DVC's cache still names
    the run that made it. run.json also holds the lineage: the command, the parameters, the hashes of inputs and outs,
    and the same of the executions that made the inputs.
    """
    if launch.wanted():
        raise SystemExit(launch.launch(sys.argv[1:]))
    params, tags = load(files), inputs.tags
    job_name = out.as_posix().strip("/").replace("/", "-")
    sections = {"name": name, **recipe.sections(params), **(also or {})}
    places = {file: out / file for file in [*outs, "run.json"]}
    with (
        distributed.process_group(),
        open_job(job_name, module=recipe.module, sections=sections, inputs=inputs.paths, outs=places) as job,
    ):
        run = Run(name, job.key, params, tags, root(), job.folder / "mlflow_run")
        stage = Stage(name, recipe, files, params, out, job, run)
        if job.finished or not distributed.is_main():
            yield stage
            return
        label = {"stpp.label": system_label(system_of(os.environ.get("DVC_STAGE", name)))}
        with track(name, job.key, params, load(files[:1]), tags | label, root(), job.folder / "mlflow_run") as run:
            run.tag("stpp.out", out.as_posix())
            stage = replace(stage, run=run)
            yield stage
            _record(stage, tags, outs)


def _record(stage: Stage, tags: dict[str, str], outs: list[str]) -> None:
    """Write run.json; log it and the hashes of the outs to the MLflow run."""
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
        **stage.about,
        "lineage": _lineage(stage, made),
    }
    write_json(job.folder / "run.json", about)
    for content in made:
        run.tag(f"stpp.out.{Path(content.path).name}", content.sha256)
    run.artifact(job.folder / "run.json")


def _lineage(stage: Stage, made: list[Content]) -> list[dict[str, Any]]:
    """Return the lineage for run.json: this execution of the stage, then the executions that made its inputs."""
    own = Execution(
        stage=stage.run.tags["stpp.dvc.stage"],
        cmd=command(),
        deps=(*stage.job.inputs, *_code(stage)),
        params={file.as_posix(): read_yaml(file) for file in stage.files},
        outs=tuple(made),
        run_id=stage.run.run_id or "",
        commit=git("rev-parse", "HEAD"),
    )
    return as_json([own, *upstream(own.deps, read_dvc_locks(Path()))])


def _code(stage: Stage) -> list[Content]:
    """Return the code that a stage depends on: the files and folders that its dvc.yaml names.

    If DVC does not run the stage, return the files of its modules.
    """
    modules = [source_path(name) for name in sorted(import_closure(stage.recipe.module))]
    named = [PACKAGE.parent / path for path in code_deps(os.environ.get("DVC_STAGE", ""))]
    return contents_of(named or modules, PACKAGE.parent)
