"""What every stage that computes for long has in common: work that survives a kill, an MLflow run, and run.json."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from stpp.files import digest, read_json, write_json
from stpp.resume import Job, root, run_once
from stpp.tracking import Run, track

if TYPE_CHECKING:
    from stpp.params import Params


def tracked(
    name: str,
    *,
    module: str,
    files: list[Path],
    params: "Params",
    sections: dict[str, Any],
    data: Path,
    split: Path | None,
    inputs: Iterable[Path],
    out: Path,
    outs: Iterable[str],
    work: Callable[[Job, Run], None],
) -> None:
    """Do `work` once under an MLflow run called `name`, then publish `outs` of its folder, and run.json, in `out`.

    files: where `params` were read; the first is the setting, in which systems compare, the others make the system.

    run.json points to the run, and is DVC's out: a stage restored from DVC's cache still names the run that made it.
    """
    from stpp.params_file import load

    tags = {"stpp.data.digest": read_json(data / "dataset.json")["digest"]}
    if split is not None:
        tags["stpp.split.digest"] = split_digest(split)

    def attempt(job: Job) -> None:
        with track(name, job.key, params, load(files[:1]), tags, root(), job.folder / "mlflow_run") as run:
            run.tag("stpp.out", out.as_posix())
            work(job, run)
            about = {
                "stage": name,
                "key": job.key,
                "execution": uuid4().hex,
                "run_id": run.run_id,
                "experiment": params.data.name,
            }
            write_json(job.folder / "run.json", about | tags | {"stpp.setting": run.tags["stpp.setting"]})

    everything = [data, *inputs] if split is None else [data, split, *inputs]
    places = {file: out / file for file in [*outs, "run.json"]}
    job_name = out.as_posix().strip("/").replace("/", "-")
    run_once(job_name, module=module, sections={"name": name, **sections}, inputs=everything, outs=places, work=attempt)


def split_digest(split: Path) -> str:
    """A name for a split's content: 32 characters, of ids, sets and hashes of images and masks."""
    return digest([split / "manifest.csv"])[:32]
