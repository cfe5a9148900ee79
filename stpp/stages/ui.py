"""The `ui` command: opens the project's runs in MLflow's UI."""

import os
import socket
import sys
from contextlib import nullcontext, suppress
from typing import Annotated

from typer import Option

from stpp.params.file import load
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import StppError
from stpp.tracking.client import client, query, tracking_uri
from stpp.tracking.secrets import link
from stpp.tracking.view import address

FIRST, LAST = 5000, 5099
"""The ports that are tried one after the other."""


def ui(
    port: Annotated[int | None, Option(help=f"Port; by default the first free one from {FIRST} on.")] = None,
    params: options.Params = None,
) -> None:
    """Start MLflow's UI, and print the address of the project's runs.

    If MLFLOW_TRACKING_URI names a server, the command only prints the address.
    """
    name, uri = load(options.params_files(params)).data.name, tracking_uri(root())
    client(root())  # repairs the database of a project that was copied
    served, experiment = uri.startswith("http"), None
    with suppress(StppError) if served else nullcontext():
        experiment = query(root(), lambda mlflow: mlflow.get_experiment_by_name(name))
    page = address(experiment) if experiment else ""
    if served:
        print(f"{link(uri)}{page}")
        return
    chosen = port or next((one for one in range(FIRST, LAST + 1) if _free(one)), 0)
    if not chosen or not _free(chosen):
        raise StppError(f"port {port or f'{FIRST} to {LAST}'}: in use; choose another one with --port")
    print(f"open http://127.0.0.1:{chosen}{page}   (Ctrl-C stops the server)", flush=True)
    # The address of the database may hold a password, so it is not an argument, which other users could see.
    words = ("-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(chosen), "--workers", "1")
    os.execve(sys.executable, [sys.executable, *words], os.environ | {"MLFLOW_BACKEND_STORE_URI": uri})


def _free(port: int) -> bool:
    with socket.socket() as one, suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        return True
    return False
