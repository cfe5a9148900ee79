"""The `cluster` command: runs the stages of a command on several machines at once."""

from typing import Annotated

from typer import Argument

from stpp.run.launch import cluster as run


def cluster(
    command: Annotated[list[str], Argument(help="Command for the first machine, after `--`, such as `-- dvc repro`.")],
) -> None:
    """Run a command on the first of several machines, and its stages on all machines.

    Start it on every machine with the same command. All machines must see the
    same project folder. When the command ends, `stpp cluster` ends on all
    machines, with the command's exit code.

    Environment variables describe the cluster. STPP_NNODES is the number of
    machines. STPP_NODE_RANK is the number of this machine; 0 is the first.
    STPP_NPROC is the number of processes on each machine. STPP_MASTER is the
    host:port of the first machine.
    """
    if code := run(command):
        raise SystemExit(code)
