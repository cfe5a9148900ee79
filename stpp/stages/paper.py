"""Commands paper plan, run and report: rows and tables of the paper by name, on its data or on one's own."""

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
from stpp.paper.plan import Job, estimate, flat, jobs_of, missing
from stpp.paper.published import TABLES, table
from stpp.paper.results import Result
from stpp.paper.systems import system
from stpp.params.file import load
from stpp.params.models import Params
from stpp.run.git import git
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import StppError, raise_all, read_json, write_json, write_text
from stpp.tracking.attach import publish

FOLDER = Path("results")

Name = Annotated[str, Argument(help="Table: table-1 .. table-6, appendix-b, figure-3.")]
Names = Annotated[list[str] | None, Argument(help="Tables; all, if none is named.")]
Cells = Annotated[
    list[str] | None, Option("--cell", help="Only cells SETTING/SYSTEM like this pattern; may be given several times.")
]
Seeds = Annotated[int, Option(min=1, help="Runs of every cell, with train.seed and select.seed 0, 1, ...")]
Seed = Annotated[
    list[int] | None, Option("--seed", min=0, help="Only this seed, in place of --seeds; may be given several times.")
]
Own = Annotated[bool, Option("--own", help="The table's systems on the data and setting of params.yaml.")]
Results = Annotated[Path, Option(help="Folder of finished cells, in git.")]


def plan(
    name: Name, cell: Cells = None, seeds: Seeds = 1, seed: Seed = None, own: Own = False, results: Results = FOLDER
) -> None:
    """Show what `stpp paper run` would do, and how long it would take."""
    jobs = jobs_of(name, cell or ["*"], seed or range(seeds), own, results)
    _plan(jobs)
    for problem in _missing(jobs):
        print(f"not here, and needed: {problem}")


def run(
    name: Name, cell: Cells = None, seeds: Seeds = 1, seed: Seed = None, own: Own = False, results: Results = FOLDER
) -> None:
    """Run a table: one DVC experiment for every setting and seed.

    Interrupted, the same command goes on. Every finished cell is a file below results/: metrics, digests, run ids,
    parameters.
    """
    if not git("rev-parse", "HEAD"):
        raise StppError("a table runs as DVC experiments, which start from a commit: `git add . && git commit` first")
    jobs = jobs_of(name, cell or ["*"], seed or range(seeds), own, results)
    raise_all(_missing(jobs), "not here, and needed before anything is run")
    _plan(jobs)
    failed = []
    for job in jobs:
        for one, result in job.known.items():
            write_json(results_.path_of(results, name, job.setting, one, job.seed), result)
        if job.open and not _run(name, job, results):
            failed.append(f"{job.setting}, seed {job.seed}")
    if failed:
        raise StppError(f"{'; '.join(failed)}: did not finish (see above); what is done is kept: run it again to go on")


def report(
    names: Names = None,
    results: Results = FOLDER,
    out: Annotated[Path, Option(help="Folder for the reports.")] = Path("results/report"),
) -> None:
    """Print tables beside the published numbers, and the evidence over seeds.

    They are written as Markdown, CSV and HTML, and to MLflow.
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
    for path, text in texts.items():  # when every table was read
        write_text(path, text)
    publish("paper", "report", list(texts), root())
    print(*said, sep="\n\n", end="\n\n")  # after all is written, since who reads may have had enough: `| head`
    print(f"written to {out}/")


def _missing(jobs: list[Job]) -> list[str]:
    """What runs that are still to be done would read, and is not here."""
    return list(dict.fromkeys(problem for job in jobs if job.open for problem in missing(job.params)))


def _plan(jobs: list[Job]) -> None:
    """Say what is there and what will train; how long is measured here, on a few iterations of every network."""
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
        print(estimate([job for job in jobs if job.open]), flush=True)


def _run(table: str, job: Job, results: Path) -> bool:
    """Run one experiment through DVC in a copy of the project, and keep its cells; whether it finished."""
    name, head = job.name(table), git("rev-parse", "HEAD")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    if not git("rev-parse", "--verify", "--quiet", ref):  # it may have finished, and the copying of its cells not
        print(f"\n{name}: {' '.join(job.targets)}", flush=True)
        changes = [word for change in _changes(job.params) for word in ("-S", change)]
        if _wait(["dvc", "exp", "run", "--temp", "-n", name, *changes, *job.targets]) != 0:
            return False
    for one in job.open:
        result = _result(ref, head, one, job)
        write_json(results_.path_of(results, table, job.setting, one, job.seed), result)
        print(f"{job.setting}/{one}, seed {job.seed}: {100 * result['metrics']['val'][one]['miou']:.1f}")
    return True


def _wait(command: list[str]) -> int:
    """Run a command to its end, also where Ctrl-C reaches both: DVC removes its copy of the project then."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def _changes(params: Params) -> list[str]:
    """What `dvc exp run -S` has to set so that params.yaml of the experiment means `params`.

    What means the same already is left as it is written: otherwise DVC would take it for another run. A section that
    is to go is set to null as a whole.
    """
    wanted, present = flat(params), flat(load(options.params_files(None)))
    different = {key: value for key, value in wanted.items() if key not in present or present[key] != value}
    return [f"++{key}={json.dumps(value)}" for key, value in different.items()]


def _result(ref: str, head: str, name: str, job: Job) -> Result:
    """What a finished cell leaves in git. ref: the experiment's, below the commit `head` that it started from."""
    folder = system(name).evaluation
    wanted = [f"{folder}/{file}" for file in ("metrics.json", "run.json", "per_class.csv")]
    if folder == system("stpp").evaluation:
        wanted += ["runs/score/scores.csv", "runs/score/quality.csv"]
    with tempfile.TemporaryDirectory() as temporary:
        for file in wanted:
            out = Path(temporary) / file
            out.parent.mkdir(parents=True, exist_ok=True)
            words = ["dvc", "get", ".", file, "--rev", git("rev-parse", ref), "-o", str(out), "-q"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise StppError(f"{ref}: {file} could not be read back: {done.stderr.strip()}")
        metrics, about = (read_json(Path(temporary) / file) for file in wanted[:2])
        numbers = numbers_of(Path(temporary) / folder, Path(temporary) / "runs/score")
    return {
        "setting": job.setting,
        "system": name,
        "seed": job.seed,
        "metrics": {which: {name: metrics[which][name]} for which in ("val", "test") if which in metrics},
        "numbers": numbers.model_dump(),
        "evaluation": metrics["evaluation"],
        "keep": job.params.train.keep,
        "data_digest": about["stpp.data.digest"],
        "split_digest": about["stpp.split.digest"],
        "mlflow_run": about["run_id"],
        "dvc_experiment": git("rev-parse", ref),
        "commit": head,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **job.expected[name],
    }
