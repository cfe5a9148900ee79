"""The commands `preset list`, `show` and `use`: params files by name."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from stpp.paper.published import SETTINGS, cells, params_of
from stpp.params.file import as_yaml
from stpp.params.models import Params
from stpp.run.git import git
from stpp.store.files import StppError, write_text

FOLDER, PARAMS = Path("pipelines/presets"), Path("params.yaml")
Name = Annotated[str, Argument(help="Name of a preset; `stpp preset list` shows them.")]


def list_() -> None:
    """List all presets, with the paper's numbers for each."""
    for name, setting in SETTINGS.items():
        print(f"{name}\n    {'; '.join(cells(setting))}")
    for path in sorted(FOLDER.glob("*.yaml")):
        about = [line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        print(f"{path.stem}\n    {next((line for line in about if not line.startswith('yaml-')), '')}")


def show(name: Name) -> None:
    """Print a preset."""
    print(_text(name), end="")


def use(
    name: Name,
    out: Annotated[Path, Option(help="File to write.")] = Path("params.yaml"),
    force: Annotated[bool, Option("--force", help="Overwrite the file even if its changes are not in git.")] = False,
) -> None:
    """Write a preset to params.yaml.

    If the preset was run before, `dvc repro` restores the results from DVC's
    cache.
    """
    text = _text(name)
    if not force:
        check_committed(out)
    write_text(out, text)
    print(f"{out}: {name}; next: put the data where data.root says, then run `dvc repro`")


def _text(name: str) -> str:
    """Return the text of a preset's params file. Raises StppError if there is no preset of this name."""
    if name in SETTINGS:
        setting = SETTINGS[name]
        head = [f"# {name}: {cell}\n" for cell in cells(setting)]
        return (
            "# yaml-language-server: $schema=params.schema.json\n"
            + "".join(head)
            + as_yaml(Params.model_validate(params_of(setting)))
        )
    path = FOLDER / f"{name}.yaml"
    if "/" in name or not path.is_file():
        raise StppError(f"{name}: no such preset; `stpp preset list` shows all presets")
    return path.read_text(encoding="utf-8").replace("$schema=../../params", "$schema=params")


def check_committed(path: Path) -> None:
    """Raise StppError if the file exists and no commit holds its content, so that overwriting it would lose it."""
    status = git("-C", str(path.parent), "status", "--branch", "--porcelain", "--ignored", "--", path.name).splitlines()
    if path.exists() and len(status) != 1:  # one line names the branch; there is none if git fails
        changes, alone = "holds changes that are not in git: commit them", "is in no git repository: copy it first"
        raise StppError(f"{path}: {changes if status else alone}, or use --force")
