"""The plan for running a table: the experiments, which of them are finished, and how long the others take.

There is one DVC experiment per setting and seed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stpp.ingest.published import LABELED, TRAIN
from stpp.paper import results as results_
from stpp.paper.published import SETTINGS, Table, params_of, table
from stpp.paper.systems import ON_MODEL, SYSTEMS, cost, iterations, system
from stpp.params.file import flatten, load, overlays_of
from stpp.params.models import Model, Params
from stpp.run.git import git
from stpp.run.progress import progress
from stpp.store.files import StppError, digest, read_ids, sha256


@dataclass(frozen=True)
class Job:
    """One experiment: a setting, a seed, and the systems that still have to run."""

    setting: str
    seed: int
    params: Params
    expected: dict[str, results_.Result]
    """By system, the values that a result must hold to belong to this job."""
    known: dict[str, results_.Result]
    """Finished cells by system. A cell may be from another table that has the same cell."""
    open: tuple[str, ...]
    """Systems that still have to run."""
    trained: frozenset[str]
    """Folders of the models behind finished cells of any table. DVC's cache holds those that were trained in this
    checkout."""

    @property
    def trains(self) -> list[str]:
        """Folders of the models behind the open systems, each once."""
        return list(dict.fromkeys(out for s in self.open for out in system(s).trains))

    @property
    def new(self) -> list[str]:
        """Folders in `trains` that are not trained yet."""
        return [out for out in self.trains if out not in self.trained]

    @property
    def targets(self) -> list[str]:
        """Targets of `dvc repro` for the open systems, each once."""
        return list(dict.fromkeys(system(s).target for s in self.open))

    def name(self, table: str) -> str:
        """Return the experiment's name.

        It differs between settings, seeds, parameters, inputs, sets of systems and uncommitted changes of the code.
        """
        code = git("diff", "HEAD", "--", "stpp", "pipelines", "dvc.yaml")  # uncommitted code makes another experiment
        about = json.dumps([[self.expected[s] for s in self.open], sorted(self.targets), code], sort_keys=True)
        return f"{table}-{self.setting}-seed-{self.seed}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def jobs_of(name: str, patterns: list[str], seeds: Iterable[int], own: bool, results: Path) -> list[Job]:
    """Return the experiments of a table's cells SETTING/SYSTEM that match one of the shell-style patterns.

    Finished experiments are included. own: use the data and setting of params.yaml, not those of the table. results:
    folder of finished cells. Raises StppError that names the cells if none matches.
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
    """Yield the name and the parameters of the table's settings, or of params.yaml alone if `own`."""
    if own:
        params = load([Path("params.yaml")])
        parts = ("own", params.data.name, params.split.name, params.model.network, params.model.backbone)
        yield "-".join(parts), params
        return
    for setting in table.settings:
        yield setting.name, Params.model_validate(params_of(setting))


def seeded_with(params: Params, seed: int) -> Params:
    """Return `params` with another seed for training and for random selection. The split stays the same."""
    sections = {"train": params.train, "select": params.select}
    return params.model_copy(update={k: v.model_copy(update={"seed": seed}) for k, v in sections.items()})


def expected_of(params: Params, files: results_.Result, name: str) -> results_.Result:
    """Return the values that a result of a cell must share: parameters, overlay, and `files_of`.

    The parameters are those of `setting_params` without `data.root`. files: the result of `files_of`. name: the system.
    """
    chosen = {key: value for key, value in setting_params(params).items() if key != "data.root"}
    return {"params": chosen, "overlay": overlays_of(system(name).target), **files}


def files_of(params: Params, contents: dict[str, str]) -> results_.Result:
    """Return the identity of the files that a setting reads: hashes of lists and weights, and the data set.

    The data set is identified by the parameters that draw it (kind toy), by the hash of its .dvc file if it was added
    to DVC, or else by a hash over its folder. `contents` caches the hashes of folders.
    """
    subsets = (params.split.labeled, params.split.unlabeled, params.split.val, params.split.test)
    paths = [Path("splits") / subset.list for subset in subsets if subset is not None and subset.list is not None]
    paths += [Path("weights") / model.weights for model in _networks(params).values()]
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


def missing_inputs(params: Params) -> list[str]:
    """Return a message for each file that a setting reads and a run would not find, with the remedy.

    A run works in a copy of the project, which has only what git and DVC track.
    """
    from stpp.models.weights import weight_names

    data, found = params.data, list[str]()
    root = Path(data.root)
    in_project = not root.is_absolute() and ".." not in root.parts
    added = f"`dvc add {root} && git add {root}.dvc`"
    if data.kind != "toy" and not root.is_dir() and not Path(f"{root}.dvc").is_file():
        found.append(f"{root}: data set not found; import it (docs/data.md), then {added}")
    elif data.kind != "toy" and in_project and not _is_copied(root):
        found.append(f"{root}: the data set is not in git or DVC, and a run works in a copy; {added}")
    for name in ("labeled", "unlabeled", "val", "test"):
        subset = getattr(params.split, name)
        if subset is None or subset.list is None:
            continue
        path = Path("splits") / subset.list
        if not path.is_file():
            found.append(f"{path}: list of split.{name} not found; `stpp data lists` imports the published ones")
        elif not _is_copied(path):
            found.append(f"{path}: the list of split.{name} is not in git, and a run works in a copy; `git add splits`")
    for section, model in _networks(params).items():
        path = Path("weights") / model.weights
        added = f"`dvc add {path} && git add {path}.dvc`"
        known = model.weights in weight_names(model.backbone)
        if not known and not path.is_file() and not Path(f"{path}.dvc").is_file():
            found.append(f"{path}: no such file ({section}.weights); use `stpp weights import`, or put it there")
        elif not known and not _is_copied(path):
            found.append(f"{path}: the weights are not in git or DVC, and a run works in a copy; {added}")
    return found


def _networks(params: Params) -> dict[str, Model]:
    """Return the network of the teacher, and that of the students if it is another, by section of params.yaml."""
    return {"model": params.model} | ({"student": params.student} if params.student is not None else {})


def _is_copied(path: Path) -> bool:
    """Return whether a run's copy of the project has a path.

    It has the path if git tracks the path, its .dvc file or that of a folder above it, or if a pipeline makes it (a
    tracked dvc.yaml names it).
    """
    places = [path, *(Path(f"{place}.dvc") for place in (path, *path.parents[:-1]))]
    known = git("ls-files", "--", *map(str, places))
    return bool(known or git("grep", "--cached", "-l", "-F", "-e", str(path), "--", "*dvc.yaml"))


def setting_params(params: Params) -> dict[str, Any]:
    """Return the parameters that make a setting, by dotted name: all but the sections `runtime` and `toy`."""
    return flatten(json.loads(params.model_dump_json(exclude={"runtime", "toy"})))


def estimate(jobs: list[Job]) -> str:
    """Return a text with the hours of training, the GB of memory and the GB of checkpoints that the jobs need.

    It gives no hours if the number of images is not known for each job, or if the measurement fails.
    """
    from stpp.engine.benchmark import memory_of_a_training, seconds_of_an_iteration, size_of

    def key(p: Params) -> str:
        return f"{p.model} {p.augment.weak} {p.train.batch_size} {p.train.accumulate}"

    trainings = [(job, out, _as_trained(job.params, out)) for job in jobs for out in job.new]
    models = {key(params): params for *_, params in trainings}
    memory = max((memory_of_a_training(p) for p in progress(models.values(), "count memory", len(models))), default=0)
    size = sum(
        size_of(params.model) * (1 + (params.train.checkpoints if out == "runs/teacher" else 0))
        for _, out, params in trainings
    )
    disk = (
        f"at least {memory / 1e9:.1f} GB of memory for a training on one device; "
        f"{size / 1e9:.1f} GB of checkpoints in DVC's cache; during a run, also a copy of its own and of the data"
    )
    counted = [(*one, counts) for one in trainings if (counts := _counts(one[0])) is not None]
    if len(counted) < len(trainings):
        return f"training time: unknown until `dvc repro split` has counted the images; {disk}"

    # Measure in another process, so that no memory of the GPU is held while the experiments run.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            speeds = {
                key: pool.submit(seconds_of_an_iteration, params).result()
                for key, params in progress(models.items(), "measure iterations", len(models))
            }
        except (RuntimeError, MemoryError) as error:  # CUDA is out of memory, or the process was killed for lack of it
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return f"training time: unknown, as two iterations of a network failed here ({reason}); {disk}"
    seconds = sum(
        iterations(out, *counts, params.train, params.select.ratio) * cost(out) * speeds[key(params)]
        for _, out, params, counts in counted
    )
    return (
        f"about {seconds / 3600:.1f} h of training on this machine (labelling and evaluation not counted; less if "
        f"DVC's cache holds some of it, more if it lacks models that were trained for other cells); {disk}"
    )


def _as_trained(params: Params, out: str) -> Params:
    """Return parameters whose `model` is the network that a training trains. out: folder of the trained model."""
    return params if out in ON_MODEL or params.student is None else params.model_copy(update={"model": params.student})


def _counts(job: Job) -> tuple[int, int] | None:
    """Return the numbers of labelled and unlabelled images, of the published setting or of the split in runs/split.

    None if there is no such split yet.
    """
    if job.setting in SETTINGS:
        setting = SETTINGS[job.setting]
        labeled = LABELED[setting.data][setting.labels]
        return labeled, TRAIN[setting.data] - labeled
    lists = [Path("runs/split") / f"{name}.txt" for name in ("labeled", "unlabeled")]
    if not all(path.exists() for path in lists):
        return None
    labeled, unlabeled = (len(read_ids(path)) for path in lists)
    return labeled, unlabeled
