"""Study databases in PostgreSQL as operators have it: TLS, a pooler, odd passwords, few rights, lost answers."""

from __future__ import annotations

import re
import string
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import optuna
import pytest

from tests.support.lost_answers import LosingProxy
from tests.support.pgbouncer import pooler
from tests.support.postgres import Postgres, make_certificate
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.tuning import database
from transformer.tuning.database import DatabaseSettings, StudyDatabase, beat, open_database, read_database

pytestmark = pytest.mark.slow  # half a minute together

# Every printable character of ASCII, and three others.
ODD = f"{string.punctuation}{string.digits} ü日{string.ascii_letters}"


def configuration(url: str, *overrides: str) -> Config:
    config = load_config("local", ["search.heartbeat_s=5", "compute.service_wait_s=5", *overrides])
    config.search.storage_url = url
    return config


def opened(config: Config, exclusive_within_s: float = 20.0):
    settings = DatabaseSettings(exclusive_within_s=exclusive_within_s)
    return open_database(config, "", lambda study, trial: None, settings)


def study_in(opened_database: StudyDatabase) -> optuna.Study:
    return optuna.create_study(storage=opened_database.storage, study_name="delays", load_if_exists=True)


def run_trials(config: Config, count: int) -> None:
    """Trials as a worker runs them."""
    with opened(config) as made:
        for _ in range(count):
            with made.exclusively():
                study = study_in(made)
                trial = study.ask()
                trial.set_user_attr("worker", threading.current_thread().name)
                beat(made.storage, trial._trial_id)
                rate = trial.suggest_float("rate", 0, 1)
            trial.report(rate, 1)
            study.tell(trial, rate)


def refusal(config: Config) -> str:
    """The one line with which the database is refused, without the password."""
    with pytest.raises(UserError) as caught, opened(config):
        pass
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("search.storage_url=postgresql://")
    return text


# --- TLS -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def certificate(postgres: Postgres) -> Path:
    return postgres.offer_tls()


@pytest.fixture
def encrypted(postgres: Postgres, certificate: Path, database_url: str) -> str:
    """Address of an empty database whose owner must use TLS."""
    name = database_url.rpartition("/")[2]
    postgres.admin(f"ALTER DATABASE {name} OWNER TO encrypted")
    return postgres.url(name, "encrypted")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_server_that_demands_tls(encrypted: str, certificate: Path, tmp_path: Path, mode: str):
    authority = tmp_path / "authority.crt"
    authority.write_bytes(certificate.read_bytes())
    root = "" if mode == "require" else f"&sslrootcert={authority}"
    config = configuration(f"{encrypted}?sslmode={mode}{root}")
    run_trials(config, 2)
    with read_database(config) as storage:
        assert len(optuna.load_study(study_name="delays", storage=storage).trials) == 2
        with storage.engine.connect() as connection:
            ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert connection.exec_driver_sql(ssl).scalar() is True


def test_tls_that_does_not_come_about_is_one_line(encrypted: str, postgres: Postgres, tmp_path: Path):
    remedy = "correct sslmode and sslrootcert in search.storage_url"
    plain = refusal(configuration(f"{encrypted}?sslmode=disable"))
    assert "no encryption" in plain or "rejects connection" in plain
    assert plain.endswith(remedy)

    absent = refusal(configuration(f"{encrypted}?sslmode=verify-full&sslrootcert={tmp_path}/absent.crt"))
    assert "absent.crt" in absent
    assert absent.endswith(remedy)

    other = tmp_path / "other.crt"
    make_certificate(tmp_path / "other.key", other)
    unknown = refusal(configuration(f"{encrypted}?sslmode=verify-full&sslrootcert={other}"))
    assert "certificate verify failed" in unknown
    assert unknown.endswith(remedy)


def test_a_certificate_for_another_name_is_one_line(encrypted: str, certificate: Path):
    address = encrypted.replace("127.0.0.1", "localhost")
    other_name = refusal(configuration(f"{address}?sslmode=verify-full&sslrootcert={certificate}&hostaddr=127.0.0.1"))
    assert "does not match host name" in other_name


def test_tls_at_a_pooler_without_it_is_one_line(postgres: Postgres, database_url: str):
    name = database_url.rpartition("/")[2]
    plain = pooler(postgres, connections=2)
    line = refusal(configuration(f"{plain.url(name)}?sslmode=require"))
    assert "does not support SSL" in line
    assert line.endswith("correct sslmode and sslrootcert in search.storage_url")


# --- a pooler in transaction mode ------------------------------------------------------------------------------------
def run_workers(config: Config, workers: int, each: int) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run_trials(config, each)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, name=f"worker {k}") for k in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@pytest.fixture
def pooled(postgres: Postgres, database_url: str) -> str:
    """Address of an empty database behind a pooler with as few connections as the guide asks for.

    One worker opens its storage with two, another one runs a trial with one, and each of the two holds a lock.
    """
    return pooler(postgres, connections=5).url(database_url.rpartition("/")[2])


def test_workers_share_the_few_connections_of_a_pooler(pooled: str, database_url: str):
    """A worker that holds the lock needs more connections for its work, so those that wait for the lock hold none."""
    run_workers(configuration(pooled), workers=8, each=3)
    with read_database(configuration(database_url)) as storage:
        trials = optuna.load_study(study_name="delays", storage=storage).trials
    assert sorted(trial.number for trial in trials) == list(range(24))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {trial.user_attrs["worker"] for trial in trials} == {f"worker {k}" for k in range(8)}


def test_prepared_statements_would_fail_there(pooled: str, monkeypatch: pytest.MonkeyPatch):
    options = database._postgresql_engine()
    options["connect_args"]["prepare_threshold"] = 0
    monkeypatch.setattr(database, "_postgresql_engine", lambda: options)
    with pytest.raises(Exception, match="prepared statement"):
        run_workers(configuration(pooled, "compute.service_wait_s=0"), workers=4, each=5)


# --- heartbeats ------------------------------------------------------------------------------------------------------
def test_a_server_that_was_away_makes_no_worker_look_dead(
    postgres: Postgres, database_url: str, caplog: pytest.LogCaptureFixture
):
    """No worker can beat while the server is away, and the first one that comes back must not judge the others."""
    config = configuration(database_url, "search.heartbeat_s=1", "compute.service_wait_s=60")
    name = database_url.rpartition("/")[2]
    with opened(config) as first, opened(config) as second:
        trial = study_in(second).ask()
        beat(second.storage, trial._trial_id)
        postgres.admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres.admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        back = threading.Timer(6, postgres.admin, [f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"])
        back.start()
        with first.exclusively():  # waits for the server
            optuna.storages.fail_stale_trials(study := study_in(first))
        assert "waiting for search.storage_url" in caplog.text
        assert [trial.state.name for trial in study.trials] == ["RUNNING"]
        beat(second.storage, trial._trial_id)
        time.sleep(6)  # four heartbeats missed, with a server that answers
        optuna.storages.fail_stale_trials(study)
        assert [trial.state.name for trial in study.trials] == ["FAIL"]


# --- passwords -------------------------------------------------------------------------------------------------------
@pytest.fixture
def odd(postgres: Postgres, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty database whose owner has the password ODD."""
    monkeypatch.delenv("PGPASSWORD")
    user, name = f"odd_{uuid4().hex[:8]}", database_url.rpartition("/")[2]
    literal = ODD.replace("'", "''")
    postgres.admin(f"CREATE ROLE {user} LOGIN PASSWORD '{literal}'")
    postgres.admin(f"ALTER DATABASE {name} OWNER TO {user}")
    return postgres.url(name, user)


def test_a_password_with_every_character(odd: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGPASSWORD", ODD)
    run_trials(configuration(odd), 1)


@pytest.mark.parametrize("safe", ["", "{}!$&'()*+,;=-._~"])
def test_a_password_in_the_address_is_refused_and_not_shown(odd: str, safe: str):
    written = quote(ODD, safe=safe)
    with pytest.raises(UserError, match=r"search\.storage_url=.*the password in PGPASSWORD") as caught:
        load_config("local", [f"search.storage_url={odd.replace('@', f':{written}@', 1)}"])
    assert not any(part in str(caught.value) for part in (ODD, written, written[:20], written[-20:]))


# --- rights ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def restricted(postgres: Postgres, database_url: str) -> Iterator[Callable[..., str]]:
    """Grants rights in an empty database to a user that may create no tables. Returns the address for that user."""
    user, name = f"few_{uuid4().hex[:8]}", database_url.rpartition("/")[2]
    postgres.admin(f"CREATE ROLE {user} LOGIN PASSWORD '{postgres.password}'")

    def grant(*statements: str) -> str:
        for statement in statements:
            postgres.admin(f"{statement} TO {user}", name)
        return postgres.url(name, user)

    return grant


WRITE = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
SEQUENCES = "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public"


def test_a_user_that_may_create_no_tables_uses_those_that_are_there(database_url: str, restricted: Callable[..., str]):
    line = refusal(configuration(restricted()))
    assert "permission denied for schema public; " in line
    assert "GRANT USAGE, CREATE ON SCHEMA public TO …" in line
    run_trials(configuration(database_url), 1)  # the owner makes the tables
    run_trials(configuration(restricted(WRITE, SEQUENCES)), 2)
    with read_database(configuration(database_url)) as storage:
        assert len(optuna.load_study(study_name="delays", storage=storage).trials) == 3


@pytest.mark.parametrize(
    ("granted", "denied"),
    [((), "table"), (("GRANT SELECT ON ALL TABLES IN SCHEMA public",), "table"), ((WRITE,), "sequence")],
)
def test_rights_on_the_tables_that_are_missing_are_named(
    database_url: str, restricted: Callable[..., str], granted: tuple[str, ...], denied: str
):
    run_trials(configuration(database_url), 1)
    config = configuration(restricted(*granted))
    with pytest.raises(UserError, match=f"permission denied for {denied} ") as caught, database.database_errors(config):
        run_trials(config, 1)
    line = str(caught.value)
    assert f"{WRITE} TO …; {SEQUENCES} TO …" in line
    assert "CREATE" not in line


def test_a_user_that_may_only_read_can_report(database_url: str, restricted: Callable[..., str]):
    run_trials(configuration(database_url), 1)
    reader = configuration(restricted("GRANT SELECT ON ALL TABLES IN SCHEMA public"))
    with read_database(reader) as storage:
        assert len(optuna.load_study(study_name="delays", storage=storage).trials) == 1


def test_another_schema(postgres: Postgres, database_url: str):
    name = database_url.rpartition("/")[2]
    address = f"{database_url}?options=-csearch_path%3Dstudies"
    postgres.admin("CREATE SCHEMA studies", name)
    assert "no schema has been selected to create in; " in (line := refusal(configuration(address)))
    assert line.endswith("GRANT USAGE, CREATE ON SCHEMA … TO …")
    postgres.admin(f"GRANT USAGE ON SCHEMA studies TO {postgres.user}", name)
    assert refusal(configuration(address)).endswith("GRANT USAGE, CREATE ON SCHEMA studies TO …")
    postgres.admin(f"ALTER SCHEMA studies OWNER TO {postgres.user}", name)
    run_trials(configuration(address), 1)
    assert postgres.admin("SELECT schemaname FROM pg_tables WHERE tablename = 'trials'", name) == [("studies",)]


def test_the_first_of_two_hosts_is_down(postgres: Postgres, database_url: str):
    """The address of a cluster that fails over by itself."""
    name, hosts = database_url.rpartition("/")[2], f"host=127.0.0.1:9&host=127.0.0.1:{postgres.port}"
    run_trials(configuration(f"postgresql://{postgres.user}@/{name}?{hosts}&target_session_attrs=read-write"), 1)
    wrong = refusal(configuration(f"postgresql://{postgres.user}@/nowhere?{hosts}&target_session_attrs=read-write"))
    assert 'database "nowhere" does not exist; correct' in wrong


# --- lost answers ----------------------------------------------------------------------------------------------------
@pytest.fixture
def losing(postgres: Postgres) -> Iterator[LosingProxy]:
    proxy = LosingProxy(postgres.port)
    yield proxy
    proxy.stop()


def through(proxy: LosingProxy, address: str) -> Config:
    """The proxy reads the statements, so they are not encrypted."""
    return configuration(re.sub(r"(?<=127\.0\.0\.1:)\d+(.*)", rf"{proxy.port}\1?sslmode=disable", address))


@pytest.mark.parametrize(
    ("statement", "carried_out"),
    [
        pytest.param(b"INSERT INTO studies", True, id="the study is created"),
        pytest.param(b"INSERT INTO trials", True, id="a trial is created"),
        pytest.param(b"INSERT INTO trials", False, id="a trial is not created"),
        pytest.param(b"INSERT INTO trial_params", True, id="a value is set"),
        pytest.param(b"INSERT INTO trial_user_attributes", True, id="an attribute is set"),
        pytest.param(b"INSERT INTO trial_intermediate_values", True, id="an epoch is reported"),
        pytest.param(b"UPDATE trials SET state", True, id="a trial ends"),
        pytest.param(b"UPDATE trials SET state", False, id="a trial does not end"),
    ],
)
def test_nothing_is_done_twice_where_an_answer_is_lost(
    database_url: str, losing: LosingProxy, caplog: pytest.LogCaptureFixture, statement: bytes, carried_out: bool
):
    config = through(losing, database_url)
    with opened(config):
        pass  # the tables are there
    losing.lose(statement, b"COMMIT", carried_out=carried_out)
    run_trials(config, 2)
    assert losing.lost == 1
    assert "waiting for search.storage_url" in caplog.text
    with read_database(configuration(database_url)) as storage:
        trials = optuna.load_study(study_name="delays", storage=storage).trials
    assert [(trial.number, trial.state.name) for trial in trials] == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert all(trial.value == trial.params["rate"] == trial.intermediate_values[1] for trial in trials)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_waiting_trial_whose_claim_was_lost_is_claimed_once(
    database_url: str, losing: LosingProxy, carried_out: bool
):
    config = through(losing, database_url)
    with opened(config) as made:
        study_in(made).enqueue_trial({"rate": 0.25})
    losing.lose(b"UPDATE trials SET state", b"COMMIT", carried_out=carried_out)
    run_trials(config, 1)
    assert losing.lost == 1
    with read_database(configuration(database_url)) as storage:
        (trial,) = optuna.load_study(study_name="delays", storage=storage).trials
    assert (trial.value, trial.state.name) == (0.25, "COMPLETE")
