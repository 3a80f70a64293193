"""Study databases in processes: one writer of a SQLite file and of its copy in S3, many writers of PostgreSQL."""

import json
import logging
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from botocore.exceptions import ClientError

from tests.support import commands
from tests.support.patience import wait_until
from transformer.config import Config, load_config
from transformer.errors import ServiceError, UserError
from transformer.storage.bucket import Bucket
from transformer.tuning.database import (
    DatabaseSettings,
    StudyDatabase,
    beating,
    database_errors,
    open_database,
    read_database,
)
from transformer.tuning.lease import LeaseSettings, OccupiedError

pytestmark = pytest.mark.slow  # a hundred seconds together

PROGRAM = Path(__file__).with_name("database_process.py")
DB, LOCK = "optuna/studies.db", "optuna/studies.db.lock"
QUICK = LeaseSettings(renew_every_s=0.2, expires_after_s=2.0)
NEVER = LeaseSettings(renew_every_s=3_600.0, expires_after_s=3_600.0, settles_s=0.1)


def configuration(folder: Path, *overrides: str) -> Config:
    return load_config("local", [f"paths.optuna_db={folder}/studies.db", "compute.service_wait_s=2", *overrides])


def opened(config: Config, holder: str = "", lease: LeaseSettings = QUICK):
    return open_database(config, holder, ignore, DatabaseSettings(lease))


def ignore(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    pass


def add_trials(storage: optuna.storages.RDBStorage, count: int) -> None:
    study = optuna.create_study(storage=storage, study_name="delays", load_if_exists=True)
    for _ in range(count):
        study.add_trial(optuna.create_trial(value=1.0))


def trials(storage: optuna.storages.RDBStorage) -> int:
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    return len(optuna.load_study(study_name="delays", storage=storage).trials) if "delays" in names else 0


def trials_in(content: bytes, folder: Path) -> int:
    (folder / "looked-at.db").write_bytes(content)
    with closing(sqlite3.connect(folder / "looked-at.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(database.execute("SELECT count(*) FROM trials").fetchone()[0])


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and len(text) < 500
    return text


class Process:
    """`database_process.py`, stopped with the test."""

    def __init__(self, folder: Path, overrides: list[str], holder: str, lease: LeaseSettings) -> None:
        folder.mkdir(exist_ok=True)
        where = f"paths.optuna_db={folder}/studies.db"
        self._process = commands.start(str(PROGRAM), holder, json.dumps(vars(lease)), *overrides, where)
        self.pid = self._process.pid
        assert self.answer() == "ready"

    def tell(self, line: str) -> None:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        return self._process.stdout.readline().rstrip()

    def rest(self) -> list[str]:
        return self._process.stdout.read().splitlines()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._process.stdin.close()
        assert self._process.wait() == 0


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a process; with `open`, waits until the process has opened the database."""
    started = []

    def start(
        *overrides: str, holder: str = "", folder: str = "disk", lease: LeaseSettings = QUICK, opens: bool = True
    ) -> Process:
        started.append(made := Process(tmp_path / folder, list(overrides), holder, lease))
        if opens:
            assert made.ask("go") == "open"
        return made

    yield start
    for one in started:
        one.kill()


# --- a SQLite file on one machine ------------------------------------------------------------------------------------
def test_a_study_is_there_again_when_its_database_is_opened_again(tmp_path):
    config = configuration(tmp_path / "new" / "folder")
    with (
        pytest.raises(
            UserError, match=r"^paths\.optuna_db=.* not exist; run a study .*data\.download_data_from_s3=true"
        ),
        read_database(config),
    ):
        pass
    with opened(config) as database:
        assert database.alone
        with database.exclusively():
            add_trials(database.storage, 2)
        database.save()
    with opened(config) as database:
        add_trials(database.storage, 1)
    with read_database(config) as storage:
        assert trials(storage) == 3
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"studies.db", "studies.db.lock"}


def test_a_second_process_is_refused_by_name_until_the_first_dies(tmp_path, process):
    first = process(holder="0123abcd")
    config = configuration(tmp_path / "disk")
    with pytest.raises(OccupiedError) as caught, opened(config, "0123abcd"):
        pass
    text = one_line(caught.value)
    assert re.search(rf"is being written by MLflow run 0123abcd, process {first.pid} on \S+, since \d{{4}}-", text)
    assert text.endswith(f"stop process {first.pid}")
    first.ask("trials 2")
    with read_database(config) as storage:  # the lock does not exclude readers
        assert trials(storage) == 2
    first.kill()
    with opened(config) as database:
        assert trials(database.storage) == 2


def test_the_same_process_cannot_open_it_twice(tmp_path):
    config = configuration(tmp_path)
    with (
        opened(config),
        pytest.raises(OccupiedError, match=rf"process {os.getpid()} on"),
        opened(config),
    ):
        pass


def test_a_file_that_is_no_database_is_refused(tmp_path):
    config = configuration(tmp_path)
    (tmp_path / "studies.db").write_bytes(b"no database at all" * 1000)
    for opening in (opened(config), read_database(config)):
        with (
            pytest.raises(
                UserError, match=r"^paths\.optuna_db=.* sound SQLite database .*restore or remove it$"
            ) as caught,
            opening,
        ):
            pass
        one_line(caught.value)


def test_tables_of_another_optuna_are_refused(tmp_path):
    config = configuration(tmp_path)
    with opened(config):
        pass
    with closing(sqlite3.connect(tmp_path / "studies.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
        database.commit()
    with pytest.raises(UserError, match="storage upgrade") as caught, opened(config):
        pass
    one_line(caught.value)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"^paths\.optuna_db=.* written .*name another file"),
        opened(configuration(tmp_path / "file")),
    ):
        pass


# --- its copy in the bucket ------------------------------------------------------------------------------------------
@pytest.fixture
def machine(store, tmp_path: Path) -> Callable[..., Config]:
    """Configuration of a machine with its own disk and both transfers on."""
    return lambda disk="disk", *overrides: configuration(tmp_path / disk, *store.overrides, *overrides)


def test_a_study_moves_from_machine_to_machine_through_the_bucket(store, machine, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with opened(machine("one")) as database:
        assert store.listing() == [LOCK]
        for count in (1, 2):
            add_trials(database.storage, 1)
            database.save()
            assert trials_in(store.get(DB), tmp_path) == count
            assert store.listing() == [DB, LOCK]
        add_trials(database.storage, 1)  # the process dies before it has saved this one
    assert store.listing() == [DB]
    assert sum("is saved to" in record.message for record in caplog.records) == 1
    with opened(machine("two")) as database:
        assert trials(database.storage) == 2
    with read_database(machine("three")) as storage:
        assert trials(storage) == 2
    assert store.listing() == [DB]


def test_newer_trials_of_the_same_machine_are_kept(machine):
    with opened(machine()) as database:
        add_trials(database.storage, 1)
        database.save()
        add_trials(database.storage, 1)
    with read_database(machine()) as storage:
        assert trials(storage) == 2
    with opened(machine()) as database:
        assert trials(database.storage) == 2


def test_a_copy_from_elsewhere_wins_and_the_file_here_is_kept_aside(machine, tmp_path, caplog):
    with opened(machine("one")) as database:
        add_trials(database.storage, 1)
        database.save()
        add_trials(database.storage, 1)
    (tmp_path / "one" / "studies.db-journal").write_bytes(b"")
    with opened(machine("two")) as database:
        add_trials(database.storage, 4)
        database.save()
    with opened(machine("one")) as database:
        assert trials(database.storage) == 5
    (aside,) = (tmp_path / "one").glob("studies.2*.db")
    assert trials_in(aside.read_bytes(), tmp_path) == 2
    assert aside.with_name(f"{aside.name}-journal").exists()
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert str(aside) in warning and "takes its place" in warning
    with opened(machine("one")) as database:  # from now on the local file descends from the copy
        assert trials(database.storage) == 5
    assert len(list((tmp_path / "one").glob("studies.2*.db"))) == 1


def test_a_report_leaves_a_file_alone_that_is_being_written(machine, process, store):
    with opened(machine("elsewhere")) as database:
        add_trials(database.storage, 1)
        database.save()
    first = process(*store.overrides)
    first.ask("trials 2")
    store.put(DB, b"another")
    with read_database(machine()) as storage:
        assert trials(storage) == 3


@pytest.mark.parametrize("body", [b"", b"no database" * 1000, "truncated", "other"])
def test_an_unsound_copy_is_refused_and_what_is_here_stays(store, machine, tmp_path, body):
    with opened(machine()) as database:
        add_trials(database.storage, 1)
        database.save()
    if body == "truncated":
        body = store.get(DB)[:20_000]
    elif body == "other":
        with closing(sqlite3.connect(tmp_path / "other.db")) as database:
            database.execute("CREATE TABLE trains (id)")
        body = (tmp_path / "other.db").read_bytes()
    store.put(DB, body)
    before = (tmp_path / "disk" / "studies.db").read_bytes()
    for opening in (opened(machine()), read_database(machine())):
        with (
            pytest.raises(UserError, match=r"^s3://.*/optuna/studies\.db .*\(.*\); restore") as caught,
            opening,
        ):
            pass
        one_line(caught.value)
    assert (tmp_path / "disk" / "studies.db").read_bytes() == before
    assert store.listing() == [DB]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [
        "studies.db",
        "studies.db.lock",
        "studies.db.s3.json",
    ]


def test_saving_without_fetching_never_overwrites_trials_from_elsewhere(store, machine):
    blind = "data.download_data_from_s3=false"
    with opened(machine("one", blind)) as database:
        add_trials(database.storage, 1)
        database.save()
    with (
        pytest.raises(UserError, match=r"paths\.optuna_db=.*; set data\.download_data_from_s3=true") as caught,
        opened(machine("two", blind)),
    ):
        pass
    one_line(caught.value)
    with opened(machine("one", blind)) as database:
        database.save()
    store.delete(DB)
    with opened(machine("two", blind)) as database:
        database.save()


def test_fetching_without_saving_takes_no_lease_and_sends_nothing(store, machine, tmp_path, process):
    with opened(machine("one")) as database:
        add_trials(database.storage, 1)
        database.save()
        content, listing = store.get(DB), store.listing()
        with opened(machine("two", "data.save_results_to_s3=false")) as other:
            assert trials(other.storage) == 1
            add_trials(other.storage, 1)
            other.save()
        assert (store.get(DB), store.listing()) == (content, listing)


def test_a_copy_that_somebody_removed_is_made_again(store, machine):
    with opened(machine()) as database:
        database.save()
        store.delete(DB)
        with pytest.raises(ServiceError, match=r"optuna/studies\.db was replaced or removed .*run the stage again"):
            database.save()
    with opened(machine()) as database:
        database.save()
    assert store.listing() == [DB]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_copy_made_during_a_transaction_is_consistent(store, machine, tmp_path, mode):
    with opened(machine()) as database:
        add_trials(database.storage, 3)
        with closing(sqlite3.connect(tmp_path / "disk" / "studies.db", isolation_level=None)) as other:
            other.execute(f"PRAGMA journal_mode={mode}")
            other.execute("BEGIN IMMEDIATE")
            other.execute("DELETE FROM trial_values")
            other.execute("DELETE FROM trials")
            database.save()
            assert trials_in(store.get(DB), tmp_path) == 3
            other.execute("COMMIT")
        database.save()
    assert trials_in(store.get(DB), tmp_path) == 0
    with opened(machine("two")) as database:
        assert trials(database.storage) == 0


@pytest.mark.parametrize("broken", ["put_file", "copy"])
def test_an_interrupted_save_leaves_the_old_copy_whole(store, machine, tmp_path, monkeypatch, broken):
    with opened(machine()) as database:
        add_trials(database.storage, 1)
        database.save()
        before = store.get(DB)
        add_trials(database.storage, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, broken, lambda *arguments, **_: (_ for _ in ()).throw(ServiceError("away")))
            with pytest.raises(ServiceError, match="away"):
                database.save()
        assert store.get(DB) == before
        assert store.listing() == [DB, LOCK]
        database.save()
        assert trials_in(store.get(DB), tmp_path) == 2


def test_the_next_writer_removes_what_a_killed_one_left(store, machine):
    store.put(f"{DB}.{'ab' * 16}.tmp", b"half a copy")
    store.put("optuna/other.db.1234.tmp", b"of another study")
    with opened(machine()):
        pass
    assert store.listing() == ["optuna/other.db.1234.tmp"]


def test_a_lost_answer_to_the_swap_is_no_failure(store, machine, tmp_path, monkeypatch):
    """The service has copied, but the answer is lost. The repeated request finds its own copy and is refused."""
    copy = Bucket.copy

    def answer_lost(self: Bucket, source: str, target: str, replaces: str) -> None:
        copy(self, source, target, replaces)

    with opened(machine()) as database:
        monkeypatch.setattr(Bucket, "copy", answer_lost)
        add_trials(database.storage, 1)
        database.save()
        monkeypatch.setattr(Bucket, "copy", lambda *_, **__: None)
        add_trials(database.storage, 1)
        with pytest.raises(ServiceError, match=r"optuna/studies\.db was replaced or removed .*run the stage again"):
            database.save()
    assert trials_in(store.get(DB), tmp_path) == 1


# --- one writer of the copy ------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_second_machine_is_refused_by_name(store, machine, process):
    lease = LeaseSettings(renew_every_s=0.2, expires_after_s=5.0)  # a busy machine may not renew for a second or two
    first = process(*store.overrides, holder="0123abcd", folder="one", lease=lease)
    with pytest.raises(OccupiedError) as caught, opened(machine("two"), "another", lease):
        pass
    text = one_line(caught.value)
    assert text.startswith(f"s3://{store.name}/team/delays/{LOCK}: ")
    assert re.search(rf"by MLflow run 0123abcd, process {first.pid} on \S+, since \d{{4}}-\d\d-\d\d ", text)
    assert re.search(r"wait until it ends, or stop it; .*expires in [1-5] s$", text)
    time.sleep(5.5)  # the lease was renewed, so it has not expired
    with pytest.raises(OccupiedError), opened(machine("two"), "", lease):
        pass
    first.end()
    assert store.listing() == []
    with opened(machine("two"), "another"):
        pass


@pytest.mark.slow
def test_a_killed_writers_lease_is_taken_by_its_own_retry_at_once_and_by_others_when_expired(store, machine, process):
    first = process(*store.overrides, holder="run-1", folder="one", lease=NEVER)
    first.ask("trials 2")
    first.ask("save")
    first.kill()
    with pytest.raises(OccupiedError, match=r"expires in 3[56]\d\d s$"), opened(machine("two"), "run-2", NEVER):
        pass
    for nobody in ("", "run-2"):
        with pytest.raises(OccupiedError), opened(machine("two"), nobody, NEVER):
            pass
    with opened(machine("two"), "run-1", NEVER) as database:
        assert trials(database.storage) == 2
        database.save()
    first = process(*store.overrides, holder="run-1", folder="one", lease=NEVER)
    first.kill()
    time.sleep(2.1)
    with opened(machine("two"), "run-2"):
        assert "run-2" in store.get(LOCK).decode()


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3])
def test_a_writer_killed_while_it_saves_loses_nothing_that_was_saved(store, machine, process, tmp_path, after_s):
    first = process(*store.overrides, holder="run-1", folder="one")
    for _ in range(200):
        first.tell("trials 1")
        first.tell("save")
    time.sleep(after_s)
    first.kill()
    saved = first.rest().count("done") // 2
    kept = trials_in(store.get(DB), tmp_path) if DB in store.listing() else 0
    assert saved <= kept <= saved + 1
    with opened(machine("two"), "run-1") as database:
        assert trials(database.storage) == kept
        assert set(store.listing()) <= {DB, LOCK}


@pytest.mark.parametrize("renew_every_s", [0.1, 3_600.0])
def test_who_was_taken_over_saves_nothing_more(store, machine, process, tmp_path, renew_every_s):
    lease = LeaseSettings(renew_every_s, 3_600.0)
    first = process(*store.overrides, holder="run-1", folder="one", lease=lease)
    first.ask("trials 1")
    assert first.ask("save") == "done"
    with opened(machine("two"), "run-1", NEVER) as database:
        add_trials(database.storage, 2)
        database.save()
        content = store.get(DB)
        first.ask("trials 5")
        time.sleep(0.3)
        refused = first.ask("save")
        assert re.search(
            rf"^ServiceError: s3://.*/{LOCK} was taken over by MLflow run run-1, process {os.getpid()}", refused
        )
        first.end()  # it must not release the lease of another process
        assert store.get(DB) == content
        assert store.listing() == [DB, LOCK]
    assert trials_in(content, tmp_path) == 3


def test_a_writer_suspended_until_its_lease_expired(store, machine, process):
    first = process(*store.overrides, folder="one")
    first.ask("trials 1")
    first.pause()
    time.sleep(2.5)
    with opened(machine("two")) as database:
        add_trials(database.storage, 2)
        database.save()
        content = store.get(DB)
        first.resume()
        assert "was taken over by" in first.ask("save")
    assert store.get(DB) == content


def test_a_service_that_is_away_for_a_while_ends_nothing(store, machine, tmp_path, caplog, monkeypatch):
    with opened(machine()) as database:
        add_trials(database.storage, 1)
        read_text = Bucket.read_text
        away = ServiceError(f"s3://{store.name}: did not answer")
        monkeypatch.setattr(Bucket, "read_text", lambda *_: (_ for _ in ()).throw(away))
        with pytest.raises(ServiceError, match="did not answer"):
            database.save()
        time.sleep(2.5)  # the lease expired, and no process took it
        assert sum("is not renewed" in record.message for record in caplog.records) == 1
        monkeypatch.setattr(Bucket, "read_text", read_text)
        database.save()
        assert trials_in(store.get(DB), tmp_path) == 1
    assert store.listing() == [DB]


def test_a_lease_that_somebody_removed_is_lost(store, machine):
    with opened(machine(), lease=NEVER) as database:
        store.delete(LOCK)
        for _ in range(2):
            with pytest.raises(ServiceError, match=rf"{LOCK} was removed .*saves nothing"):
                database.save()
    assert store.listing() == []


def test_an_unreadable_lease_counts_until_it_expires(store, machine):
    store.put(LOCK, b"[]")
    taken = pytest.raises(OccupiedError, match="process 0 on an unknown host")
    with taken, opened(machine(), "run-1", lease=NEVER):  # a short lease expires before a busy machine reads it
        pass
    time.sleep(2.1)
    with opened(machine()):
        pass


@pytest.mark.parametrize("answer", ["ignored", "refused"])
def test_services_without_conditional_writes(store, machine, monkeypatch, answer):
    """In both cases the token that is read back names the last writer."""

    def client_without_conditions(config: Config) -> Bucket:
        bucket = original(config)

        def wrapped(request: Callable[..., object]) -> Callable[..., object]:
            def call(**arguments: object) -> object:
                conditions = {"IfMatch", "IfNoneMatch"} & arguments.keys()
                if conditions and answer == "refused":
                    response = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
                    raise ClientError(response, "PutObject")
                return request(**{key: value for key, value in arguments.items() if key not in conditions})

            return call

        for name in ("put_object", "copy_object", "delete_object"):
            setattr(bucket._client, name, wrapped(getattr(bucket._client, name)))
        return bucket

    original = Bucket.from_config
    monkeypatch.setattr(Bucket, "from_config", lambda config, settings=None: client_without_conditions(config))
    with opened(machine("one"), lease=NEVER) as first:
        with pytest.raises(OccupiedError), opened(machine("two"), lease=NEVER):
            pass
        first.save()
        # Another process that saw no lease in the same instant overwrites it: only one of them continues.
        read_text = Bucket.read_text
        unseen = [None]
        monkeypatch.setattr(Bucket, "read_text", lambda self, name: unseen.pop() if unseen else read_text(self, name))
        with opened(machine("two"), lease=NEVER) as second:
            with pytest.raises(ServiceError, match="was taken over by"):
                first.save()
            second.save()
    assert store.listing() == [DB]


# --- PostgreSQL ------------------------------------------------------------------------------------------------------
@pytest.fixture
def shared(tmp_path: Path, database_url: str) -> Config:
    return configuration(tmp_path, f"search.storage_url={database_url}", "search.heartbeat_s=1")


def test_a_study_in_postgresql(shared, tmp_path, recwarn):
    with opened(shared) as database:
        assert not database.alone
        add_trials(database.storage, 2)
        database.save()
        with database.exclusively():
            add_trials(database.storage, 1)
    with read_database(shared) as storage:
        assert trials(storage) == 3
        assert storage.get_heartbeat_interval() is None
    assert not [warning for warning in recwarn if "xperimental" in str(warning.category)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_that_start_at_once_all_find_their_tables(shared, process):
    overrides = [f"search.storage_url={shared.search.storage_url}"]
    workers = [process(*overrides, opens=False) for _ in range(4)]
    for worker in workers:
        worker.tell("go")
    assert [worker.answer() for worker in workers] == ["open"] * 4
    assert [worker.ask("trials 1") for worker in workers] == ["done"] * 4
    with read_database(shared) as storage:
        assert trials(storage) == 4


def test_one_worker_at_a_time(shared, process, tmp_path, postgres):
    overrides = [f"search.storage_url={shared.search.storage_url}"]
    workers = [process(*overrides) for _ in range(2)]
    counter = tmp_path / "counter"
    counter.write_text("0")
    for worker in workers:
        worker.tell(f"lock {counter} 20")
    assert [worker.answer() for worker in workers] == ["done"] * 2
    assert counter.read_text() == "40"
    workers[0].tell(f"lock {counter} 1000")
    while counter.read_text() in ("", "40"):
        time.sleep(0.01)
    workers[0].pause()
    workers[0].kill()  # its locks are free now
    counter.write_text("0")
    assert workers[1].ask(f"lock {counter} 1") == "done"
    assert postgres.admin("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_who_waits_too_long_for_the_others_is_told(shared, database_url):
    waiting = open_database(shared, "", ignore, DatabaseSettings(exclusive_within_s=0.2))
    with opened(shared) as first, waiting as second, first.exclusively():
        kept = "another worker has kept the study train-delays for 0 s"
        with pytest.raises(ServiceError, match=kept) as caught, second.exclusively():
            raise AssertionError
        assert "search.storage_url=postgresql://" in one_line(caught.value)
    other = configuration(Path("unused"), f"search.storage_url={database_url}", "search.study_name=other")
    with opened(shared) as first, opened(other) as second, first.exclusively(), second.exclusively():
        pass  # each study has its own lock


def test_what_is_raised_while_alone_is_not_changed(shared):
    with opened(shared) as database:
        with pytest.raises(ZeroDivisionError), database.exclusively():
            1 / 0  # noqa: B018
        with database.exclusively():
            pass


def test_a_connection_that_breaks_while_alone_is_said(shared, postgres, caplog, capfd):
    """The block under the lock has written its results. Another worker may have the lock since."""
    name = shared.search.storage_url.rpartition("/")[2]
    with opened(shared) as database, database.exclusively():
        postgres.admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        add_trials(database.storage, 1)
    assert trials(database.storage) == 1
    assert "was lost before its end, and another worker may have it" in caplog.text
    assert "Traceback" not in capfd.readouterr().err


def test_a_refused_password_is_one_line_without_it(shared, postgres, monkeypatch):
    wrong = "wr0ng-secret"
    address = shared.search.storage_url
    monkeypatch.setenv("PGPASSWORD", wrong)
    written_out = address.replace("tuner@", f"tuner:{wrong}@")
    for url in (address, written_out, f"{address}?password={wrong}"):
        shared.search.storage_url = url
        for opening in (opened(shared), read_database(shared)):
            with pytest.raises(UserError, match=r"authentication failed .*password in PGPASSWORD$") as caught, opening:
                pass
            assert wrong not in one_line(caught.value)
            shown = "***" if url is written_out else "tuner"  # a user name alone is no secret
            assert f"{shown}@127.0.0.1:{postgres.port}/" in str(caught.value)
    shared.search.storage_url = address
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(UserError, match=r"no password .*PGPASSWORD$"), opened(shared):
        pass


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (("tuner@", "stranger@"), UserError, "authentication failed"),
        (("/studies_", "/nowhere_"), UserError, 'database "nowhere_.*" does not exist'),
        (("127.0.0.1:", "127.0.0.1:9/x?"), ServiceError, "Connection refused.*; check that it runs"),
        (("127.0.0.1:", "no-such-host.invalid:"), ServiceError, "did not answer"),
    ],
)
def test_an_address_that_leads_nowhere(shared, change, error, reason):
    shared.search.storage_url = shared.search.storage_url.replace(*change)
    with pytest.raises(error, match=reason) as caught, opened(shared):
        pass
    assert one_line(caught.value).startswith("search.storage_url=postgresql://")


def test_an_option_that_libpq_does_not_know(shared):
    shared.search.storage_url += "?colour=red"
    with pytest.raises(UserError, match=r'"colour".*; correct search.storage_url') as caught, opened(shared):
        pass
    one_line(caught.value)


def test_a_user_that_may_not_create_tables(shared, postgres):
    name = shared.search.storage_url.rpartition("/")[2]
    postgres.admin(f"ALTER DATABASE {name} OWNER TO admin")
    with (
        pytest.raises(UserError, match="permission denied for schema public; let its user create") as caught,
        opened(shared),
    ):
        pass
    one_line(caught.value)


def test_sessions_have_one_time_zone(shared, postgres):
    name = shared.search.storage_url.rpartition("/")[2]
    postgres.admin(f"ALTER DATABASE {name} SET timezone = 'Europe/Brussels'")
    with opened(shared) as database, database.storage.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW timezone").scalar() == "UTC"
        connection.rollback()
        assert connection.exec_driver_sql("SHOW timezone").scalar() == "UTC"


def beats(postgres, config: Config) -> list[tuple[object, ...]]:
    return postgres.admin("SELECT heartbeat FROM trial_heartbeats", config.search.storage_url.rpartition("/")[2])


def ask(database: StudyDatabase) -> optuna.Trial:
    study = optuna.create_study(storage=database.storage, study_name="delays", load_if_exists=True)
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        return study.ask()


@pytest.mark.slow
def test_a_trial_whose_worker_fell_silent_is_found_and_one_that_beats_is_not(shared):
    stale = []
    with open_database(shared, "", lambda study, trial: stale.append(trial.number)) as database:
        silent, alive = ask(database), ask(database)
        with beating(database.storage, silent._trial_id):
            pass
        with beating(database.storage, alive._trial_id):
            time.sleep(5.5)  # four missed heartbeats, and a resolution of one second
            with pytest.warns(optuna.exceptions.ExperimentalWarning):
                optuna.storages.fail_stale_trials(alive.study)
        states = [trial.state.name for trial in alive.study.trials]
    assert stale == [0]
    assert states == ["FAIL", "RUNNING"]


def test_heartbeats_survive_a_database_that_is_away(shared, postgres, caplog):
    name = shared.search.storage_url.rpartition("/")[2]
    with opened(shared) as database:
        trial = ask(database)
        with beating(database.storage, trial._trial_id):
            (first,) = beats(postgres, shared)
            postgres.admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            postgres.admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            wait_until(lambda: "no heartbeat of the trial" in caplog.text, "a heartbeat that is missed")
            with pytest.raises(ServiceError, match="did not answer") as caught, database_errors(shared):
                database.storage.get_all_studies()
            one_line(caught.value)
            postgres.admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            wait_until(lambda: beats(postgres, shared) > [first], "the next heartbeat")


def test_nothing_beats_in_sqlite(tmp_path):
    with opened(configuration(tmp_path)) as database:
        study = optuna.create_study(storage=database.storage, study_name="delays")
        with beating(database.storage, study.ask()._trial_id):
            pass
    with closing(sqlite3.connect(tmp_path / "studies.db")) as file:
        assert file.execute("SELECT count(*) FROM trial_heartbeats").fetchone() == (0,)
