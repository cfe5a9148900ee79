"""The commands `paper plan`, `run` and `report`: run the paper's tables by name, on its data or on your own."""

import json
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from stpp.paper import report as reports
from stpp.paper import results as results_
from stpp.paper.evidence import numbers_of
from stpp.paper.plan import Job, estimate, jobs_of, missing_inputs, setting_params
from stpp.paper.published import TABLES, table
from stpp.paper.results import Result
from stpp.paper.systems import system
from stpp.params.file import load
from stpp.params.models import Params
from stpp.run.git import git
from stpp.run.pipelines import using
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import StppError, raise_problems, read_json, write_json, write_text
from stpp.tracking.attach import publish

FOLDER = Path("results")

Name = Annotated[str, Argument(help="Table: table-1 .. table-6, appendix-b, figure-3.")]
Names = Annotated[list[str] | None, Argument(help="Tables (default: all).")]
Cells = Annotated[
    list[str] | None,
    Option("--cell", help="Only cells SETTING/SYSTEM that match this pattern; may be given several times."),
]
Seeds = Annotated[int, Option(min=1, help="Runs of every cell, with train.seed and select.seed 0, 1, ...")]
Seed = Annotated[
    list[int] | None, Option("--seed", min=0, help="Only this seed, instead of --seeds; may be given several times.")
]
Own = Annotated[bool, Option("--own", help="Use the data and setting of params.yaml instead of the table's.")]
Results = Annotated[Path, Option(help="Folder of finished cells, kept in git.")]


def plan(
    name: Name, cell: Cells = None, seeds: Seeds = 1, seed: Seed = None, own: Own = False, results: Results = FOLDER
) -> None:
    """Show what `stpp paper run` would do, and how long it would take.

    The time is estimated from a few measured iterations of every network.
    Missing inputs are listed, too.
    """
    jobs = jobs_of(name, cell or ["*"], seed or range(seeds), own, results)
    _plan(jobs)
    for problem in _missing(jobs):
        print(f"missing: {problem}")


def run(
    name: Name, cell: Cells = None, seeds: Seeds = 1, seed: Seed = None, own: Own = False, results: Results = FOLDER
) -> None:
    """Run a table: one DVC experiment for every setting and seed.

    After an interruption, run the same command again to go on. Every finished
    cell is one file below results/, with its metrics, digests, run ids and
    parameters.
    """
    if not git("rev-parse", "HEAD"):
        raise StppError(
            "the project has no commit, from which DVC experiments start; run `git add . && git commit` first"
        )
    jobs = jobs_of(name, cell or ["*"], seed or range(seeds), own, results)
    raise_problems(_missing(jobs), "missing, needed before anything is run")
    _plan(jobs)
    failed = []
    for job in jobs:
        for one, result in job.known.items():
            write_json(results_.path_of(results, name, job.setting, one, job.seed), result)
        if job.open and not _run(name, job, results):
            failed.append(f"{job.setting}, seed {job.seed}")
    if failed:
        raise StppError(
            f"{'; '.join(failed)}: not finished (see above); finished work is kept; run it again to continue"
        )


def report(
    names: Names = None,
    results: Results = FOLDER,
    out: Annotated[Path, Option(help="Folder for the reports.")] = Path("results/report"),
) -> None:
    """Print tables beside the published numbers, and the evidence over seeds.

    The tables are also written as Markdown, CSV and HTML, and kept in MLflow as
    artifacts.
    """
    texts, said = {}, []
    for name in names or TABLES:
        one = table(name)
        found, left_out = results_.of_table(results, name)
        rows, notes, below = reports.rows(one, found), reports.notes(found, left_out), reports.grids(one, found)
        shown = reports.table_of(one, rows)
        said.append(reports.text(shown, below, notes))
        for suffix, text in (
            ("md", reports.markdown(shown, below, notes)),
            ("csv", reports.as_csv(rows)),
            ("html", reports.as_html(shown, below, notes)),
        ):
            texts[out / f"{name}.{suffix}"] = text
    for path, text in texts.items():  # only after every table was read without an error
        write_text(path, text)
    publish("paper", "report", list(texts), root())
    print(*said, sep="\n\n", end="\n\n")  # last, because printing fails if a reader such as `| head` has ended
    print(f"written to {out}/")


def _missing(jobs: list[Job]) -> list[str]:
    """Return the inputs that unfinished runs need and that are missing here, each with what brings it."""
    return list(dict.fromkeys(problem for job in jobs if job.open for problem in missing_inputs(job.params)))


def _plan(jobs: list[Job]) -> None:
    """Print what is finished and what will be trained, and a time measured on a few iterations of every network."""
    for job in jobs:
        shown = f"{job.setting}, seed {job.seed}: "
        if job.known:
            shown += f"finished: {', '.join(job.known)}. "
        if job.open:
            new = f"{len(job.new)} trainings ({', '.join(job.new)})" if job.new else "nothing to train"
            shown += f"to run: {', '.join(job.open)}, {new}"
            trained = [out for out in job.trains if out in job.trained]
            shown += f"; already trained for other cells: {', '.join(trained)}" if trained else ""
        print(shown)
    if any(job.open for job in jobs):
        print(estimate([job for job in jobs if job.open]), flush=True)


def _run(of: str, job: Job, results: Path) -> bool:
    """Run one DVC experiment in a copy of the project and save its cells; return whether it finished."""
    name, head = job.name(of), git("rev-parse", "HEAD")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    if not git("rev-parse", "--verify", "--quiet", ref):  # it may have finished earlier, without its cells being saved
        print(f"\n{name}: {' '.join(job.targets)}", flush=True)
        changes = [word for change in _changes(job.params) for word in ("-S", change)]
        with using(target.split("/")[1] for target in job.targets if "/" in target):
            if _wait(["dvc", "exp", "run", "--temp", "-n", name, *changes, *job.targets]) != 0:
                return False
    for one in job.open:
        result = _result(ref, head, one, job)
        write_json(results_.path_of(results, of, job.setting, one, job.seed), result)
        print(f"{job.setting}/{one}, seed {job.seed}: {result['metrics']['val'][one]['miou']:.1f}")
    return True


def _wait(command: list[str]) -> int:
    """Run a command to its end and return its exit code.

    Ctrl-C reaches both processes. Wait for DVC then, too, because it removes its copy of the project.
    """
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def _changes(params: Params) -> list[str]:
    """Return the settings for `dvc exp run -S` that make params.yaml of the experiment mean `params`.

    A value that already means the same is left as it is written, because DVC would take another spelling for another
    run. A section that must be removed is set to null as a whole.
    """
    wanted, present = setting_params(params), setting_params(load(options.params_files(None)))
    different = {key: value for key, value in wanted.items() if key not in present or present[key] != value}
    return [f"++{key}={json.dumps(value)}" for key, value in different.items()]


def _result(ref: str, head: str, name: str, job: Job) -> Result:
    """Return the result of a finished cell, which is kept in git.

    ref: the git ref of the experiment. head: the commit that the experiment started from. Raises StppError if DVC
    cannot read a file of the experiment.
    """
    folder, commit = system(name).evaluation, git("rev-parse", ref)
    wanted = [f"{folder}/{file}" for file in ("metrics.json", "run.json", "per_class.csv")]
    if folder == system("stpp").evaluation:
        wanted += ["runs/score/scores.csv", "runs/score/quality.csv"]
    with tempfile.TemporaryDirectory() as temporary:
        for file in wanted:
            out = Path(temporary) / file
            out.parent.mkdir(parents=True, exist_ok=True)
            words = ["dvc", "get", ".", file, "--rev", commit, "-o", str(out), "-q"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise StppError(f"{ref}: {file} could not be read back: {done.stderr.strip()}")
        metrics, about = (read_json(Path(temporary) / file) for file in wanted[:2])
        numbers = numbers_of(Path(temporary) / folder, Path(temporary) / "runs/score")
    return {
        "setting": job.setting,
        "system": name,
        "seed": job.seed,
        "unit": about.get("unit"),
        "metrics": {which: {name: metrics[which][name]} for which in ("val", "test") if which in metrics},
        "numbers": numbers.model_dump(),
        "evaluation": about["evaluation"],
        "keep": job.params.train.keep,
        "data_digest": about["stpp.data.digest"],
        "split_digest": about["stpp.split.digest"],
        "mlflow_run": about["run_id"],
        "dvc_experiment": commit,
        "commit": head,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **job.expected[name],
    }
