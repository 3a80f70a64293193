"""The database of a study: a SQLite file with one writer and a copy in the bucket, or PostgreSQL for many writers.

The password of PostgreSQL's user comes from PGPASSWORD, which the client library reads itself.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import psycopg
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from transformer.config import Config
from transformer.errors import ServiceError, UnansweredError, UserError, remedy
from transformer.files import content_hash
from transformer.storage.bucket import Bucket, TransferSettings
from transformer.text import redact
from transformer.tuning.bucket_copy import BucketCopy
from transformer.tuning.lease import LeaseSettings, OccupiedError, leased, only_writer_here
from transformer.tuning.patient_storage import PatientStorage, away, raise_unanswered
from transformer.waiting import patiently

log = logging.getLogger(__name__)

OnStale = Callable[[optuna.Study, FrozenTrial], None]

_STALE_BEATS = 4  # missed heartbeats after which a worker counts as dead
# A connection whose other end vanished ends within a minute, on both sides. Then the server frees its locks.
_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}  # s, s, times
_SESSION = "; ".join(
    [
        # Heartbeats are compared in the session's time zone. UTC is the same for every worker, without summer time.
        "SET TIME ZONE 'UTC'",
        *(f"SET tcp_{name} = {value}" for name, value in _KEEPALIVES.items()),
    ]
)
# libpq gives the reason of a refused connection only as text.
_REFUSED = re.compile(r"authentication|password|does not exist|pg_hba\.conf|permission denied|not permitted")
_TLS = re.compile(r"no encryption|certificate|does not support SSL|SSL error: (?:wrong|unsupported|tlsv1|sslv3)")
_ATTEMPT = re.compile(r"connection failed: |connection to server at .*? failed: |FATAL: ")
_LOCK_PAUSE_S = 0.1  # between two tries to get a lock


@dataclass(frozen=True)
class DatabaseSettings:
    """Time limits of leases and locks."""

    lease: LeaseSettings = field(default_factory=LeaseSettings)
    exclusive_within_s: float = 120.0  # to wait for the lock; another worker claims its trial in a second


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class StudyDatabase:
    """An open database of studies, to run trials."""

    storage: RDBStorage
    # This process is the only writer, so a process that died has left every running trial.
    alone: bool
    # Only one worker on all hosts holds it at a time. Raises ServiceError if the worker waits too long.
    exclusively: Callable[[], AbstractContextManager[None]] = nullcontext
    # Saves the database to the bucket, if the configuration says so. Raises ServiceError if it fails.
    save: Callable[[], None] = _nothing


@contextmanager
def open_database(
    config: Config, holder: str, on_stale: OnStale, settings: DatabaseSettings | None = None
) -> Iterator[StudyDatabase]:
    """Open the database of `search.storage_url`, or the SQLite file at `paths.optuna_db`, to run trials.

    Only this process may write the file on this machine and, with `data.save_results_to_s3`, on any machine.

    Args:
        holder: MLflow run of the study, "" = none. A process of the same run, such as a retry, takes over the lease of
            the file in the bucket.
        on_stale: called by `optuna.storages.fail_stale_trials` for each trial in PostgreSQL without heartbeats.

    Raises:
        OccupiedError: another process writes the file; the error names it and the remedy.
        UserError: the server refuses address or password, or the file or its copy in the bucket is damaged.
        ServiceError: the server or the bucket does not answer.
    """
    settings = settings or DatabaseSettings()
    opened = (
        _open_postgresql(config, on_stale, settings)
        if config.search.storage_url
        else _open_sqlite(config, holder, settings)
    )
    with opened as database:
        yield database


@contextmanager
def read_database(config: Config) -> Iterator[RDBStorage]:
    """Open the same database to report from, also while other processes write it. Nothing is sent to the bucket.

    With `data.download_data_from_s3`, the bucket's copy takes the place of the local SQLite file, unless the file
    descends from the copy or is being written.

    Raises:
        UserError: the database does not exist, or is damaged.
        ServiceError: the server or the bucket does not answer.
    """
    if config.search.storage_url:
        with _storage(config) as storage:
            yield storage
        return
    path = Path(config.paths.optuna_db)
    if config.data.download_data_from_s3:
        try:
            with only_writer_here(path, ""):
                BucketCopy(path, _bucket(config, DatabaseSettings())).fetch()
        except OccupiedError as occupied:
            log.info("%s; the local file is read without a download", str(occupied).partition(";")[0])
    if not path.is_file():
        raise UserError(
            f"paths.optuna_db={path} does not exist; run a study first, or set data.download_data_from_s3=true if the "
            "bucket holds it"
        )
    with _storage(config) as storage:
        yield storage


def beat(storage: RDBStorage, trial_id: int) -> None:
    """Record a heartbeat of the trial, if the storage has heartbeats. A failure is only logged."""
    if storage.get_heartbeat_interval() is None:
        return
    try:
        storage.record_heartbeat(trial_id)
    except Exception as error:  # no error of a heartbeat may end the trial
        log.warning("no heartbeat of the trial: %s", _reason(error))


@contextmanager
def beating(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Record a heartbeat of the trial now and at every interval, if the storage has heartbeats.

    Optuna does this only in `Study.optimize`. After an error, the next beat tries again.
    """
    interval_s = storage.get_heartbeat_interval()
    if interval_s is None:
        yield
        return
    stop = threading.Event()
    beat(storage, trial_id)

    def keep() -> None:
        while not stop.wait(interval_s):
            beat(storage, trial_id)

    heart = threading.Thread(target=keep, name="heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()


@contextmanager
def database_errors(config: Config) -> Iterator[None]:
    """Turn errors of Optuna's storage and of SQLAlchemy into one line that names the database, without its password.

    Raises:
        UserError: the server refuses, or the file is not a database.
        ServiceError: any other error.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:  # their text may hold the address with the password
        raise _explained(config, error) from None


@contextmanager
def _open_sqlite(config: Config, holder: str, settings: DatabaseSettings) -> Iterator[StudyDatabase]:
    path, data = Path(config.paths.optuna_db), config.data
    save = _nothing
    with ExitStack() as stack:
        stack.enter_context(only_writer_here(path, holder))
        if data.download_data_from_s3 or data.save_results_to_s3:
            bucket = _bucket(config, settings)
            copy = BucketCopy(path, bucket)
            if data.save_results_to_s3:
                lease = stack.enter_context(leased(bucket, copy.lease_name, holder, settings.lease))
                copy.remove_leftovers()
                save = partial(copy.save, lease)
            if data.download_data_from_s3:
                copy.fetch()
            else:
                copy.refuse_unknown()
        yield StudyDatabase(stack.enter_context(_storage(config)), alone=True, save=save)


def _bucket(config: Config, settings: DatabaseSettings) -> Bucket:
    """The bucket of the study. The process notices that it does not answer before the lease of the study expires."""
    wait_s = min(config.compute.service_wait_s, settings.lease.renewable_s)
    return Bucket.from_config(config, TransferSettings(wait_s=wait_s, connect_timeout_s=5.0, read_timeout_s=20.0))


@contextmanager
def _open_postgresql(config: Config, on_stale: OnStale, settings: DatabaseSettings) -> Iterator[StudyDatabase]:
    search = config.search
    with _storage(
        config,
        heartbeat_interval=search.heartbeat_s,
        grace_period=_STALE_BEATS * search.heartbeat_s,
        heartbeat_stale_trial_callback=on_stale,
    ) as storage:
        assert isinstance(storage, PatientStorage)

        @contextmanager
        def exclusively() -> Iterator[None]:
            with ExitStack() as stack:
                lock = _advisory_lock(config, f"study {search.study_name}", settings.exclusive_within_s)
                with storage.noting_silence():
                    stack.enter_context(lock)
                yield

        yield StudyDatabase(storage, alone=False, exclusively=exclusively)


@contextmanager
def _storage(config: Config, **heartbeats: Any) -> Iterator[RDBStorage]:
    """Optuna's storage with its tables. It is disconnected at the end."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = partial(_postgresql_storage if config.search.storage_url else _sqlite_storage, config, **heartbeats)
    with database_errors(config), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are experimental
        try:
            storage = opened()
        except RuntimeError as error:  # tables of another version of Optuna; the error says how to upgrade them
            if isinstance(error, ServiceError):
                raise
            raise UserError(f"{_address(config)}: {error}") from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _sqlite_storage(config: Config, **heartbeats: Any) -> RDBStorage:
    url = sqlalchemy.URL.create("sqlite", database=str(Path(config.paths.optuna_db).resolve())).render_as_string()
    timeout_s = 60.0  # for which a writer waits for a reader, such as the dashboard
    return RDBStorage(url, {"connect_args": {"timeout": timeout_s}}, **heartbeats)


def _postgresql_storage(config: Config, **heartbeats: Any) -> RDBStorage:
    def connect() -> RDBStorage:
        # Without the lock, workers that start at the same instant would create the same tables.
        with _advisory_lock(config, "tables", DatabaseSettings.exclusive_within_s), _unanswered(config):
            return PatientStorage(
                config.search.storage_url,
                {**_postgresql_engine(), "pool_pre_ping": True},
                wait_s=config.compute.service_wait_s,
                unanswered=partial(_away, config),
                **heartbeats,
            )

    return patiently(connect, config.compute.service_wait_s)


def _away(config: Config, error: BaseException) -> UnansweredError | None:
    """The error to raise in place of this one of psycopg, if the server is away."""
    if not away(error) or _refused(error):
        return None
    return UnansweredError(
        _address(config),
        _reason(error),
        remedy(
            laptop="check that it runs and is reachable, then run again",
            pod="ask those who run it, or check the network of the cluster, then run again",
        ),
    )


@contextmanager
def _unanswered(config: Config) -> Iterator[None]:
    """Raise UnansweredError in place of an error of SQLAlchemy or Optuna which says that the server is away."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        if (instead := _away(config, _cause(error))) is not None:
            raise instead from None
        raise


def _postgresql_engine() -> dict[str, Any]:
    """Options of a connection to PostgreSQL."""
    return {
        "connect_args": {
            "connect_timeout": 10,  # s
            "tcp_user_timeout": 60_000,  # ms
            # Prepared statements belong to a connection of the server. Behind a pooler, such as pgbouncer in
            # transaction mode, the next transaction has another one.
            "prepare_threshold": None,
            **_KEEPALIVES,
        },
        "pool_events": [(_prepare, "connect")],
    }


def _prepare(connection: Any, _record: Any) -> None:
    connection.execute(_SESSION)
    connection.commit()


@contextmanager
def _advisory_lock(config: Config, what: str, within_s: float) -> Iterator[None]:
    """Hold the lock `what` of the whole database. The lock ends with the connection, also if the process is killed.

    The lock belongs to a transaction and not to a session, so it also works through a connection pooler.

    Raises:
        ServiceError: another worker kept the lock for `within_s`, or the server does not answer.
    """
    key = int(content_hash("train delays", what), 16) - 2**63  # any signed 64-bit number
    with database_errors(config):
        engine = sqlalchemy.create_engine(config.search.storage_url, poolclass=NullPool, **_postgresql_engine())
        raise_unanswered(engine, partial(_away, config))
        connection = patiently(partial(_locked, config, engine, key, what, within_s), config.compute.service_wait_s)
    with connection:
        yield
        try:
            with database_errors(config):
                connection.commit()
        except UnansweredError as error:
            # The block has written its results, so it is not repeated.
            log.warning("the lock of the %s was lost before its end, and another worker may have it: %s", what, error)


def _locked(config: Config, engine: sqlalchemy.Engine, key: int, what: str, within_s: float) -> sqlalchemy.Connection:
    """A connection whose transaction holds the advisory lock `key`.

    A worker that waits holds no transaction. Otherwise, the waiting ones could take every connection of a pooler, and
    the worker that holds the lock would get none for its work.
    """
    latest = time.monotonic() + within_s
    connection = engine.connect()
    try:
        while not connection.scalar(sqlalchemy.text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}):
            connection.rollback()
            if time.monotonic() > latest:
                raise ServiceError(
                    f"{_address(config)}: another worker has kept the {what} for {within_s:.0f} s; "
                    "stop it if it hangs, then run the stage again"
                )
            time.sleep(_LOCK_PAUSE_S)
    except BaseException:
        connection.close()
        raise
    return connection


def _refused(error: BaseException) -> bool:
    """Whether the server refused a connection for a reason that only the user can mend."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is not None:
        return False
    return bool(_REFUSED.search(_reason(error)) or _TLS.search(_reason(error)))


def _explained(config: Config, error: BaseException) -> UserError | ServiceError:
    cause, where, reason = _cause(error), _address(config), _reason(error)
    if not config.search.storage_url:
        if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.OperationalError):
            return UserError(f"{where} is not a sound SQLite database ({reason}); restore or remove it")
        return ServiceError(f"{where} cannot be used ({reason}); check its folder and the disk, then run again")
    if isinstance(cause, psycopg.errors.InsufficientPrivilege | psycopg.errors.InvalidSchemaName):
        return UserError(f"{where}: {reason}; {_missing_right(reason)}")
    if _refused(cause) and _TLS.search(reason):
        return UserError(f"{where}: {reason}; correct sslmode and sslrootcert in search.storage_url")
    if _refused(cause) or isinstance(cause, ArgumentError | psycopg.ProgrammingError):
        return UserError(f"{where}: {reason}; correct search.storage_url, and give its user's password in PGPASSWORD")
    return ServiceError(f"{where} did not answer ({reason}); check that it runs and is reachable, then run again")


def _missing_right(reason: str) -> str:
    """The remedy for a role that lacks a right."""
    if re.search("permission denied for (table|sequence)", reason):
        return (
            "let its user write there, GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO …; "
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO …"
        )
    schema = re.search(r"permission denied for schema (\S+)", reason)
    return f"let its user create tables there, GRANT USAGE, CREATE ON SCHEMA {schema[1] if schema else '…'} TO …"


def _address(config: Config) -> str:
    url = config.search.storage_url
    # Options after the ? may hold a password too.
    address = str(redact(url)).partition("?")[0]
    return f"search.storage_url={address}" if url else f"paths.optuna_db={config.paths.optuna_db}"


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    cause = _cause(error)
    # If there are several hosts, the last line is about the last one.
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    line = lines[-1] if lines[0].endswith(":") else lines[0]
    return str(redact(_ATTEMPT.sub("", " ".join(line.split()))))[:200]
