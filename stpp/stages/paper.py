"""Commands paper plan, run and report: rows and tables of the paper by name, on its data or on one's own."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from stpp.files import StppError, read_json, replacing_folder, write_text
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
Seeds = Annotated[int, Option(min=1, help="Runs of every cell, with train.seed 0, 1, ...")]
Own = Annotated[bool, Option("--own", help="The table's systems on the data and setting of params.yaml.")]
Results = Annotated[Path, Option(help="Folder of finished cells, in git.")]


@dataclass(frozen=True)
class Job:
    """One experiment: a setting and a seed, and the systems of it that are still to be run."""

    setting: str
    seed: int
    params: "Params"
    systems: tuple[str, ...]

    def name(self, table: str) -> str:
        return f"{table}-{self.setting}-seed-{self.seed}"


def plan(
    name: Name, cell: Cells = None, seeds: Seeds = 1, own: Own = False, results: Results = results_.FOLDER
) -> None:
    """Show what `stpp paper run` would do: what is there, what would train and how long, and what that takes."""
    _plan(name, _jobs(name, cell or ["*"], seeds, own, results), results, estimate=True)


def run(name: Name, cell: Cells = None, seeds: Seeds = 1, own: Own = False, results: Results = results_.FOLDER) -> None:
    """Run a table, one DVC experiment for every setting and seed; interrupted, the same command goes on.

    Every finished cell is a file below results/: metrics, digests, run ids, parameters.
    """
    jobs = _jobs(name, cell or ["*"], seeds, own, results)
    _plan(name, jobs, results, estimate=True)
    failed = [job.name(name) for job in jobs if job.systems and not _run(name, job, results)]
    if failed:
        raise StppError(f"{', '.join(failed)}: did not finish (see above); what is done is kept: run it again to go on")


def report(
    names: Names = None,
    results: Results = results_.FOLDER,
    out: Annotated[Path, Option(help="Folder for the reports; replaced whole.")] = Path("results/report"),
) -> None:
    """Print tables beside the published numbers, and write them as Markdown, CSV and HTML, and to MLflow."""
    from stpp.paper import report as reports
    from stpp.paper.published import TABLES, table
    from stpp.resume import root
    from stpp.tracking import publish

    with replacing_folder(out) as partial:
        for name in names or TABLES:
            one, found = table(name), results_.of_table(results, name)
            title = f"{name.replace('-', ' ').capitalize()}: {one.title}"
            rows, notes = reports.rows(one, found), reports.notes(found)
            print(reports.text(title, rows), end="\n\n")
            write_text(partial / f"{name}.md", reports.markdown(title, rows, notes))
            write_text(partial / f"{name}.csv", reports.as_csv(rows))
            write_text(partial / f"{name}.html", reports.as_html(title, rows, notes))
    publish("paper", "report", sorted(out.glob("*")), root())
    print(f"written to {out}/")


def _jobs(name: str, patterns: list[str], seeds: int, own: bool, results: Path) -> list[Job]:
    from stpp.paper.published import table

    one = table(name)
    jobs = []
    matched = False
    for setting, params in _settings(one, own):
        wanted = [s for s in one.systems if any(fnmatchcase(f"{setting}/{s}", p) for p in patterns)]
        matched = matched or bool(wanted)
        for seed in range(seeds):
            seeded = _seeded(params, seed)
            known = _comparable(seeded)
            open_ = []
            for system in wanted:
                done = results_.finished(results, setting, system, seed, known)
                if done is None:
                    open_.append(system)
                else:  # perhaps in another table, which holds the same cell
                    results_.write(results_.path_of(results, name, setting, system, seed), done)
            jobs.append(Job(setting, seed, seeded, tuple(open_)))
    if not matched:
        every = [f"{setting}/{s}" for setting, _ in _settings(one, own) for s in one.systems]
        raise StppError(f"--cell {' '.join(patterns)}: matches none of {', '.join(every)}")
    return [job for job in jobs if any(fnmatchcase(f"{job.setting}/{s}", p) for s in one.systems for p in patterns)]


def _settings(table: "Table", own: bool) -> "Iterator[tuple[str, Params]]":
    from stpp.paper.published import params_of
    from stpp.params import Params, load

    if own:
        params = load(options.params_files(None))
        yield f"{params.data.name}-{params.split.name}-{params.model.network}-{params.model.backbone}", params
        return
    for setting in table.settings:
        yield setting.name, Params.model_validate(params_of(setting))


def _seeded(params: "Params", seed: int) -> "Params":
    return params.model_copy(update={"train": params.train.model_copy(update={"seed": seed})})


def _comparable(params: "Params") -> dict[str, Any]:
    """What must be equal for a result to stand for a cell: all parameters but where the data lies and how it is run."""
    from stpp.params import flatten

    flat = flatten(json.loads(params.model_dump_json(exclude={"runtime", "toy"})))
    return {key: value for key, value in flat.items() if key != "data.root"}


def _plan(name: str, jobs: list[Job], results: Path, estimate: bool) -> None:
    """Say what is there and what will train; how long is measured here, on two iterations of every network."""
    from stpp.paper.systems import system

    for job in jobs:
        if not job.systems:
            print(f"{job.name(name)}: finished")
            continue
        trains = dict.fromkeys(out for s in job.systems for out in system(s).trains)
        print(f"{job.name(name)}: {', '.join(job.systems)}: {len(trains)} trainings ({', '.join(trains)})")
    if estimate and any(job.systems for job in jobs):
        print(_estimate(jobs), flush=True)


def _estimate(jobs: list[Job]) -> str:
    """Hours of training and GB of checkpoints, as far as the counts of images are known."""
    from stpp.engine.benchmark import seconds_of_an_iteration, size_of
    from stpp.paper.systems import iterations, system

    seconds, size, unknown = 0.0, 0, 0
    speeds: dict[str, tuple[float, int]] = {}
    for job in jobs:
        if not job.systems:
            continue
        p = job.params
        key = f"{p.model} {p.augment.weak.crop} {p.train.batch_size}"
        if key not in speeds:
            speeds[key] = seconds_of_an_iteration(p), size_of(p.model)
        counts = _counts(job)
        trains = dict.fromkeys(out for s in job.systems for out in system(s).trains)
        kept = len(trains) + (p.train.checkpoints if "runs/teacher" in trains else 0)
        size += speeds[key][1] * kept * 2  # in the workspace's .stpp until recorded, and in DVC's cache
        if counts is None:
            unknown += 1
            continue
        labeled, unlabeled = counts
        for out in trains:
            n = iterations(out, labeled, unlabeled, p.train.batch_size, p.train.epochs, p.select.ratio)
            seconds += n * speeds[key][0]
    hours = f"about {seconds / 3600:.1f} h of training on this machine"
    more = f" and {unknown} runs whose number of images is not known yet" if unknown else ""
    return f"{hours}{more} (without labelling and evaluation); at most {size / 1e9:.1f} GB of checkpoints"


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
    from stpp.paper.systems import system

    targets = dict.fromkeys(system(s).target for s in job.systems)
    changes = [word for change in _changes(job.params) for word in ("-S", change)]
    name = job.name(table)
    print(f"\n{name}: {' '.join(targets)}", flush=True)
    done = subprocess.run(["dvc", "exp", "run", "--temp", "--force", "-n", name, *changes, *targets], check=False)
    if done.returncode == 0:
        for s in job.systems:
            result = _result(name, s, job)
            results_.write(results_.path_of(results, table, job.setting, s, job.seed), result)
            print(f"{job.setting}/{s}, seed {job.seed}: {100 * result['metrics']['val'][s]['miou']:.1f}")
    return done.returncode == 0


def _changes(params: "Params") -> list[str]:
    """What `dvc exp run -S` has to remove and set so that params.yaml of the experiment means `params`.

    What means the same already is left as it is written: otherwise DVC would take it for another run.
    """
    from stpp.params import flatten, load, read_yaml

    def flat(of: "Params") -> dict[str, Any]:
        return flatten(json.loads(of.model_dump_json(exclude={"runtime", "toy"})))

    file = options.params_files(None)
    wanted, present, written = flat(params), flat(load(file)), flatten(read_yaml(file[0]))
    removed = [f"~{key}" for key in present if key not in wanted and key in written]
    different = {key: value for key, value in wanted.items() if key not in present or present[key] != value}
    return removed + [f"++{key}={json.dumps(value)}" for key, value in different.items()]


def _result(experiment: str, name: str, job: Job) -> dict[str, Any]:
    """What a finished cell leaves in git."""
    from stpp.paper.systems import system

    folder = system(name).evaluation
    with tempfile.TemporaryDirectory() as temporary:
        files = {}
        for file in ("metrics.json", "run.json"):
            out = Path(temporary) / file
            words = ["dvc", "get", ".", f"{folder}/{file}", "--rev", experiment, "-o", str(out), "-q"]
            subprocess.run(words, check=True)
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
        "dvc_experiment": experiment,
        "params": _comparable(job.params),
    }
