"""A `python` that has already loaded torch, MLflow and DVC, for what tests start: each process starts seconds sooner.

A server loads them once and forks for every call. The fork is a process of its own, with the caller's arguments,
folder, environment and output, and imports `stpp` itself. The server ends with the process that started it.
"""

import atexit
import gc
import inspect
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

MODULES = ("stpp", "dvc", "torch.distributed.run")
"""Modules that the server runs for a caller."""
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
words = [{words}*sys.argv[1:]]
if words[:1] == ["-u"]:  # output is unbuffered anyway
    del words[0]
if words[:1] != ["-m"] and not words[0].endswith(".py") or words[0] == "-m" and words[1] not in {modules}:
    os.execv("{python}", ["{python}", *words])
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect("{address}")
socket.send_fds(server, [json.dumps([words, os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
process = int(server.recv(64))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.killpg(process, number))
code = int(server.recv(64))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""

PACKAGES = (
    *("albumentations", "kornia_rs", "matplotlib.pyplot", "mlflow.pyfunc", "ruamel.yaml", "scipy.ndimage", "tifffile"),
    *("timm", "torch", "torch.distributed.run", "torchvision", "typer.rich_utils"),
    *("dvc.cachemgr", "dvc.cli.parser", "dvc.commands.repro", "dvc.repo.status", "dvc.scm", "dvc.stage.run"),
)
"""What the server loads."""


@cache
def folder() -> str:
    """Start the server, and return a folder with a `python`, a `stpp` and a `dvc` that call it."""
    own = Path(tempfile.mkdtemp(prefix="warm-"))
    address = own / "server"
    for name, words in {"python": "", "stpp": '"-m", "stpp", ', "dvc": '"-m", "dvc", '}.items():
        text = CLIENT.format(python=sys.executable, address=address, words=words, modules=MODULES)
        (own / name).write_text(text)
        (own / name).chmod(0o755)
    ready, theirs = os.pipe()
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "Agg",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    server = subprocess.Popen([sys.executable, __file__, str(address), str(theirs)], env=env, pass_fds=[theirs])
    os.close(theirs)
    assert os.read(ready, 1), "the server did not start"
    atexit.register(shutil.rmtree, own)
    atexit.register(server.wait)
    atexit.register(os.close, ready)  # the server ends when nobody holds this end of the pipe any more
    return str(own)


def _serve(address: str, ready: int) -> list[str]:
    """Answer calls. Returns in every process that is forked for a call, with the call's arguments.

    ready: the pipe that gets a byte when calls are answered. The server ends when its other end is closed.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(address)
        server.listen()
        os.write(ready, b"1")
        events = select.poll()
        events.register(server, select.POLLIN)
        events.register(ready, select.POLLERR)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
        while ready not in dict(events.poll()):
            call, _ = server.accept()
            if os.fork() == 0:
                server.close()
                os.close(ready)
                return _called(call)
            call.close()
    sys.exit()


def _called(call: socket.socket) -> list[str]:
    """Fork again: the child returns the call's arguments, and the parent waits for it and answers."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(call, 2**20, 3)
    process = os.fork()
    os.setpgid(process, process)  # by both, so that it is done before anything else; a signal reaches all of the group
    if process:
        call.send(str(process).encode())
        ended = os.pidfd_open(process)
        if ended not in select.select([ended, call.fileno()], [], [])[0]:  # the caller was killed
            os.killpg(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        with suppress(BrokenPipeError):
            call.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    call.close()
    words, cwd, env = json.loads(message)
    for at, file in enumerate(files):
        os.dup2(file, at)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    found: list[str] = words
    return found


def _run(is_module: bool, name: str) -> int:
    """Run a module as `python -m` does, or a file, with what Python does at its end, and return the exit code.

    Raises any other exception than SystemExit.
    """
    code: object = None
    try:
        if is_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        code = end.code
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    for package in PACKAGES:
        import_module(package)
    inspect.getmodule(inspect.currentframe())  # Pydantic asks it: the table of all modules is made once, here
    gc.freeze()  # a collection in a fork would copy all of it
    server = Path(sys.argv[1])
    given = _serve(str(server), int(sys.argv[2]))
    sys.executable = str(server.with_name("python"))  # for torchrun's processes
    module = given[0] == "-m"
    sys.argv = given[module:]
    if module:
        sys.path[0] = str(Path.cwd())
    else:
        sys.path.insert(0, str(Path(given[0]).parent))
    os._exit(_run(module, sys.argv[0]))  # without the end of all objects, which would copy all of memory
