"""What it takes to run a table: an experiment a setting and seed, what is finished, and how long the rest is."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stpp.ingest.published import LABELED, TRAIN
from stpp.paper import results as results_
from stpp.paper.published import SETTINGS, Table, params_of, table
from stpp.paper.systems import SYSTEMS, cost, iterations, system
from stpp.params.file import flatten, load, overlays_of
from stpp.params.models import Params
from stpp.run.git import git
from stpp.run.progress import progress
from stpp.store.files import StppError, digest, read_ids, sha256


@dataclass(frozen=True)
class Job:
    """One experiment: a setting and a seed, and the systems of it that are still to be run."""

    setting: str
    seed: int
    params: Params
    expected: dict[str, results_.Result]
    """By system, what a result must hold to be of this job."""
    known: dict[str, results_.Result]
    """Finished cells by system, perhaps of another table, which holds the same."""
    open: tuple[str, ...]
    trained: frozenset[str]
    """Folders of the models behind finished cells of any table: they are in DVC's cache, if they were trained here."""

    @property
    def trains(self) -> list[str]:
        """Folders of the models behind what is open, each once."""
        return list(dict.fromkeys(out for s in self.open for out in system(s).trains))

    @property
    def new(self) -> list[str]:
        """Those of them that are not trained yet."""
        return [out for out in self.trains if out not in self.trained]

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(system(s).target for s in self.open))

    def name(self, table: str) -> str:
        """The experiment's: one for every setting, seed, set of parameters and set of systems."""
        code = git("diff", "HEAD", "--", "stpp", "pipelines", "dvc.yaml")  # what is not committed makes another one
        about = json.dumps([[self.expected[s] for s in self.open], sorted(self.targets), code], sort_keys=True)
        return f"{table}-{self.setting}-seed-{self.seed}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def jobs_of(name: str, patterns: list[str], seeds: Iterable[int], own: bool, results: Path) -> list[Job]:
    """The experiments of a table's cells SETTING/SYSTEM that are like one of the patterns, run or not.

    own: on the data and setting of params.yaml. Raises StppError naming the cells if none is like them.
    """
    one, jobs, cells, contents = table(name), list[Job](), list[str](), dict[str, str]()
    for setting, params in _settings(one, own):
        cells += [f"{setting}/{s}" for s in one.systems]
        wanted = [s for s in one.systems if any(fnmatchcase(f"{setting}/{s}", p) for p in patterns)]
        files = files_of(params, contents) if wanted else {}
        for seed in sorted(set(seeds)) if wanted else ():
            seeded = seeded_with(params, seed)
            expected = {s: expected_of(seeded, files, s) for s in SYSTEMS}
            every = {s: results_.finished(results, setting, s, seed, expected[s]) for s in SYSTEMS}
            done = {s: result for s, result in every.items() if result is not None}
            trained = frozenset(out for s in done for out in system(s).trains)
            known = {s: done[s] for s in wanted if s in done}
            unknown = tuple(s for s in wanted if s not in done)
            jobs.append(Job(setting, seed, seeded, expected, known, unknown, trained))
    if not jobs:
        raise StppError(f"--cell {' '.join(patterns)}: matches none of {', '.join(cells)}")
    return jobs


def _settings(table: Table, own: bool) -> Iterator[tuple[str, Params]]:
    if own:
        params = load([Path("params.yaml")])
        parts = ("own", params.data.name, params.split.name, params.model.network, params.model.backbone)
        yield "-".join(parts), params
        return
    for setting in table.settings:
        yield setting.name, Params.model_validate(params_of(setting))


def seeded_with(params: Params, seed: int) -> Params:
    """The seed is that of training and of a random selection; the split stays."""
    sections = {"train": params.train, "select": params.select}
    return params.model_copy(update={k: v.model_copy(update={"seed": seed}) for k, v in sections.items()})


def expected_of(params: Params, files: results_.Result, name: str) -> results_.Result:
    """What a result of a cell must be equal in: parameters but for where and how, overlay, and `files_of`."""
    chosen = {key: value for key, value in flat(params).items() if key != "data.root"}
    return {"params": chosen, "overlay": overlays_of(system(name).target), **files}


def files_of(params: Params, contents: dict[str, str]) -> results_.Result:
    """What a setting reads besides parameters: lists and weights by their hashes, and the data set.

    The data is known by what draws it, by DVC's own hash where it was added, or else by the content of its folder,
    which `contents` remembers.
    """
    subsets = (params.split.labeled, params.split.unlabeled, params.split.val, params.split.test)
    paths = [Path("splits") / subset.list for subset in subsets if subset is not None and subset.list is not None]
    paths.append(Path("weights") / params.model.weights)
    root = Path(params.data.root)
    added = Path(f"{root}.dvc")
    if params.data.kind == "toy":
        data = json.loads(params.toy.model_dump_json())
    elif added.is_file():
        data = {"dvc": sha256(added)}
    else:
        if params.data.root not in contents:
            contents[params.data.root] = digest([root]) if root.is_dir() else ""
        data = {"sha256": contents[params.data.root]}
    return {"files": {path.as_posix(): sha256(path) for path in paths if path.is_file()}, "data": data}


def missing(params: Params) -> list[str]:
    """What a setting reads and a run of it would not find, each with what brings it.

    A run works in a copy of the project, which has what git and DVC know of, and nothing else.
    """
    from stpp.models.weights import named

    data, weights, found = params.data, params.model.weights, []
    root = Path(data.root)
    in_project = not root.is_absolute() and ".." not in root.parts
    added = f"`dvc add {root} && git add {root}.dvc`"
    if data.kind != "toy" and not root.is_dir() and not Path(f"{root}.dvc").is_file():
        found.append(f"{root}: the data set; docs/data.md says how it gets there, then {added}")
    elif data.kind != "toy" and in_project and not _is_copied(root):
        found.append(f"{root}: the data set is not in git or DVC, and a run works in a copy: {added}")
    for name in ("labeled", "unlabeled", "val", "test"):
        subset = getattr(params.split, name)
        if subset is None or subset.list is None:
            continue
        path = Path("splits") / subset.list
        if not path.is_file():
            found.append(f"{path}: the list of split.{name}; `stpp data lists` takes over the published ones")
        elif not _is_copied(path):
            found.append(f"{path}: the list of split.{name} is not in git, and a run works in a copy: `git add splits`")
    path = Path("weights") / weights
    added = f"`dvc add {path} && git add {path}.dvc`"
    known = weights in named(params.model.backbone)
    if not known and not path.is_file() and not Path(f"{path}.dvc").is_file():
        found.append(f"{path}: the start of the network (model.weights); `stpp weights import`, or put it there")
    elif not known and not _is_copied(path):
        found.append(f"{path}: the start of the network is not in git or DVC, and a run works in a copy: {added}")
    return found


def _is_copied(path: Path) -> bool:
    """Whether git holds a path, or the .dvc file of it or of a folder above it, or a pipeline that makes it."""
    places = [path, *(Path(f"{place}.dvc") for place in (path, *path.parents[:-1]))]
    known = git("ls-files", "--", *map(str, places))
    return bool(known or git("grep", "--cached", "-l", "-F", "-e", str(path), "--", "*dvc.yaml"))


def flat(params: Params) -> dict[str, Any]:
    """The parameters that make a setting, by dotted name."""
    return flatten(json.loads(params.model_dump_json(exclude={"runtime", "toy"})))


def estimate(jobs: list[Job]) -> str:
    """Hours of training and GB of checkpoints, as far as the counts of images are known."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from stpp.engine.benchmark import seconds_of_an_iteration, size_of

    size = sum(
        size_of(job.params.model) * (len(job.new) + (job.params.train.checkpoints if "runs/teacher" in job.new else 0))
        for job in jobs
    )
    disk = f"{size / 1e9:.1f} GB of checkpoints in DVC's cache, and while a run lasts a copy of its own and of the data"
    counted = [(job, counts) for job in jobs if (counts := _counts(job)) is not None]
    if len(counted) < len(jobs):
        return f"how long is told here once `dvc repro split` has counted the images; {disk}"

    def key(p: Params) -> str:
        return f"{p.model} {p.augment.weak} {p.train.batch_size}"

    # In a process of its own, so that no memory of the device is held while the experiments run.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            models = {key(job.params): job.params for job in jobs}
            speeds = {
                key: pool.submit(seconds_of_an_iteration, params).result()
                for key, params in progress(models.items(), "measure iterations", len(models))
            }
        except (RuntimeError, MemoryError) as error:  # of CUDA, or the process was killed: both for want of memory
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return f"how long cannot be told: two iterations of a network did not run here ({reason}); {disk}"
    seconds = sum(
        iterations(out, *counts, job.params.train, job.params.select.ratio) * cost(out) * speeds[key(job.params)]
        for job, counts in counted
        for out in job.new
    )
    return (
        f"about {seconds / 3600:.1f} h of training on this machine (labelling and evaluation not counted; less where "
        f"DVC's cache holds it, more where it does not hold what was trained for other cells); {disk}"
    )


def _counts(job: Job) -> tuple[int, int] | None:
    """Labelled and unlabelled images: of a published setting, or of the split that is there."""
    if job.setting in SETTINGS:
        setting = SETTINGS[job.setting]
        labeled = LABELED[setting.data][setting.labels]
        return labeled, TRAIN[setting.data] - labeled
    lists = [Path("runs/split") / f"{name}.txt" for name in ("labeled", "unlabeled")]
    if not all(path.exists() for path in lists):
        return None
    labeled, unlabeled = (len(read_ids(path)) for path in lists)
    return labeled, unlabeled
