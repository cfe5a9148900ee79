"""The `check` command, the first stage of every pipeline: reports wrong or missing input before DVC removes anything.

DVC removes a stage's outs before it runs the stage. Without the check, a wrong value would cost the stage's results.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.params.file import load, read_yaml
from stpp.params.models import Params
from stpp.run.locks import repair
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import StppError, read_text, write_text

LISTS, WEIGHTS = Path("splits"), Path("weights")
"""The folders of split lists and of weights in the pipelines."""


def check(
    params: options.Params = None,
    out: Annotated[Path | None, Option(help="File to write if all parameters are valid.")] = None,
) -> None:
    """Check all parameters with every overlay, and repair a damaged dvc.lock.

    The overlays are the params files in pipelines/, without the presets.
    The files and folders that the parameters name must exist, unless DVC
    makes or pulls them. No image is opened. The file must state every
    section that the root pipeline watches.
    If DVC is killed while it writes dvc.lock, the file is left incomplete.
    The repair restores the last complete version.
    """
    if "DVC_STAGE" not in os.environ:  # under DVC, every stage has repaired it already
        for line in repair(root()):
            print(line)
    files, problems = options.params_files(params), dict[str, None]()
    named = _named(load(files))
    beside = sorted(Path("pipelines").glob("*/*.yaml"))
    overlays = [file for file in beside if file.name != "dvc.yaml" and file.parent.name != "presets"]
    for overlay in overlays:
        try:
            named |= _named(load([*files, overlay]))
        except StppError as error:
            problems |= dict.fromkeys(str(error).split("\n"))
    problems |= dict.fromkeys([*_unstated(files[0]), *_missing(named)])
    if problems:
        raise StppError("\n".join(problems))
    if out is not None:
        # Always the same text, so that stages that depend on the file do not run again.
        write_text(out, "params are valid\n")
    print(f"{', '.join(map(str, files))}, alone and with {len(overlays)} overlays: valid")


def _named(p: Params) -> dict[tuple[str, Path], str]:
    """Return the files and folders that parameters name, by key and path, each with what to say if it is missing."""
    root = Path(p.data.root)
    remedy = "is the path right, and is the data there?" if p.data.kind != "toy" else "kind toy is drawn in data/toy"
    named = {("data.root", root): f"no such folder; {remedy}"}
    if p.data.list is not None and root.is_dir():
        named["data.list", root / p.data.list] = "no such file; give its path below data.root"
    if isinstance(p.data.classes, str) and root.is_dir():
        named["data.classes", root / p.data.classes] = "no such file; give its path below data.root"
    if p.data.annotations is not None and "{" not in p.data.annotations.file and root.is_dir():
        remedy = "no such file; give its path below data.root"
        named["data.annotations.file", root / p.data.annotations.file] = remedy
    for name in ("labeled", "unlabeled", "val", "test"):
        subset = getattr(p.split, name)
        if subset is not None and subset.list is not None:
            what = f"no such file; lists must lie in {LISTS}/, which DVC tracks"
            named[f"split.{name}.list", LISTS / subset.list] = what
    for section, model in (("model", p.model), ("student", p.student)):
        if model is not None and set(model.weights) & {".", "/"}:  # else the name of published weights, or `none`
            what = f"no such file; `stpp backbone list {model.backbone}` names the published weights"
            named[f"{section}.weights", WEIGHTS / model.weights] = what
    return named


def _unstated(params: Path) -> Iterator[str]:
    """Yield a problem for every section that dvc.yaml watches and a params file lacks.

    DVC would run the stage, and then fail although the section has a default.
    """
    stages = read_yaml(Path("dvc.yaml"))["stages"].values() if Path("dvc.yaml").is_file() else ()
    watched = [name for stage in stages for name in stage.get("params", ()) if isinstance(name, str)]
    stated = read_yaml(params)
    for name in dict.fromkeys(one.partition(".")[0] for one in watched):
        if name not in stated:
            default = "null" if Params.model_fields[name].default is None else "{}"
            yield f"{params}: {name}: DVC needs this section in the file; add `{name}: {default}` for the defaults"


def _missing(named: Mapping[tuple[str, Path], str]) -> Iterator[str]:
    """Yield a problem for every file and folder that does not exist; print how to get it if DVC tracks it.

    named: see `_named`.
    """
    for (key, path), problem in named.items():
        if path.is_dir() if key == "data.root" else path.is_file():
            continue
        if any(Path(f"{one}.dvc").is_file() for one in (path, *path.parents)):
            print(f"{key}: {path} is not here; `dvc pull` fetches it")
        elif key != "data.root" or not _is_made(path):
            left = f"DVC copied only what git or DVC track; `dvc add {path}` and commit, then queue it again"
            copied = root() != Path.cwd()  # in the copy that DVC makes for a queued experiment
            yield f"{key}: {path}: {left if copied and (root() / path).exists() else problem}"


def _is_made(path: Path) -> bool:
    """Return whether a dvc.yaml names the data set's folder or one above it: only a stage that makes it does."""
    pipelines = [file for file in (Path("dvc.yaml"), *Path("pipelines").glob("*/dvc.yaml")) if file.is_file()]
    named = {line.strip(" -:'\"") for file in pipelines for line in read_text(file).splitlines()}
    return any(one.as_posix() in named for one in (path, *path.parents) if one.name)
