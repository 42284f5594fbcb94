"""MLflow's store: its address, a client for it, and the time that a stage waits for it."""

import hashlib
import os
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

VARIABLE, SECONDS = "RMLR_TRACKING_SECONDS", 60.0
KIND = "mlflow.experimentKind"  # of training runs: MLflow's pages then hide the parts for language models
DEFAULTS = {  # no telemetry; few retries, since a stage waits only for a limited time
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def tracking_uri() -> str:
    """The user's server, or `mlflow.db` of this checkout. Sets defaults, so call it before mlflow is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{checkout(Path.cwd()) / 'mlflow.db'}"


def checkout(folder: Path) -> Path:
    """The folder itself; for a temporary workspace of a DVC experiment, the checkout that it belongs to.

    `dvc exp run --queue` and `--temp` work in CHECKOUT/.dvc/tmp/exps/...
    """
    place = folder.resolve()
    for above in place.parents:
        if above.parts[-3:] == (".dvc", "tmp", "exps"):
            return above.parents[2]
    return place


def longest_wait() -> float:
    """Seconds that a stage waits for the store, in total over all calls: RMLR_TRACKING_SECONDS, default 60."""
    given = os.environ.get(VARIABLE)
    try:
        seconds = SECONDS if given is None else float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"{VARIABLE} is '{given}', expected a number of seconds above 0, such as 60")
    return seconds


class Patience:
    """Runs calls one after the other, and waits for them for a limited time in total.

    They run in a separate thread, since locks, sockets and databases may block without a time limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = self._left = seconds
        self._waiting: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, action: Callable[[], None]) -> None:
        """Run the call, and raise its errors. TimeoutError when the time is over, even if the call is still running."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
            self._thread.start()
        done: Future[None] = Future()
        began = time.monotonic()
        self._waiting.put((action, done))
        try:
            done.result(timeout=self._left)
        except TimeoutError:
            if done.done():
                raise
            raise TimeoutError(
                f"no answer within the {self.seconds:g} seconds that a stage waits ({VARIABLE})"
            ) from None
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - began))

    def _work(self) -> None:
        while True:
            action, done = self._waiting.get()
            try:
                action()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)


class Guarded:
    """A client that refuses calls after the time limit: an abandoned call must not start later."""

    def __init__(self, client: Any, is_given_up: Callable[[], bool]) -> None:
        self._client, self._is_given_up = client, is_given_up

    def __getattr__(self, name: str) -> Any:
        if self._is_given_up():
            raise TimeoutError("the time limit of this call is over")
        return getattr(self._client, name)


def connect(seconds: float = SECONDS) -> Any:
    """A client of the user's tracking server, or of `mlflow.db` here. `seconds` limits the wait for a lock."""
    uri = tracking_uri()
    from mlflow import MlflowClient

    path, lock = _database(uri), _lock(uri)
    if path is not None and path.exists() and path.stat().st_size:
        _must_be_writable(path, uri)  # MLflow would try for a minute and a half
        lock = None
    if lock is None:
        return _opened(MlflowClient, uri)
    # One process at a time, since each creates missing tables: simultaneous ones would create the same tables.
    try:
        with FileLock(lock, timeout=0.9 * seconds):
            if path is not None:
                _make_whole(path)
            return _opened(MlflowClient, uri)
    except Timeout as error:
        raise TimeoutError(f"{lock} has been held by another process for {0.9 * seconds:g} seconds") from error


def _opened(make: Callable[..., Any], uri: str) -> Any:
    client = make(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


def _database(uri: str) -> Path | None:
    """The database file, if the store is SQLite."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0].removeprefix("file:"))


def _lock(uri: str) -> Path | None:
    """The lock for a store that is a database; a server does its own locking."""
    if (path := _database(uri)) is not None:
        return Path(f"{path}.lock")
    if uri.startswith(("postgresql", "mysql", "mssql")):
        name = hashlib.sha256(uri.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir(), f"rmlr-{os.getuid()}-{name}.lock")
    return None


def _must_be_writable(path: Path, uri: str) -> None:
    """ValueError if this file is not an SQLite database, or is read-only."""
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if "mode=ro" in uri or not os.access(path, os.W_OK):
            raise PermissionError("it is read-only")
    except (sqlite3.DatabaseError, PermissionError) as error:
        raise ValueError(
            f"{path}: {error}. Repair or replace it, or move it away: then a new one is created, without earlier runs"
        ) from error


def _make_whole(path: Path) -> None:
    """Create a new database under a temporary name: a partial one, after a kill, would be unusable."""
    from mlflow import MlflowClient

    if not path.exists():
        aside = path.with_name(f"{path.name}.part")
        for left in path.parent.glob(f"{aside.name}*"):
            left.unlink()
        MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments()
        aside.replace(path)


# ---- what is in it


def experiment(client: Any, name: str) -> str:
    """The experiment of that name, created if it does not exist."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            files = None if os.environ.get("MLFLOW_TRACKING_URI") else (checkout(Path.cwd()) / "mlruns" / name).as_uri()
            return client.create_experiment(name, files, tags={KIND: "custom_model_development"})
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def log_inputs(client: Any, run_id: str, inputs: Sequence[Any]) -> None:
    """Log a run's data sets, with retries: if several processes add the same one at once, a database accepts one."""
    from mlflow.exceptions import MlflowException

    for wait in (0.2, 0.5, 1.0):
        try:
            return client.log_inputs(run_id, inputs)
        except MlflowException:
            time.sleep(wait)
    return client.log_inputs(run_id, inputs)


def knows(client: Any, run_id: str) -> bool:
    """Whether the store has this run, and it is not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False
