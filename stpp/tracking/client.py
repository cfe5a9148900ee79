"""How MLflow is reached, for how long at most, and what is said where it is not."""

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
from stpp.tracking.moved import FOLDER, bring_along, of_another, others
from stpp.tracking.secrets import hide_in_logs, without_secrets

LIMIT = "10"
"""Seconds that a call of MLflow may take in all, if MLFLOW_HTTP_REQUEST_TIMEOUT names no other number."""
REST, LONGEST = 10.0, 600.0
"""After a failure MLflow is left alone for so many times as long as that took, and twice as long after every further
one; for so many seconds at most."""
MEMORY = 2**18
"""KiB that a call may add to the most that the process has ever had."""
WRITES = ("log_artifact", "log_text", "log_image")


class LeftAloneError(Exception):
    """MLflow is not asked, since it failed a short while ago."""


class Client:
    """An MlflowClient whose calls end in time, whatever a server does, and which rests after one that failed."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.elsewhere = ""
        """Why no artifact is written, if these would lie in another project."""
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
        """What `do` returns or raises, as `in_time` does. Raises LeftAloneError while MLflow is left alone."""
        begun = time.monotonic()
        if begun < self._rests_until:
            raise LeftAloneError(f"{self._why} (left alone for a while)")
        try:
            found = in_time(do, seconds, stop)
        except Exception as error:
            # To say no is an answer, too.
            if getattr(error, "error_code", "INTERNAL_ERROR") in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                now = time.monotonic()
                self._rests_until = now + min(self._rest * (now - begun), LONGEST)
                self._rest *= 2
                self._why = reason(error)
            raise
        self._rest = REST
        return found

    def once_more(self) -> None:
        """Try the next call, whatever failed before."""
        self._rests_until = 0.0

    def _made(self) -> Any:
        """MLflow's own client. Imports, and the making of a database, are not cut short: these would be left broken."""
        if self._mlflow is None:
            from mlflow import MlflowClient

            hide_in_logs()
            if self.uri.startswith(("http", "sqlite")):
                self._mlflow = MlflowClient(self.uri)
            else:
                self._mlflow = self.call(lambda: MlflowClient(self.uri), 6 * limit(), stop=False)
        return self._mlflow


def limit() -> float:
    return float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", LIMIT))


def _mebibytes(name: str, args: tuple[Any, ...]) -> float:
    """How much a call sends: so many more seconds it may take."""
    size = Path(args[1]).stat().st_size if name == "log_artifact" else len(args[1]) if name == "log_text" else 0
    return float(size) / 2**20


def in_time(do: Callable[[], Any], seconds: float, stop: bool = True) -> Any:
    """What `do` returns or raises. Raises TimeoutError if it takes too long, or too much memory; it is stopped then.

    The timeouts of a request are those of each read, of which a slow or an endless answer takes any number. So it runs
    in a thread of its own, for which no one waits, neither here nor when the process ends.
    """
    done: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            done.append((do(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below, but what stopped it
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
        raise TimeoutError(f"no whole answer within {time.monotonic() - begun:.0f} s")
    found, error = done[0]
    if error is not None:
        raise error
    return found


def _peak() -> int:
    """The most memory that the process has ever had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the project's folder (absolute, since DVC's queue works in a copy)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def client(root: Path) -> Client:
    """What MLflow is asked by, quietly. The database of a project that was copied or moved is mended first."""
    _be_quiet()
    return _client(tracking_uri(root), root)


def reader(root: Path) -> Client:
    """As `client`, for those who only ask: of such a project it reads a mended copy of the database."""
    _be_quiet()
    return _reader(tracking_uri(root), root)


def _be_quiet() -> None:
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with the password
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", LIMIT)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


@cache
def _client(uri: str, root: Path) -> Client:
    database = _database(uri, root)
    for other in bring_along(database, root) if database else ():
        print(f"{database}: was made in {other}; its artifacts are {root / FOLDER} from now on", file=sys.stderr)
    return Client(uri)


@cache
def _reader(uri: str, root: Path) -> Client:
    database = _database(uri, root)
    if database is None or not others(database, root):
        return Client(uri)
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / database.name
    with closing(sqlite3.connect(database)) as found, closing(sqlite3.connect(copy)) as db:
        found.backup(db)
    bring_along(copy, root)
    return Client(f"sqlite:///{copy}")


def _database(uri: str, root: Path) -> Path | None:
    """The SQLite database in the project's folder, if MLflow's is such a one."""
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    ours = uri.startswith("sqlite:///") and database.is_file() and database.resolve().parent == root
    return database if ours else None


@contextmanager
def by_default(uri: str) -> Iterator[None]:
    """MLFLOW_TRACKING_URI is this: what of MLflow makes a client of its own knows that address alone."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def experiment_of(mlflow: Client, name: str, root: Path) -> str:
    """The id of an experiment, made where it is not there. Raises as `usable` does."""
    known = mlflow.get_experiment_by_name(name)
    if known is not None:
        return usable(mlflow, known, root)
    # A server chooses its own place; beside a database it would be the working directory of the moment.
    place = None if mlflow.uri.startswith("http") else (root / FOLDER / name).as_uri()
    # The kind makes the UI open as one for model training.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return str(mlflow.create_experiment(name, artifact_location=place, tags=tags))


def usable(mlflow: Client, experiment: Any, root: Path) -> str:
    """The id of an experiment; none of its artifacts is written if these lie in another project, which is said.

    Raises StppError if it is deleted, with the command that restores it.
    """
    number, name = str(experiment.experiment_id), experiment.name
    _not_deleted(mlflow, experiment, f"experiment {name}", f"experiments restore --experiment-id {number}")
    other = of_another(experiment.artifact_location or "", root)
    elsewhere = f"artifacts of experiment {name} lie in another project ({other}): none is written" if other else ""
    if elsewhere and not mlflow.elsewhere:
        print(f"MLflow: {elsewhere}; choose another data.name or MLFLOW_TRACKING_URI", flush=True)
    mlflow.elsewhere = elsewhere
    return number


def _not_deleted(mlflow: Client, one: Any, what: str, restore: str) -> None:
    if one.lifecycle_stage == "deleted":
        where = f"MLFLOW_TRACKING_URI='{mlflow.uri}' " if mlflow.uri.startswith("sqlite") else ""
        raise StppError(f"{what} is deleted; `{where}mlflow {restore}` restores it")


def asked(root: Path, ask: Callable[[Client], Any]) -> Any:
    """What MLflow answers. Raises StppError with its reason if it does not."""
    uri = tracking_uri(root)
    if uri == f"sqlite:///{root / 'mlflow.db'}" and not (root / "mlflow.db").is_file():
        raise StppError(f"no MLflow run is known: {root / 'mlflow.db'} is not there, and MLFLOW_TRACKING_URI not set")
    try:
        return ask(reader(root))
    except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the command says it in one line
        raise StppError(f"MLflow at {without_secrets(uri)}: {reason(error)}") from None


def run_ids_of(files: list[Path]) -> list[str | None]:
    """The MLflow runs that files run.json name, as far as they do. Raises StppError if one is no such file."""
    from stpp.store.records import Run, read

    return [read(file, Run)["run_id"] for file in files]


def in_run(run_json: Path, root: Path, failed: str, do: Callable[[Client, str], None]) -> None:
    """Call do(client, run id) for the run that run.json names, if there is one.

    A failure is said, "run.json: FAILED: its reason", and stops nothing.
    """
    [run_id] = run_ids_of([run_json])
    if run_id is None or os.environ.get("STPP_TRACKING") == "off":
        return
    try:
        mlflow = client(root)
        with by_default(mlflow.uri):
            run = mlflow.get_run(run_id).info
            usable(mlflow, mlflow.get_experiment(run.experiment_id), root)
            _not_deleted(mlflow, run, f"run {run_id}", f"runs restore --run-id {run_id}")
            do(mlflow, run_id)
    except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the stage goes on
        print(f"{run_json}: {failed}: {reason(error)}")


def reason(error: Exception) -> str:
    """The first line of an error, without what is secret."""
    first = without_secrets((str(error).splitlines() or [type(error).__name__])[0])
    return first if isinstance(error, StppError) else first[:200]
