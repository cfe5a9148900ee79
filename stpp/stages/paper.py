"""Commands paper plan, run and report: rows and tables of the paper by name, on its data or on one's own."""

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from stpp.files import StppError, digest, read_json, sha256, write_json, write_text
from stpp.paper import results as results_
from stpp.stages import options

if TYPE_CHECKING:
    from stpp.paper.published import Table
    from stpp.params import Params

Name = Annotated[str, Argument(help="Table: table-1 .. table-6, appendix-b, figure-3.")]
Names = Annotated[list[str] | None, Argument(help="Tables; all, if none is named.")]
Cells = Annotated[
    list[str] | None, Option("--cell", help="Only cells SETTING/SYSTEM like this pattern; may be given several times.")
]
Seeds = Annotated[int, Option(min=1, help="Runs of every cell, with train.seed and select.seed 0, 1, ...")]
Own = Annotated[bool, Option("--own", help="The table's systems on the data and setting of params.yaml.")]
Results = Annotated[Path, Option(help="Folder of finished cells, in git.")]


@dataclass(frozen=True)
class Job:
    """One experiment: a setting and a seed, and the systems of it that are still to be run."""

    setting: str
    seed: int
    params: "Params"
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
        from stpp.paper.systems import system

        return list(dict.fromkeys(out for s in self.open for out in system(s).trains))

    @property
    def new(self) -> list[str]:
        """Those of them that are not trained yet."""
        return [out for out in self.trains if out not in self.trained]

    @property
    def targets(self) -> list[str]:
        from stpp.paper.systems import system

        return list(dict.fromkeys(system(s).target for s in self.open))

    def name(self, table: str) -> str:
        """The experiment's: one for every setting, seed, set of parameters and set of systems."""
        code = _git("diff", "HEAD", "--", "stpp", "pipelines", "dvc.yaml")  # what is not committed makes another one
        about = json.dumps([[self.expected[s] for s in self.open], sorted(self.targets), code], sort_keys=True)
        return f"{table}-{self.setting}-seed-{self.seed}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def plan(
    name: Name, cell: Cells = None, seeds: Seeds = 1, own: Own = False, results: Results = results_.FOLDER
) -> None:
    """Show what `stpp paper run` would do: what is there, what would train and how long, and what that takes."""
    _plan(_jobs(name, cell or ["*"], seeds, own, results))


def run(name: Name, cell: Cells = None, seeds: Seeds = 1, own: Own = False, results: Results = results_.FOLDER) -> None:
    """Run a table, one DVC experiment for every setting and seed; interrupted, the same command goes on.

    Every finished cell is a file below results/: metrics, digests, run ids, parameters.
    """
    jobs = _jobs(name, cell or ["*"], seeds, own, results)
    _plan(jobs)
    failed = []
    for job in jobs:
        for system, result in job.known.items():
            write_json(results_.path_of(results, name, job.setting, system, job.seed), result)
        if job.open and not _run(name, job, results):
            failed.append(f"{job.setting}, seed {job.seed}")
    if failed:
        raise StppError(f"{'; '.join(failed)}: did not finish (see above); what is done is kept: run it again to go on")


def report(
    names: Names = None,
    results: Results = results_.FOLDER,
    out: Annotated[Path, Option(help="Folder for the reports.")] = Path("results/report"),
) -> None:
    """Print tables beside the published numbers, and write them as Markdown, CSV and HTML, and to MLflow."""
    from stpp.paper import report as reports
    from stpp.paper.published import TABLES, table
    from stpp.resume import root
    from stpp.tracking import publish

    written = []
    for name in names or TABLES:
        one = table(name)
        found, left_out = results_.of_table(results, name)
        rows, notes = reports.rows(one, found), reports.notes(found, left_out)
        print(reports.text(one.title, rows), *notes[1:], sep="\n", end="\n\n")
        for suffix, text in (
            ("md", reports.markdown(one.title, rows, notes)),
            ("csv", reports.as_csv(rows)),
            ("html", reports.as_html(one.title, rows, notes)),
        ):
            written.append(out / f"{name}.{suffix}")
            write_text(written[-1], text)
    publish("paper", "report", written, root())
    print(f"written to {out}/")


def _jobs(name: str, patterns: list[str], seeds: int, own: bool, results: Path) -> list[Job]:
    from stpp.paper.published import table
    from stpp.paper.systems import SYSTEMS, system

    one, jobs, cells, contents = table(name), list[Job](), list[str](), dict[str, str]()
    for setting, params in _settings(one, own):
        cells += [f"{setting}/{s}" for s in one.systems]
        wanted = [s for s in one.systems if any(fnmatchcase(f"{setting}/{s}", p) for p in patterns)]
        files = _files(params, contents) if wanted else {}
        for seed in range(seeds if wanted else 0):
            seeded = _seeded(params, seed)
            expected = {s: _expected(seeded, files, s) for s in SYSTEMS}
            every = {s: results_.finished(results, setting, s, seed, expected[s]) for s in SYSTEMS}
            done = {s: result for s, result in every.items() if result is not None}
            trained = frozenset(out for s in done for out in system(s).trains)
            known = {s: done[s] for s in wanted if s in done}
            unknown = tuple(s for s in wanted if s not in done)
            jobs.append(Job(setting, seed, seeded, expected, known, unknown, trained))
    if not jobs:
        raise StppError(f"--cell {' '.join(patterns)}: matches none of {', '.join(cells)}")
    return jobs


def _settings(table: "Table", own: bool) -> "Iterator[tuple[str, Params]]":
    from stpp.paper.published import params_of
    from stpp.params import Params
    from stpp.params_file import load

    if own:
        params = load(options.params_files(None))
        parts = ("own", params.data.name, params.split.name, params.model.network, params.model.backbone)
        yield "-".join(parts), params
        return
    for setting in table.settings:
        yield setting.name, Params.model_validate(params_of(setting))


def _seeded(params: "Params", seed: int) -> "Params":
    """The seed is that of training and of a random selection; the split stays."""
    sections = {"train": params.train, "select": params.select}
    return params.model_copy(update={k: v.model_copy(update={"seed": seed}) for k, v in sections.items()})


def _expected(params: "Params", files: results_.Result, name: str) -> results_.Result:
    """What must be equal for a result to stand for a cell: parameters, but for where and how, and all of `_files`."""
    from stpp.paper.systems import system
    from stpp.params_file import overlays_of

    flat = {key: value for key, value in _flat(params).items() if key != "data.root"}
    return {"params": flat, "overlay": overlays_of(system(name).target), **files}


def _files(params: "Params", contents: dict[str, str]) -> results_.Result:
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


def _flat(params: "Params") -> dict[str, Any]:
    from stpp.params_file import flatten

    return flatten(json.loads(params.model_dump_json(exclude={"runtime", "toy"})))


def _plan(jobs: list[Job]) -> None:
    """Say what is there and what will train; how long is measured here, on two iterations of every network."""
    for job in jobs:
        shown = f"{job.setting}, seed {job.seed}: "
        if job.known:
            shown += f"finished: {', '.join(job.known)}. "
        if job.open:
            new = f"{len(job.new)} trainings ({', '.join(job.new)})" if job.new else "nothing to train"
            shown += f"to run: {', '.join(job.open)}, {new}"
            trained = [out for out in job.trains if out in job.trained]
            shown += f"; trained for other cells: {', '.join(trained)}" if trained else ""
        print(shown)
    if any(job.open for job in jobs):
        print(_estimate([job for job in jobs if job.open]), flush=True)


def _estimate(jobs: list[Job]) -> str:
    """Hours of training and GB of checkpoints, as far as the counts of images are known."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from stpp.engine.benchmark import seconds_of_an_iteration, size_of
    from stpp.paper.systems import cost, iterations

    seconds, size, unknown = 0.0, 0, 0
    # In a process of its own, so that no memory of the device is held while the experiments run.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        models = {f"{j.params.model} {j.params.augment.weak} {j.params.train.batch_size}": j.params for j in jobs}
        try:
            speeds = {key: pool.submit(seconds_of_an_iteration, params).result() for key, params in models.items()}
        except (RuntimeError, MemoryError) as error:  # of CUDA, or the process was killed: both for want of memory
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return f"how long cannot be told: two iterations of a network did not run here ({reason})"
    for job in jobs:
        p = job.params
        size += size_of(p.model) * (len(job.new) + (p.train.checkpoints if "runs/teacher" in job.new else 0))
        counts = _counts(job)
        if counts is None:
            unknown += 1
            continue
        speed = speeds[f"{p.model} {p.augment.weak} {p.train.batch_size}"]
        for out in job.new:
            n = iterations(out, *counts, p.train.batch_size, p.train.epochs, p.select.ratio)
            seconds += n * speed * cost(out)
    hours = f"about {seconds / 3600:.1f} h of training on this machine"
    more = f" and {unknown} runs whose number of images is not known yet" if unknown else ""
    return (
        f"{hours}{more} (labelling and evaluation not counted; less where DVC's cache holds it, more where it does "
        f"not hold what was trained for other cells); {size / 1e9:.1f} GB of checkpoints in DVC's cache, "
        "and while a run lasts a copy of its own and of the data"
    )


def _counts(job: Job) -> tuple[int, int] | None:
    """Labelled and unlabelled images: of a published setting, or of the split that is there."""
    from stpp.data.published import LABELED, TRAIN
    from stpp.files import read_ids
    from stpp.paper.published import SETTINGS

    if job.setting in SETTINGS:
        setting = SETTINGS[job.setting]
        labeled = LABELED[setting.data][setting.labels]
        return labeled, TRAIN[setting.data] - labeled
    lists = [Path("runs/split") / f"{name}.txt" for name in ("labeled", "unlabeled")]
    if not all(path.exists() for path in lists):
        return None
    labeled, unlabeled = (len(read_ids(path)) for path in lists)
    return labeled, unlabeled


def _run(table: str, job: Job, results: Path) -> bool:
    """Run one experiment through DVC in a copy of the project, and keep its cells; whether it finished."""
    name, head = job.name(table), _git("rev-parse", "HEAD")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    if not _git("rev-parse", "--verify", "--quiet", ref):  # it may have finished, and the copying of its cells not
        print(f"\n{name}: {' '.join(job.targets)}", flush=True)
        changes = [word for change in _changes(job.params) for word in ("-S", change)]
        if _wait(["dvc", "exp", "run", "--temp", "-n", name, *changes, *job.targets]) != 0:
            return False
    for system in job.open:
        result = _result(ref, head, system, job)
        write_json(results_.path_of(results, table, job.setting, system, job.seed), result)
        print(f"{job.setting}/{system}, seed {job.seed}: {100 * result['metrics']['val'][system]['miou']:.1f}")
    return True


def _wait(command: list[str]) -> int:
    """Run a command to its end, also where Ctrl-C reaches both: DVC removes its copy of the project then."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def _git(*words: str) -> str:
    """What git says; empty where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _changes(params: "Params") -> list[str]:
    """What `dvc exp run -S` has to set so that params.yaml of the experiment means `params`.

    What means the same already is left as it is written: otherwise DVC would take it for another run. A section that
    is to go is set to null as a whole.
    """
    from stpp.params_file import load

    wanted, present = _flat(params), _flat(load(options.params_files(None)))
    different = {key: value for key, value in wanted.items() if key not in present or present[key] != value}
    return [f"++{key}={json.dumps(value)}" for key, value in different.items()]


def _result(ref: str, head: str, name: str, job: Job) -> results_.Result:
    """What a finished cell leaves in git. ref: the experiment's, below the commit `head` that it started from."""
    from stpp.paper.systems import system

    folder = system(name).evaluation
    files = {}
    with tempfile.TemporaryDirectory() as temporary:
        for file in ("metrics.json", "run.json"):
            out = Path(temporary) / file
            words = ["dvc", "get", ".", f"{folder}/{file}", "--rev", _git("rev-parse", ref), "-o", str(out), "-q"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise StppError(f"{ref}: {folder}/{file} could not be read back: {done.stderr.strip()}")
            files[file] = read_json(out)
    metrics, about = files["metrics.json"], files["run.json"]
    return {
        "setting": job.setting,
        "system": name,
        "seed": job.seed,
        "metrics": {which: {name: metrics[which][name]} for which in ("val", "test") if which in metrics},
        "pseudo": metrics.get("pseudo", {}),
        "evaluation": metrics["evaluation"],
        "keep": job.params.train.keep,
        "data_digest": about["stpp.data.digest"],
        "split_digest": about["stpp.split.digest"],
        "mlflow_run": about["run_id"],
        "dvc_experiment": _git("rev-parse", ref),
        "commit": head,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **job.expected[name],
    }
