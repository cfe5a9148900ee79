"""Command cluster: the stages of a command on several machines at once."""

from typing import Annotated

from typer import Argument

from stpp.run.launch import cluster as run


def cluster(
    command: Annotated[list[str], Argument(help="What the first machine runs, after `--`: `-- dvc repro`.")],
) -> None:
    """Run a command on the first of several machines, and its stages on all of them.

    Called on each with the same command. The environment says who is who: STPP_NNODES machines, this one being
    STPP_NODE_RANK of them (0 is the first), STPP_NPROC processes on each, and STPP_MASTER, the first one's
    host:port. They see one project folder. Ends when the command does, with its exit code.
    """
    if code := run(command):
        raise SystemExit(code)
