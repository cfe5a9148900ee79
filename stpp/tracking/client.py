"""The client for MLflow: which server or database it uses, how long a call may take, and how failures are reported."""

import atexit
import ctypes
import os
import resource
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from stpp.store.files import StppError
from stpp.store.records import RunJson, read
from stpp.tracking.moved import FOLDER, foreign_root, foreign_roots, repair_locations
from stpp.tracking.secrets import hide_in_logs, without_secrets
from stpp.tracking.view import TAG, saved_view

LIMIT = "10"
"""Seconds that one call of MLflow may take in all, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set."""
REST, LONGEST = 10.0, 600.0
"""After a failed call, MLflow is not called for REST times the duration of that call, but at most LONGEST seconds.

Every further failure doubles the factor; a successful call resets it.
"""
MEMORY = 2**18
"""KiB that a call may add to the peak memory of the process."""
WRITES = ("log_artifact", "log_text", "log_image")
"""Methods of MlflowClient that write artifacts."""


class PausedError(Exception):
    """MLflow was not called, because a call failed a short while ago."""


class Client:
    """An MlflowClient whose calls have a time limit, and which pauses after a failed call.

    It has the methods of MlflowClient; each of them runs in `call`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.elsewhere = ""
        """Why artifacts are not written: they would lie in another project. Empty if they are written."""
        self._mlflow: Any = None
        self._rests_until = 0.0
        self._rest = REST
        self._why = ""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def bounded(*args: Any, **kwargs: Any) -> Any:
            if name in WRITES and self.elsewhere:
                return None
            mlflow = self._made()
            return self.call(lambda: getattr(mlflow, name)(*args, **kwargs), limit() + _mebibytes(name, args))

        return bounded

    def call(self, do: Callable[[], Any], seconds: float, stop: bool = True) -> Any:
        """Call `do` with a time limit (`with_timeout`) and return its result.

        Raises what `with_timeout` raises, and PausedError during the pause after a failed call.
        """
        begun = time.monotonic()
        if begun < self._rests_until:
            raise PausedError(f"{self._why} (not called again for a while)")
        try:
            found = with_timeout(do, seconds, stop)
        except Exception as error:
            # Other error codes are answers of a server that works: they start no pause.
            if getattr(error, "error_code", "INTERNAL_ERROR") in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                now = time.monotonic()
                self._rests_until = now + min(self._rest * (now - begun), LONGEST)
                self._rest *= 2
                self._why = reason(error)
            raise
        self._rest = REST
        return found

    def once_more(self) -> None:
        """End the pause, so that the next call is tried."""
        self._rests_until = 0.0

    def _made(self) -> Any:
        """Return MLflow's own client, made on first use.

        Imports and the creation of a database are not stopped halfway: that would leave them broken.
        """
        if self._mlflow is None:
            from mlflow import MlflowClient

            hide_in_logs()
            if self.uri.startswith(("http", "sqlite")):
                self._mlflow = MlflowClient(self.uri)
            else:
                self._mlflow = self.call(lambda: MlflowClient(self.uri), 6 * limit(), stop=False)
        return self._mlflow


def limit() -> float:
    """Return how many seconds one call of MLflow may take; what is set and is no number counts as not set."""
    try:
        return float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", LIMIT))
    except ValueError:
        return float(LIMIT)


def _mebibytes(name: str, args: tuple[Any, ...]) -> float:
    """Return the MiB that a call uploads; it may take one more second for each."""
    if name == "log_model_artifacts":
        size = sum(file.stat().st_size for file in Path(args[1]).rglob("*") if file.is_file())
    else:
        size = Path(args[1]).stat().st_size if name == "log_artifact" else len(args[1]) if name == "log_text" else 0
    return float(size) / 2**20


def with_timeout(do: Callable[[], Any], seconds: float, stop: bool = True) -> Any:
    """Call `do` and return its result, but wait at most `seconds`.

    Raises TimeoutError if the call takes longer or adds more than MEMORY to the peak memory; the call is then stopped
    (stop=False: it runs on). Errors of `do` pass through.

    The timeout of a request only limits each read, and a slow or endless answer takes any number of reads. So `do` runs
    in a daemon thread, which is not waited for after the time limit, nor when the process ends.
    """
    done: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            done.append((do(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below, except the SystemExit that stops it
            done.append((None, error))

    before = set(threading.enumerate())
    thread = threading.Thread(target=work, daemon=True)
    begun, most = time.monotonic(), _peak() + MEMORY
    thread.start()
    while thread.is_alive() and time.monotonic() - begun < seconds and _peak() < most:
        thread.join(min(0.1, seconds))
    if not done:
        helpers = [t for t in threading.enumerate() if t not in before and t.name.startswith("Mlflow")]
        for one in [thread, *helpers] if stop else ():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(one.ident or 0), ctypes.py_object(SystemExit))
        raise TimeoutError(f"no complete answer within {time.monotonic() - begun:.0f} s")
    found, error = done[0]
    if error is not None:
        raise error
    return found


def _peak() -> int:
    """Return the peak memory of the process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or else the address of the SQLite database in the project's folder.

    The database's path is absolute, because DVC's queue works in a copy of the project.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def client(root: Path) -> Client:
    """Return the client of a project, with MLflow's own messages turned off.

    If the project was copied or moved, its database is repaired first (`moved.repair_locations`).
    """
    _be_quiet()
    return _client(tracking_uri(root), root)


def reader(root: Path) -> Client:
    """Return a client for reading only, which leaves the project's database unchanged.

    If the project was copied or moved, the client reads a repaired copy of the database.
    """
    _be_quiet()
    return _reader(tracking_uri(root), root)


def _be_quiet() -> None:
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # the URL shows the password
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", LIMIT)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


@cache
def _client(uri: str, root: Path) -> Client:
    database = _database(uri, root)
    for other in repair_locations(database, root) if database else ():
        print(
            f"{database}: was copied or moved from {other}; its artifacts are now in {root / FOLDER}", file=sys.stderr
        )
    return Client(uri)


@cache
def _reader(uri: str, root: Path) -> Client:
    database = _database(uri, root)
    if database is None or not foreign_roots(database, root):
        return Client(uri)
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / database.name
    with closing(sqlite3.connect(database)) as found, closing(sqlite3.connect(copy)) as db:
        found.backup(db)
    repair_locations(copy, root)
    return Client(f"sqlite:///{copy}")


def _database(uri: str, root: Path) -> Path | None:
    """Return MLflow's SQLite database if it exists in the project's folder, else None."""
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    ours = uri.startswith("sqlite:///") and database.is_file() and database.resolve().parent == root
    return database if ours else None


@contextmanager
def default_tracking_uri(uri: str) -> Iterator[None]:
    """Set MLFLOW_TRACKING_URI to `uri` inside the block.

    Functions of MLflow that make their own client know only this variable.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def get_or_create_experiment(mlflow: Client, name: str, root: Path) -> str:
    """Return the id of an experiment, created if it does not exist. Raises what `checked_experiment_id` raises."""
    known = mlflow.get_experiment_by_name(name)
    if known is not None:
        number = checked_experiment_id(mlflow, known, root)
        if TAG not in known.tags:  # made by an older version of stpp, or by hand
            mlflow.set_experiment_tag(number, TAG, saved_view())
        return number
    # A server chooses the place of artifacts itself. With a database, MLflow would take the working directory.
    place = None if mlflow.uri.startswith("http") else (root / FOLDER / name).as_uri()
    # With the first tag, MLflow's UI shows the experiment as model training.
    tags = {"mlflow.experimentKind": "custom_model_development", TAG: saved_view()}
    return str(mlflow.create_experiment(name, artifact_location=place, tags=tags))


def checked_experiment_id(mlflow: Client, experiment: Any, root: Path) -> str:
    """Return the id of an experiment, after checking that it can be written to.

    If its artifacts lie in another project, `mlflow` writes no artifacts from now on, and a warning is printed. Raises
    StppError if the experiment is deleted, with the command that restores it.
    """
    number, name = str(experiment.experiment_id), experiment.name
    _not_deleted(mlflow, experiment, f"experiment {name}", f"experiments restore --experiment-id {number}")
    other = foreign_root(experiment.artifact_location or "", root)
    elsewhere = (
        f"artifacts of experiment {name} lie in another project ({other}): no artifacts are written" if other else ""
    )
    if elsewhere and not mlflow.elsewhere:
        print(f"MLflow: {elsewhere}; choose another data.name or MLFLOW_TRACKING_URI", flush=True)
    mlflow.elsewhere = elsewhere
    return number


def _not_deleted(mlflow: Client, one: Any, what: str, restore: str) -> None:
    if one.lifecycle_stage == "deleted":
        where = f"MLFLOW_TRACKING_URI='{mlflow.uri}' " if mlflow.uri.startswith("sqlite") else ""
        raise StppError(f"{what} is deleted; `{where}mlflow {restore}` restores it")


def query(root: Path, ask: Callable[[Client], Any]) -> Any:
    """Call `ask` with a client for reading and return its answer. Raises StppError with the reason if it fails."""
    uri = tracking_uri(root)
    if uri == f"sqlite:///{root / 'mlflow.db'}" and not (root / "mlflow.db").is_file():
        raise StppError(f"no MLflow runs: {root / 'mlflow.db'} does not exist, and MLFLOW_TRACKING_URI is not set")
    try:
        return ask(reader(root))
    except Exception as error:  # noqa: BLE001 - the command reports any failure of tracking in one line
        raise StppError(f"MLflow at {without_secrets(uri)}: {reason(error)}") from None


def run_ids_of(files: list[Path]) -> list[str | None]:
    """Return the MLflow run id of each run.json file; None where the file names no run.

    Raises StppError if a file is not a run.json.
    """
    return [read(file, RunJson)["run_id"] for file in files]


def in_run(run_json: Path, root: Path, failed: str, do: Callable[[Client, str], None]) -> None:
    """Call do(client, run id) for the run that run.json names; do nothing if there is none or tracking is off.

    Raises StppError if the file is not a run.json. Any other error is printed as "run.json: FAILED: its reason" and
    stops nothing.
    """
    [run_id] = run_ids_of([run_json])
    if run_id is None or os.environ.get("STPP_TRACKING") == "off":
        return
    try:
        mlflow = client(root)
        with default_tracking_uri(mlflow.uri):
            run = mlflow.get_run(run_id).info
            checked_experiment_id(mlflow, mlflow.get_experiment(run.experiment_id), root)
            _not_deleted(mlflow, run, f"run {run_id}", f"runs restore --run-id {run_id}")
            do(mlflow, run_id)
    except Exception as error:  # noqa: BLE001 - a failure of tracking must not stop the stage
        print(f"{run_json}: {failed}: {reason(error)}")


def reason(error: Exception) -> str:
    """Return the first line of an error without secrets, cut after 200 characters unless it is an StppError."""
    first = without_secrets((str(error).splitlines() or [type(error).__name__])[0])
    return first if isinstance(error, StppError) else first[:200]
