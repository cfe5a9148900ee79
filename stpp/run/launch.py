"""Starting the processes of a stage on all devices, here or on several machines, with torchrun's engine.

`STPP_NPROC=8 dvc repro` starts eight on this machine for every stage that computes for long. With `stpp cluster`,
STPP_NNODES, STPP_NODE_RANK and STPP_MASTER (the first machine's host:port), so many start on each of several.
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
"""Who called the process that started these: dvc, where a stage asks whether dvc still lives."""


def wanted() -> bool:
    """Whether the environment asks for several processes, and this is none of them yet."""
    return "RANK" not in os.environ and (_number(NPROC, 1) > 1 or _nodes() > 1)


def launch(arguments: list[str]) -> int:
    """Run `python -m stpp ARGUMENTS` in all the processes asked for; the exit code of the first that failed, or 0."""
    if _nodes() == 1:
        return _run(arguments, "localhost:0")
    store = _store(patience=timedelta(seconds=30))  # `stpp cluster` called this, and listens already
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    number = store.add("launches", 1)
    store.set(f"launch/{number}", json.dumps({"arguments": arguments, "port": port}))
    return _watched(store, number, arguments, port)


def cluster(command: list[str]) -> int:
    """Run a command on the first machine, and its stages on all; its exit code, on all of them."""
    return _lead(command) if _node() == 0 else _follow()


def _lead(command: list[str]) -> int:
    """Run the command, and tell the others when it has ended."""
    store = _store(listen=True)
    code = 1
    try:
        code = subprocess.run(command, check=False).returncode
    finally:
        store.set(f"launch/{store.add('launches', 1)}", json.dumps({"end": code}))
        for other in range(1, _nodes()):  # the store ends with this process
            _wait(store, f"ended/{other}", timedelta(seconds=30))
    return code


def _follow() -> int:
    """Take part in every stage that the first machine launches, until it ends."""
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
        raise StppError(f"{name}={text}: a whole number is needed")
    return int(text)


def _master() -> tuple[str, int]:
    host, _, port = os.environ.get(MASTER, "").rpartition(":")
    if not host or not port.isdecimal():
        raise StppError(f"{MASTER}={os.environ.get(MASTER, '')}: expected the first machine's host:port")
    return host, int(port)


def _store(listen: bool = False, patience: timedelta = timedelta(minutes=10)) -> "TCPStore":
    """What the machines tell each other, kept by the first one's `stpp cluster`."""
    from torch.distributed import DistNetworkError, DistStoreError, TCPStore  # type: ignore[attr-defined]

    host, port = _master()
    until = time.monotonic() + patience.total_seconds()
    while not listen:  # not left to torch, which says pages while nobody is there
        try:
            socket.create_connection((host, port), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() > until:
                asked = "nobody is there; is `stpp cluster` running on the first machine?"
                raise StppError(f"{MASTER}={host}:{port}: {asked} ({error})") from None
            time.sleep(0.5)
    try:
        return TCPStore(host, port, is_master=listen, wait_for_workers=False, timeout=timedelta(minutes=10))
    except (DistNetworkError, DistStoreError) as error:
        raise StppError(f"{MASTER}={host}:{port}: {str(error).splitlines()[0]}") from None


def _wait(store: "TCPStore", key: str, limit: timedelta | None = None) -> dict[str, Any]:
    """What is said under a key, however long that takes unless there is a limit."""
    from torch.distributed import DistNetworkError

    began = time.monotonic()
    try:
        while not store.check([key]):
            if limit is not None and time.monotonic() - began > limit.total_seconds():
                return {}
            time.sleep(0.5)
        value: dict[str, Any] = json.loads(store.get(key))
    except DistNetworkError:
        raise StppError(f"{MASTER}: the first machine is gone; start again") from None
    return value


def _watched(store: "TCPStore", number: int, arguments: list[str], port: int) -> int:
    """`_run` as one of several machines: ended here when it fails on another, and the other way round."""
    from torch.distributed import DistNetworkError
    from torch.distributed.elastic.multiprocessing import SignalException

    over = threading.Event()

    def failed_elsewhere() -> bool:
        try:
            return bool(store.check([f"failed/{number}"]))
        except DistNetworkError:  # the first machine is gone
            return True

    def watch() -> None:
        while not over.wait(1):
            if failed_elsewhere():
                os.kill(os.getpid(), signal.SIGTERM)  # which torch's engine turns into the end of its processes
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = 1
    try:
        code = _run(arguments, f"{_master()[0]}:{port}")
        over.set()
        watcher.join()
    except SignalException:  # it came just as all had ended
        pass
    if code:
        store.set(f"failed/{number}", str(_node()))
    return code


def _run(arguments: list[str], endpoint: str) -> int:
    """The processes of this machine; endpoint: host:port where they meet those of the others."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it would say of a failed process is a page; ours is a line, after the process's own message.
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
            ended = f"process {number} (pid {failure.pid}) was ended by {name}, and the others with it"
            print(f"error: {ended}; run the same command again to go on", file=sys.stderr, flush=True)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        if error.sigval is signal.SIGINT:
            raise KeyboardInterrupt from None
        print("error: stopped, since it failed on another machine, or by a signal", file=sys.stderr, flush=True)
        return 1
    return 0
