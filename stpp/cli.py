"""The command line: stage functions under their names, and the errors a user can mend in one message."""

import functools
import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from stpp.stages import (
    additions,
    audit,
    backbone,
    check,
    cluster,
    data,
    draw,
    evaluate,
    export,
    figure,
    label,
    masks,
    paper,
    predict,
    prepare,
    preset,
    report,
    runs,
    schema,
    score,
    select,
    show,
    split,
    suggest,
    train,
    train_online,
    weights,
)
from stpp.store.files import DISK_FULL, StppError, printable

# Threads that wait for each other must not spin for long: where anything else wants a core (image loading does), that
# makes torch several times slower. GNU's OpenMP, where it is that, may spin for about as long as waking a thread takes.
# It has to be set before torch loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

app = typer.Typer(
    help="ST++ self-training for semi-supervised semantic segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


LONGEST, MOST = 2000, 500
"""Characters of a line, and lines, that a message has at most: names from files may be of any length."""


def _guarded(stage: Callable[..., None]) -> Callable[..., None]:
    """`stage` with one clear message and exit code 2 where the user can mend what is wrong."""

    @functools.wraps(stage)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            if "DVC_STAGE" in os.environ and "RANK" not in os.environ:
                _of_dvc()
            stage(*args, **kwargs)
        except StppError as error:
            shown = "\n".join(printable(line[:LONGEST]) for line in str(error).split("\n")[:MOST])
            typer.echo(f"error: {shown}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("\ninterrupted: what is done is kept; run the same command again to go on from there", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in DISK_FULL:
                if error.filename is None:
                    raise
                typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
                raise typer.Exit(2) from None
            typer.echo("error: the disk is full: make room, then run the same command again", err=True)
            raise typer.Exit(2) from None

    return command


def _of_dvc() -> None:
    """What every stage that DVC starts does first, but in the copies of the project that DVC makes for experiments."""
    from stpp.run.locks import stage_begins
    from stpp.run.resume import root

    if Path.cwd() == root():
        stage_begins(root())


STAGES: tuple[Callable[..., None], ...] = (
    check.check,
    draw.draw,
    prepare.prepare,
    train.train,
    train_online.train_online,
    score.score,
    select.select,
    evaluate.evaluate,
    report.report,
    figure.figure,
    show.show,
    audit.audit,
    predict.predict,
    export.export,
    suggest.suggest,
    cluster.cluster,
    schema.schema,
)
for stage in STAGES:
    app.command()(_guarded(stage))


def group(name: str, about: str, commands: dict[str, Callable[..., None]]) -> None:
    """Commands under a common name: `stpp NAME COMMAND`."""
    commands_ = typer.Typer(help=about, no_args_is_help=True)
    for command, function in commands.items():
        commands_.command(command)(_guarded(function))
    app.add_typer(commands_, name=name)


class StageWithCommands(TyperGroup):
    """A stage that has commands of its own: `stpp split --data ...` is the stage, `stpp split pin NAME` a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            return super().parse_args(ctx, args)
        ctx._protected_args, ctx.args = args[:1], args[1:]
        return list(ctx.args)

    def invoke(self, ctx: Any) -> Any:
        stage = self.callback
        self.callback = None if ctx._protected_args else stage
        try:
            return super().invoke(ctx)
        finally:
            self.callback = stage


WITH_COMMANDS: dict[Callable[..., None], tuple[Callable[..., None], ...]] = {
    split.split: (split.pin, split.diff),
    label.label: (additions.add,),
    backbone.backbone: (backbone.list_,),
}
for stage, commands in WITH_COMMANDS.items():
    both = typer.Typer(cls=StageWithCommands)
    both.callback(invoke_without_command=True)(_guarded(stage))
    for command in commands:
        both.command(command.__name__.strip("_"))(_guarded(command))
    app.add_typer(both, name=stage.__name__)

group("masks", "Open mask sets (zip shards of PNGs).", {"extract": masks.extract, "ls": masks.ls})
group("weights", "Weights from and for other code.", {"import": weights.import_, "export": weights.export})
group("data", "What other people publish, brought into shape.", {"import": data.import_, "lists": data.lists})
group(
    "preset",
    "Params files by name, and one that fits.",
    {"list": preset.list_, "show": preset.show, "use": preset.use, "suggest": preset.suggest},
)
group("runs", "Runs beside each other.", {"compare": runs.compare})
group(
    "paper",
    "The paper's tables, by name.",
    {"plan": paper.plan, "run": paper.run, "report": paper.report},
)


def main() -> None:
    try:
        getpass.getuser()
    except (KeyError, OSError):  # in some containers and jobs of a cluster; DVC, which `cluster` starts, stops then
        os.environ["USER"] = str(os.getuid())
    app()
