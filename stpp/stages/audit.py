"""The `audit` command: traces a model back to its training images, and checks every hash on the way."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar

from typer import Argument, Exit, Option

from stpp.audit.duplicates import Files, Pair, suspects
from stpp.audit.history import added_masks, contents_of_name
from stpp.audit.project import LineageSource, Project, record_of, sources
from stpp.audit.render import Audit, as_json, look_alikes, page, text
from stpp.audit.trace import Step, parameter_of, steps_of, trace
from stpp.run.lineage import Content, content_of
from stpp.run.locks import damaged
from stpp.run.resume import root
from stpp.store.files import StppError, raise_problems, read_ids, write_json, write_text
from stpp.store.manifest import read_dataset, split_digest
from stpp.store.packed import PackedStrings
from stpp.tracking.read import TRAINING, artifact_of, datasets_of, member_of, run_of, runs_like, splits_named, tags_of

Models = Annotated[
    list[str] | None,
    Argument(help="Files, or runs:/ID or models:/NAME@ALIAS in MLflow (default: all models in dvc.lock)."),
]
MODEL = "model.safetensors"
T = TypeVar("T")


def audit(
    models: Models = None,
    offline: Annotated[bool, Option("--offline", help="Do not ask MLflow.")] = False,
    out: Annotated[Path | None, Option(help="Folder for audit.json and audit.html.")] = None,
) -> None:
    """Trace models back to the images they were trained on, and check every hash.

    The exit code is 1 if the audit finds a contradiction, such as a changed
    file, and 0 if it finds none.
    """
    killed = "DVC was probably killed while it wrote the file; run `stpp check` to repair it"
    raise_problems([f"{path}: {wrong}; {killed}" for path, wrong in damaged(root()).items()], "audit")
    project, server = Project(root()), Server(asked=not offline)
    try:
        audits = [_audit(project, server, model) for model in models or _models(project)]
    except RecursionError:
        raise StppError(f"{project.lock.name}: the chain of stages is too long for a pipeline of stpp") from None
    for one in audits:
        print(text(one))
    if alike := look_alikes(audits):
        print(alike)
    if out is not None:
        write_json(out / "audit.json", [as_json(one) for one in audits])
        write_text(out / "audit.html", page(audits))
        print(f"written to {out}/: audit.json, audit.html")
    if any(one.problems for one in audits):
        raise Exit(1)


class Server:
    """The questions of an audit to MLflow; `silent` lists why questions got no answer, for the report.

    asked: False for --offline. MLflow is then never asked.
    """

    def __init__(self, *, asked: bool) -> None:
        self.asked = asked
        self.silent: dict[str, None] = {} if asked else {"MLflow (--offline)": None}

    def _ask(self, question: Callable[..., T], *about: str) -> T | None:
        if not self.asked:
            return None
        try:
            return question(*about, root())
        except StppError as error:
            self.silent[str(error)] = None
            return None

    def said_of(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run, and the digests of its datasets under "the dataset `data`" and so on.

        The tags include those that `LineageSource.digests` holds. The result is empty if MLflow does not answer.
        """
        datasets = self._ask(datasets_of, run_id) or {}
        return (self._ask(tags_of, run_id) or {}) | {f"the dataset `{key}`": one for key, one in datasets.items()}

    def splits_named(self, data: str, name: str) -> dict[str, str]:
        """Return the digests of all splits that were logged under a name, each with the id of one such run."""
        return self._ask(splits_named, data, name) or {}

    def record(self, content: Content) -> LineageSource | None:
        """Return the lineage record of the newest run that made a model with this hash; None if there is none."""
        runs = self._ask(runs_like, f"stpp.out.{MODEL}", content.sha256) or []
        return self.kept(runs[0]) if runs else None

    def kept(self, run_id: str) -> LineageSource | None:
        """Return the lineage record that a run keeps as an artifact; None if it keeps none."""
        return self._ask(_record, run_id)


def _record(run_id: str, root: Path) -> LineageSource | None:
    """Return the lineage record in run.json, an artifact of an MLflow run; None if an older stpp wrote it."""
    return record_of(artifact_of(run_id, "run.json", root), f"the record of MLflow run {run_id}")


def _models(project: Project) -> list[str]:
    found = [o.path for e in project.lock.executions for o in e.outs if Path(o.path).name == MODEL]
    if not found:
        raise StppError("no dvc.lock lists a model; run `dvc repro` first, or name a file or an MLflow run")
    return found


def _audit(project: Project, server: Server, model: str) -> Audit:
    """Return the audit of one model: its trace, and all contradictions with records, MLflow and git."""
    source, content = _start(project, server, model)
    found = Audit(model, source.name, trace(project, source, content))
    for record in project.records.values():
        own = record.executions[0]
        said = own.out(Path(model).as_posix())
        if said is None:
            continue
        if said.md5 != found.link.content.md5:
            found.more.append(f"{model}: differs from the file that {own.stage} wrote according to {record.name}")
        elif not source.today and own.run_id:  # no dvc.lock holds this record's hash: compare it with MLflow's copy
            kept = server.kept(own.run_id)
            if kept is not None and kept.executions != record.executions:
                found.more.append(f"{record.name}: differs from {kept.name}; it was edited, or belongs to another run")
    for step in steps_of(found.link):
        found.notes += step.notes
        found.more += _logged_otherwise(server, step)
    if source.today:
        _look_at_split(project, server, source, found)
    found.notes += server.silent
    return found


def _start(project: Project, server: Server, model: str) -> tuple[LineageSource, Content]:
    """Return the lineage source that says how a model was made, and the content it records for the model.

    model: a path, or a name of a run or model in MLflow. Raises StppError if no source knows the model.
    """
    path = project.root / model
    name = path.relative_to(project.root).as_posix() if path.is_relative_to(project.root) else model
    # A file that dvc.lock names must be what dvc.lock says. Any other existing file is found by its content alone.
    for source in (project.lock, *(() if path.is_file() else project.records.values())):
        for execution in source.executions:
            if (out := execution.out(name)) is not None:
                return source, out
    if path.is_file():
        content = content_of(path, project.root)
        for source in sources(project, content, server.record):
            return source, next(o for execution in source.executions for o in execution.outs if o.md5 == content.md5)
        raise StppError(
            f"{model}: no dvc.lock, run.json, commit or MLflow run lists a file with its hash "
            f"(md5 {content.md5}); it was not made in this project, or it was changed since"
        )
    if not server.asked:
        raise StppError(f"{model}: no such file; to look for it in MLflow, leave out --offline")
    run_id = member_of(run_of(model, root()), TRAINING, root())
    record = _record(run_id, root())
    if record is None or not (outs := record.executions[0].outs):
        raise StppError(f"MLflow run {run_id}: has no record of its outputs; name the run of a training")
    return record, next((one for one in outs if Path(one.path).name == MODEL), outs[0])


def _logged_otherwise(server: Server, step: Step) -> list[str]:
    """Return a line for each digest of data or split, and each hash of an out, that MLflow and the record disagree on.

    The list is empty if the stage has no record or no MLflow run.
    """
    if step.record is None or not step.run_id:
        return []
    said = server.said_of(step.run_id)
    outs = {f"stpp.out.{Path(out.path).name}": out.sha256 for out in step.record.executions[0].outs}
    datasets = {f"the dataset `{key.split('.')[1]}`": digest for key, digest in step.record.digests.items()}
    return [
        f"{step.execution.stage}: MLflow run {step.run_id} was logged with other content: "
        f"{key} is {said[key][:12]} in MLflow, but {value[:12]} in {step.record.name}"
        for key, value in (step.record.digests | datasets | outs).items()
        if said.get(key, value) != value
    ]


def _look_at_split(project: Project, server: Server, source: LineageSource, found: Audit) -> None:
    """Add to `found` other contents of the split's name, look-alikes of held-out images, and added masks.

    Other contents come from git and MLflow. A check that is not possible is added to the notes.
    """
    outs = [project.root / out.content.path for step in steps_of(found.link) for out in step.outs]
    split = next((folder for folder in outs if (folder / "labeled.txt").is_file()), None)
    dataset = next((folder for folder in outs if (folder / "dataset.json").is_file()), None)
    if split is None:
        found.notes.append(
            "history of the split's name, and held-out images that look like training images: the split is not here"
        )
        return
    try:
        data, name = parameter_of(source, "data", "name"), parameter_of(source, "split", "name")
        now, digest = project.md5(split / "manifest.csv"), split_digest(split)
        commits = contents_of_name(project, data, name).items()
        then = {f"commit {commit[:12]}": md5 for md5, commit in commits if md5 != now}
        runs = server.splits_named(data, name).items()
        then |= {f"MLflow run {run}": one for one, run in runs if one != digest}
        found.more += [
            f"split {name}: had other content ({one[:12]}) in {where}; give each content its own split.name"
            for where, one in then.items()
        ]
        images = project.root / parameter_of(source, "data", "root")
        if dataset is None or not images.is_dir():
            found.notes.append("images of val and test that look like training images: the images are not here")
        else:
            found.suspects = _alike(split, dataset, images)
        if dataset is not None:
            found.added = added_masks(project.root / "splits", name, dataset)
    except StppError as error:  # the hash checks already name the damaged file
        found.notes.append(str(error))


@cache
def _alike(split: Path, data: Path, images: Path) -> list[tuple[Pair, Path, Path]]:
    """Return the pairs of a held-out and a training image that look alike, with their files.

    The result is cached, because the models of one audit usually share their split.
    """
    records = read_dataset(data).records
    files = {
        path.stem: Files(images, records, PackedStrings(i for i in read_ids(path) if i in records))
        for path in sorted(split.glob("*.txt"))
    }
    return [
        (pair, files[pair.held_out_set][pair.held_out], files[pair.trained_on_set][pair.trained_on])
        for pair in suspects(files)
    ]
