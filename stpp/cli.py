"""The command line: a table of all commands, and one clear message for every error that the user can fix.

A command's module is imported only when the command is called, so `stpp --help` loads neither torch nor numpy.
"""

import functools
import gc
import getpass
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from stpp.store.files import DISK_FULL, StppError, printable

# OpenMP threads that wait for each other must not spin for long: spinning makes torch several times slower when other
# work, such as image loading, needs the cores. The second variable is for GNU's OpenMP only: its threads may spin for
# about as long as it takes to wake a thread. Both must be set before torch loads its OpenMP library.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@dataclass(frozen=True)
class Command:
    """A command of `stpp`, or a group of commands."""

    target: str
    """MODULE:FUNCTION below stpp.stages; empty for a group that is not a command itself."""
    about: str
    """The first line of the function's docstring; for a group without a function, a text of its own."""
    commands: Mapping[str, "Command"] = field(default_factory=dict)


COMMANDS = {
    "check": Command("check:check", "Check all parameters with every overlay, and repair a damaged dvc.lock."),
    "init": Command("init:init", "Describe your images and masks in params.yaml: names, classes, split."),
    "draw": Command("draw:draw", "Draw the embedded data set: the same seed gives the same bytes."),
    "prepare": Command("prepare:prepare", "Check every image and mask of the data set, and write the manifest."),
    "split": Command(
        "split:split",
        "Draw or read the split, check it, and write its lists and manifest.",
        {
            "pin": Command("split:pin", "Freeze the current split: later runs refuse other content under its name."),
            "diff": Command("split:diff", "Compare two splits: images that moved, were added, removed or changed."),
        },
    ),
    "backbone": Command(
        "backbone:backbone",
        "Find the weights that trainings start from, and save them to files.",
        {
            "list": Command("backbone:list_", "List the backbones that fit, with parameters, heads and weights."),
        },
    ),
    "train": Command("train:train", "Train a teacher on labelled images, or a student with pseudo labels as well."),
    "train-online": Command("train_online:train_online", "Train with online labelling: no pseudo masks."),
    "score": Command("score:score", "Score the stability of every unlabelled image's pseudo masks."),
    "select": Command(
        "select:select", "Select the reliable part of the unlabelled images: by default the most stable."
    ),
    "label": Command(
        "label:label",
        "Label images with a model: a mask set of zip shards and a manifest.",
        {
            "add": Command("additions:add", "Add new masks, and write a split in which their images are labelled."),
        },
    ),
    "evaluate": Command(
        "evaluate:evaluate", "Evaluate models at original resolution, and pseudo masks where true masks exist."
    ),
    "report": Command("report:report", "Draw curves, stability, quality, classes and panels of a run."),
    "figure": Command("figure:figure", "Draw a figure of the paper from several systems."),
    "show": Command("show:show", "Print the mIoU of every evaluated system, and its gain over SupOnly."),
    "audit": Command("audit:audit", "Trace models back to the images they were trained on, and check every hash."),
    "predict": Command("predict:predict", "Predict masks of any images: PNGs of class ids in the model's colours."),
    "export": Command(
        "export:export", "Write a checkpoint for ONNX Runtime, OpenVINO, torch.export or `mlflow models serve`."
    ),
    "suggest": Command(
        "suggest:suggest", "Suggest which unlabelled images are most worth a mask, or which masks to check."
    ),
    "masks": Command(
        "",
        "Read mask sets, which are zip shards of PNGs.",
        {
            "extract": Command("masks:extract", "Write masks as palette PNGs, each under its id."),
            "objects": Command("masks:objects", "List the objects of an annotation file that a mask was drawn from."),
            "ls": Command("masks:ls", "List the masks of a set: id, shard, mean confidence."),
        },
    ),
    "weights": Command(
        "",
        "Convert weights from and to the formats of other code.",
        {
            "import": Command(
                "weights:import_", "Read weights of the public ST++ code, torchvision or AdvSemiSeg into weights/."
            ),
            "export": Command("weights:export", "Write a checkpoint as a state dict in the public ST++ code's layout."),
        },
    ),
    "data": Command(
        "",
        "Import published data sets and splits.",
        {
            "import": Command("data:import_", "Lay out a published archive, or any images and masks, below a folder."),
            "lists": Command("data:lists", "Check a published split, and copy its lists."),
        },
    ),
    "preset": Command(
        "",
        "List, show and write params files.",
        {
            "list": Command("preset:list_", "List all presets, with the paper's numbers for each."),
            "show": Command("preset:show", "Print a preset."),
            "use": Command("preset:use", "Write a preset to params.yaml."),
            "suggest": Command(
                "preset_suggest:suggest", "Print a params file that fits the data and this machine, with reasons."
            ),
        },
    ),
    "system": Command(
        "",
        "Choose the systems that DVC reads beside ST++.",
        {
            "list": Command("system:list_", "List all systems beside ST++, and which of them DVC reads."),
            "use": Command("system:use", "Let DVC read systems: then `dvc repro pipelines/NAME/dvc.yaml` runs one."),
            "drop": Command("system:drop", "Let DVC read systems no longer; their files, dvc.lock and cache stay."),
        },
    ),
    "ui": Command("ui:ui", "Start MLflow's UI, and print the address of the project's runs."),
    "runs": Command(
        "",
        "Compare runs.",
        {
            "compare": Command(
                "runs:compare", "Compare two runs: parameters, data, split, code, mIoU and IoU by class."
            ),
        },
    ),
    "paper": Command(
        "",
        "Plan, run and report the paper's tables.",
        {
            "plan": Command("paper:plan", "Show what `stpp paper run` would do, and how long it would take."),
            "run": Command("paper:run", "Run a table: one DVC experiment for every setting and seed."),
            "report": Command(
                "paper:report", "Print tables beside the published numbers, and the evidence over seeds."
            ),
        },
    ),
    "cluster": Command(
        "cluster:cluster", "Run a command on the first of several machines, and its stages on all machines."
    ),
    "schema": Command("schema:schema", "Write params.schema.json."),
}


LONGEST, MOST = 2000, 500
"""The most characters of a line, and the most lines, of an error message: names from files may have any length."""


def _guarded(stage: Callable[..., None]) -> Callable[..., None]:
    """Wrap `stage` so that an error that the user can fix ends in one clear message and exit code 2.

    Ctrl-C ends in one line and exit code 130. All other errors pass through.
    """

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
            typer.echo("\ninterrupted: finished work is kept; run the same command again to continue", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in DISK_FULL:
                if error.filename is None:
                    raise
                typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
                raise typer.Exit(2) from None
            typer.echo("error: the disk is full: free some space, then run the same command again", err=True)
            raise typer.Exit(2) from None

    command.__doc__ = reflowed(inspect.getdoc(stage) or "")
    return command


def reflowed(text: str) -> str:
    """Join the lines of every paragraph, so that it fills a terminal of any width; a list keeps its lines."""
    return re.sub(r"(?<=\S)\n(?![\s*-])", " ", text)


def _of_dvc() -> None:
    """Call `repair_before_stage`, except in the copies of the project that DVC makes for experiments.

    Every stage that DVC starts does this first. It saves the dvc.lock files, or repairs a damaged one.
    """
    from stpp.run.locks import repair_before_stage
    from stpp.run.resume import root

    if Path.cwd() == root():
        repair_before_stage(root())


class StageWithCommands(TyperGroup):
    """A group that is also a stage: `stpp split --data ...` runs the stage, `stpp split pin NAME` a subcommand."""

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


class LazyCommand(TyperCommand):
    """A placeholder in the list of commands; the command's module is imported only when the command is called."""

    def __init__(self, name: str, command: Command) -> None:
        super().__init__(name, help=command.about)
        self.command = command

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return load_command(self.name or "", self.command).make_context(*args, **kwargs)


def load_command(name: str, command: Command) -> TyperCommand | TyperGroup:
    """Import a command's module and return the command with its options and subcommands."""
    alone = typer.Typer(cls=StageWithCommands, no_args_is_help=not command.target, help=command.about)
    if command.target:
        module, _, function = command.target.partition(":")
        run = _guarded(getattr(_import_once(f"stpp.stages.{module}"), function))
        if not command.commands:
            one = typer.Typer(add_completion=False)
            one.command(name)(run)
            return get_command(one)  # type: ignore[return-value]
        alone = typer.Typer(cls=StageWithCommands)
        alone.callback(invoke_without_command=True)(run)
    group = get_group(alone)
    group.name = name
    group.commands = {each: LazyCommand(each, one) for each, one in command.commands.items()}
    return group


def _import_once(name: str) -> ModuleType:
    """Import a module without garbage collection, and keep what it holds out of all later collections.

    Modules last until the process ends. Collecting them takes torch about 2 s, a part of it at the end of the process.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"stpp {importlib.metadata.version('stpp')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def command_line() -> TyperGroup:
    """Return the group of all commands, without importing their modules."""
    app = typer.Typer(
        help="ST++ self-training for semi-supervised semantic segmentation.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    group.commands = {name: LazyCommand(name, command) for name, command in COMMANDS.items()}
    return group


def main() -> None:
    """Run the command line; if the system knows no user name, set USER to the user id first."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # some containers and cluster jobs have no user name; DVC, run by `cluster`, then fails
        os.environ["USER"] = str(os.getuid())
    command_line()(prog_name="stpp")
