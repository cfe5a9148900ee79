"""What the commands that write a task for an annotation tool share: options, and the steps to do next."""

from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import Annotated

from typer import Option

from stpp.deploy.task_formats import TASKS

Tool = StrEnum("Tool", [*TASKS])  # type: ignore[misc]
"""An annotation tool for which a task is written."""
Tolerance = Annotated[
    float, Option(min=0, max=100, help="With an annotation tool: pixels by which a border may move; 0: exact.")
]
Smallest = Annotated[
    int, Option(min=1, help="With an annotation tool: regions of fewer pixels become part of those around them.")
]


def print_steps(notes: list[str], steps: list[str], folder: Path) -> None:
    """Print notes on the task in a folder, and the numbered steps to do next."""
    for note in notes:
        print(f"note: {note}")
    if steps:
        print("next:")
    for number, step in enumerate(steps, 1):
        print(f"{number}. {step.format(folder=quote(str(folder)))}")
