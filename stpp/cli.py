"""The command line: stage functions under their names, and the errors a user can mend in one message."""

import errno
import functools
import os
from collections.abc import Callable
from typing import Any

import typer

from stpp.files import StppError
from stpp.stages import (
    backbone,
    data,
    draw,
    evaluate,
    figure,
    label,
    masks,
    paper,
    prepare,
    preset,
    report,
    schema,
    score,
    select,
    show,
    split,
    train,
    train_online,
    weights,
)

# Threads that wait for each other must not spin: where anything else wants a core (image loading does), spinning
# makes torch several times slower. It has to be set before torch loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    help="ST++ self-training for semi-supervised semantic segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _guarded(stage: Callable[..., None]) -> Callable[..., None]:
    """`stage` with one clear message and exit code 2 where the user can mend what is wrong."""

    @functools.wraps(stage)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            stage(*args, **kwargs)
        except StppError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("\ninterrupted: what is done is kept; run the same command again to go on from there", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                if error.filename is None:
                    raise
                typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
                raise typer.Exit(2) from None
            typer.echo("error: the disk is full: make room, then run the same command again", err=True)
            raise typer.Exit(2) from None

    return command


STAGES: tuple[Callable[..., None], ...] = (
    draw.draw,
    prepare.prepare,
    backbone.backbone,
    split.split,
    train.train,
    train_online.train_online,
    score.score,
    select.select,
    label.label,
    evaluate.evaluate,
    report.report,
    figure.figure,
    show.show,
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


group("masks", "Open mask sets (zip shards of PNGs).", {"extract": masks.extract, "ls": masks.ls})
group("weights", "Weights from and for other code.", {"import": weights.import_, "export": weights.export})
group("data", "What other people publish, brought into shape.", {"import": data.import_, "lists": data.lists})
group("preset", "Params files by name.", {"list": preset.list_, "show": preset.show, "use": preset.use})
group(
    "paper",
    "The paper's tables, by name.",
    {"plan": paper.plan, "run": paper.run, "report": paper.report},
)


def main() -> None:
    app()
