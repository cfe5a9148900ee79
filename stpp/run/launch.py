"""Start the processes of a stage on all devices, of one machine or several, with torchrun's engine.

`STPP_NPROC=8 dvc repro` starts eight processes on this machine for every stage that trains, scores, labels or
evaluates. On several machines, run `stpp cluster` on each, with STPP_NNODES, STPP_NODE_RANK and STPP_MASTER (host:port
of the first machine, whose node rank is 0). Then STPP_NPROC processes start on each machine.
"""

import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from stpp.store.files import StppError

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

NPROC, NNODES, NODE, MASTER = "STPP_NPROC", "STPP_NNODES", "STPP_NODE_RANK", "STPP_MASTER"
CALLER = "STPP_CALLER"
"""The environment variable with the process id of the launcher's parent, which is dvc in a pipeline.

A launched stage looks at it to find out whether dvc still runs.
"""


def wanted() -> bool:
    """Return whether the environment asks for several processes and this process is not yet one of them."""
    return "RANK" not in os.environ and (_number(NPROC, 1) > 1 or _nodes() > 1)


def launch(arguments: list[str]) -> int:
    """Run `python -m stpp ARGUMENTS` in all requested processes, here and on the other machines.

    Returns the exit code of the first process that failed, or 0.
    """
    if _nodes() == 1:
        return _run(arguments, "localhost:0", [])
    store = _store(patience=timedelta(seconds=30))  # `stpp cluster` is this process's ancestor and listens already
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    number = store.add("launches", 1)
    store.set(f"launch/{number}", json.dumps({"arguments": arguments, "port": port}))
    return _watched(store, number, arguments, port)


def cluster(command: list[str]) -> int:
    """Run a command on the first machine and its stages on all machines; return the command's exit code on all."""
    return _lead(command) if _node() == 0 else _follow()


def _lead(command: list[str]) -> int:
    """Run the command on the first machine, and tell the other machines when it has ended."""
    store = _store(listen=True)
    code = 1
    try:
        code = subprocess.run(command, check=False).returncode
    finally:
        store.set(f"launch/{store.add('launches', 1)}", json.dumps({"end": code}))
        for other in range(1, _nodes()):  # the store ends with this process, so wait until all have read the end
            _wait(store, f"ended/{other}", timedelta(seconds=30))
    return code


def _follow() -> int:
    """Take part in every stage that the first machine launches, until the command there has ended."""
    store = _store()
    for number in itertools.count(1):
        message = _wait(store, f"launch/{number}")
        if "end" in message:
            break
        _watched(store, number, message["arguments"], message["port"])
    store.set(f"ended/{_node()}", "{}")
    return int(message["end"])


def _nodes() -> int:
    return _number(NNODES, 1)


def _node() -> int:
    return _number(NODE, 0)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise StppError(f"{name}={text}: expected a whole number")
    return int(text)


def _master() -> tuple[str, int]:
    host, _, port = os.environ.get(MASTER, "").rpartition(":")
    if not host or not port.isdecimal():
        raise StppError(f"{MASTER}={os.environ.get(MASTER, '')}: expected the first machine's host:port")
    return host, int(port)


def _store(listen: bool = False, patience: timedelta = timedelta(minutes=10)) -> "TCPStore":
    """Open the key-value store through which the machines exchange messages.

    listen: this is the first machine, whose `stpp cluster` process serves the store. patience: how long the others try
    to connect. Raises StppError if that fails.
    """
    from torch.distributed import DistNetworkError, DistStoreError, TCPStore  # type: ignore[attr-defined]

    host, port = _master()
    until = time.monotonic() + patience.total_seconds()
    while not listen:  # torch would print pages of warnings while nobody answers
        try:
            socket.create_connection((host, port), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() > until:
                asked = "no answer; is `stpp cluster` running on the first machine?"
                raise StppError(f"{MASTER}={host}:{port}: {asked} ({error})") from None
            time.sleep(0.5)
    try:
        return TCPStore(host, port, is_master=listen, wait_for_workers=False, timeout=timedelta(minutes=10))
    except (DistNetworkError, DistStoreError) as error:
        raise StppError(f"{MASTER}={host}:{port}: {str(error).splitlines()[0]}") from None


def _wait(store: "TCPStore", key: str, limit: timedelta | None = None) -> dict[str, Any]:
    """Wait until the store has a key, and return its JSON value; return {} if `limit` passes first.

    Raises StppError if the first machine is gone.
    """
    from torch.distributed import DistNetworkError

    began = time.monotonic()
    try:
        while not store.check([key]):
            if limit is not None and time.monotonic() - began > limit.total_seconds():
                return {}
            time.sleep(0.5)
        value: dict[str, Any] = json.loads(store.get(key))
    except DistNetworkError:
        raise StppError(f"{MASTER}: lost the connection to the first machine; start again on all machines") from None
    return value


def _watched(store: "TCPStore", number: int, arguments: list[str], port: int) -> int:
    """Call `_run` as one of several machines; a failure on one machine ends the processes on all of them."""
    from torch.distributed import DistNetworkError
    from torch.distributed.elastic.multiprocessing import SignalException

    over, why = threading.Event(), list[str]()

    def failed_elsewhere() -> str:
        try:
            other = store.get(f"failed/{number}").decode() if store.check([f"failed/{number}"]) else ""
            return other and f"machine {other} ({NODE}={other}) failed"
        except DistNetworkError:  # the first machine is gone, and the store with it
            return "lost the connection to the first machine"

    def watch() -> None:
        while not over.wait(1):
            if what := failed_elsewhere():
                why.append(f"{what}, so the processes of this machine were stopped")
                os.kill(os.getpid(), signal.SIGTERM)  # torch's engine catches it and ends its processes
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = 1
    try:
        code = _run(arguments, f"{_master()[0]}:{port}", why)
        over.set()
        watcher.join()
    except SignalException:  # the signal came after all processes had ended
        pass
    if code:
        store.compare_set(f"failed/{number}", "", str(_node()))  # only the first: it made the others fail
    return code


def _run(arguments: list[str], endpoint: str, why: list[str]) -> int:
    """Start this machine's processes, wait for them, and return the exit code of the first that failed, or 0.

    endpoint: host:port where the processes of all machines meet. why: `_watched` puts in why it stops the processes,
    for the message. Returns 1 if a signal ended a process or the launch. Raises KeyboardInterrupt after Ctrl-C.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # torch prints a page about a failed process. The process has printed its own message; one line below is enough.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    processes = _number(NPROC, 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ[CALLER] = str(os.getppid())
    config = LaunchConfig(
        min_nodes=_nodes(),
        max_nodes=_nodes(),
        nproc_per_node=processes,
        rdzv_backend="c10d" if _nodes() == 1 else "static",
        rdzv_endpoint=endpoint,
        rdzv_configs={"rank": _node()},
        run_id="stpp",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "stpp", *arguments)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            ended = f"process {number} (pid {failure.pid}) was killed by {name}, and the other processes were stopped"
            print(f"error: {ended}; run the same command again to continue", file=sys.stderr, flush=True)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        if error.sigval is signal.SIGINT:
            raise KeyboardInterrupt from None
        print(f"error: {why[0] if why else 'stopped by a signal'}", file=sys.stderr, flush=True)
        return 1
    return 0
