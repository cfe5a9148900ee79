"""What every stage that computes for long has in common: work that survives a kill, an MLflow run, and run.json."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from stpp.params.file import load, read_yaml
from stpp.params.models import Params
from stpp.run import distributed, launch
from stpp.run.code import PACKAGE, closure, source
from stpp.run.git import git
from stpp.run.lineage import Content, Execution, as_json, behind, command, contents_of, locked_now
from stpp.run.resume import Job, root, run_once
from stpp.store.files import write_json
from stpp.store.manifest import split_digest
from stpp.store.records import Digested, read
from stpp.tracking.run import Run, track


def tracked(
    name: str,
    *,
    module: str,
    files: list[Path],
    params: Params,
    sections: dict[str, Any],
    data: Path,
    split: Path | None,
    inputs: Iterable[Path],
    out: Path,
    outs: list[str],
    work: Callable[[Job, Run], None],
) -> None:
    """Do `work` once under an MLflow run called `name`, then publish `outs` of its folder, and run.json, in `out`.

    Where several processes are asked for, they are started here, with the command line of this one.

    files: where `params` were read; the first is the setting, in which systems compare, the others make the system.

    run.json points to the run, and is DVC's out: a stage restored from DVC's cache still names the run that made it. It
    holds the run's lineage as well: its command, parameters, and hashes of what went in and came out, and those of
    what is behind it.
    """
    if launch.wanted():
        if code := launch.launch(sys.argv[1:]):
            raise SystemExit(code)
        return

    tags = {"stpp.data.digest": read(data / "dataset.json", Digested)["digest"]}
    if split is not None:
        tags["stpp.split.digest"] = split_digest(split)

    everything = [data, *inputs] if split is None else [data, split, *inputs]

    def attempt(job: Job) -> None:
        if not distributed.first():
            work(job, Run(name, job.key, params, tags, root(), job.folder / "mlflow_run"))
            return
        with track(name, job.key, params, load(files[:1]), tags, root(), job.folder / "mlflow_run") as run:
            run.tag("stpp.out", out.as_posix())
            work(job, run)
            about: dict[str, Any] = {
                "stage": name,
                "key": job.key,
                "execution": uuid4().hex,
                "run_id": run.run_id,
                "experiment": params.data.name,
            }
            found = contents_of([job.folder / name for name in outs], job.folder)
            made = [replace(content, path=(out / content.path).as_posix()) for content in found]
            about |= tags | {"stpp.setting": run.tags["stpp.setting"]}
            about["lineage"] = _lineage(run, module, files, job.inputs, made)
            write_json(job.folder / "run.json", about)
            for content in made:
                run.tag(f"stpp.out.{Path(content.path).name}", content.sha256)
            run.artifact(job.folder / "run.json")

    places = {file: out / file for file in [*outs, "run.json"]}
    job_name = out.as_posix().strip("/").replace("/", "-")
    with distributed.processes():
        run_once(
            job_name, module=module, sections={"name": name, **sections}, inputs=everything, outs=places, work=attempt
        )


def _lineage(
    run: Run, module: str, files: list[Path], inputs: tuple[Content, ...], made: list[Content]
) -> list[dict[str, Any]]:
    """This execution of a stage, and those behind it."""
    own = Execution(
        stage=run.tags["stpp.dvc.stage"],
        cmd=command(),
        deps=(*inputs, *_code(module)),
        params={file.as_posix(): read_yaml(file) for file in files},
        outs=tuple(made),
        run_id=run.run_id or "",
        commit=git("rev-parse", "HEAD"),
    )
    return as_json([own, *behind(own.deps, locked_now(Path()))])


def _code(module: str) -> list[Content]:
    """The code behind a stage, under the names that a dvc.yaml has for it."""
    return contents_of([source(name) for name in sorted(closure(module))], PACKAGE.parent)
