"""The commands `system list`, `use` and `drop`: which systems DVC reads beside ST++."""

from typing import Annotated

from typer import Argument, Option

from stpp.run import pipelines
from stpp.store.files import StppError

Names = Annotated[list[str] | None, Argument(help="Names of systems; `stpp system list` shows them.")]


def list_() -> None:
    """List all systems beside ST++, and which of them DVC reads."""
    used = pipelines.in_use()
    names = pipelines.systems()
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{'*' if name in used else ' '} {name.ljust(width)}  {pipelines.title(name)}")
    print("* in use: DVC reads it; `stpp system use NAME` adds a system, `stpp system drop NAME` removes it")


def use(
    names: Names = None,
    all_: Annotated[bool, Option("--all", help="Use all systems.")] = False,
) -> None:
    """Let DVC read systems: then `dvc repro pipelines/NAME/dvc.yaml` runs one.

    DVC's commands speak of every pipeline that they find. So .dvcignore leaves
    out all systems but those in use. A system that reads what others make
    brings them with it.
    """
    chosen = _chosen(names, all_, pipelines.systems())
    new = pipelines.use(chosen)
    for name in new:
        print(f"{name}: in use{'' if name in chosen else ', because another system reads what it makes'}")
    if not new:
        print(f"{', '.join(chosen)}: in use already")
    print("next: " + (f"dvc repro pipelines/{chosen[0]}/dvc.yaml" if len(chosen) == 1 else "dvc repro --all-pipelines"))


def drop(
    names: Names = None,
    all_: Annotated[bool, Option("--all", help="Drop all systems.")] = False,
) -> None:
    """Let DVC read systems no longer; their files, dvc.lock and cache stay.

    `dvc gc` counts the cache of a dropped system as unused.
    """
    chosen = _chosen(names, all_, pipelines.in_use())
    pipelines.drop(chosen)
    print(f"{', '.join(chosen) or 'nothing'}: dropped")


def _chosen(names: list[str] | None, all_: bool, every: list[str]) -> list[str]:
    """Return the names that are asked for. Raises StppError unless there are names or --all, and not both."""
    if bool(names) == all_:
        raise StppError("give names of systems, or --all; `stpp system list` shows them")
    return list(dict.fromkeys(names or every))
