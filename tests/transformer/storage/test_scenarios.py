"""Scenarios on every kind of store, with exit status and line. `pytest -s` prints them as a table."""

import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from tests.support.ceph import ceph_server
from tests.support.object_store import DAYS, IMPATIENT, TABLES, open_bucket
from tests.support.stores import REAL, STORES
from transformer.config import load_config
from transformer.data.fetch import sync_data
from transformer.errors import UserError
from transformer.storage.bucket import Bucket
from transformer.storage.shared_folder import download_folder, upload_folder
from transformer.tuning.database import DatabaseSettings, StudyDatabase, open_database
from transformer.tuning.lease import LeaseSettings

pytestmark = pytest.mark.usefixtures("credentials")

LEASE = LeaseSettings(settles_s=0.2)
NO_CONDITIONS = ("Ceph, versioned", "Swift", "answers 400")


def ended(action: Callable[[], object]) -> tuple[int, str]:
    """Exit status and line of a command that does this."""
    try:
        action()
    except UserError as error:
        return 2, str(error)
    except Exception as error:
        return 1, str(error)
    return 0, ""


@pytest.fixture
def note(kind: str) -> Callable[[str, tuple[int, str]], tuple[int, str]]:
    def print_line(scenario: str, end: tuple[int, str]) -> tuple[int, str]:
        print(f"| {scenario} | {kind} | {end[0]} | {end[1]} |")
        return end

    return print_line


def opened(place: dict[str, str], folder: Path, holder: str):
    """The study database of a machine whose disk is `folder`."""
    overrides = [f"data.{name}={value}" for name, value in place.items()]
    overrides += ["data.download_data_from_s3=true", "data.save_results_to_s3=true"]
    config = load_config("local", [*overrides, f"paths.optuna_db={folder}/studies.db"])
    return open_database(config, holder, lambda *_: None, DatabaseSettings(LEASE))


def add_trial(database: StudyDatabase) -> int:
    study = optuna.create_study(storage=database.storage, study_name="delays", load_if_exists=True)
    study.add_trial(optuna.create_trial(value=1.0))
    database.save()
    return len(study.trials)


def test_tables_are_fetched(bucket: Bucket, note, tmp_path: Path) -> None:
    for name in TABLES:
        (tmp_path / "file").write_bytes(os.urandom(10_000))
        bucket.put_file(tmp_path / "file", f"data/{name}")
    assert note("fetch", ended(lambda: sync_data(bucket, DAYS, tmp_path / "data"))) == (0, "")
    assert sync_data(bucket, DAYS, tmp_path / "data").transferred == 0


def test_folders_are_shared(bucket: Bucket, note, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "table").write_bytes(os.urandom(10_000))
    assert note("share a folder", ended(lambda: upload_folder(bucket, tmp_path / "own", "statistics/ab"))) == (0, "")
    assert not upload_folder(bucket, tmp_path / "own", "statistics/ab")
    assert download_folder(bucket, "statistics/ab", tmp_path / "other")
    assert (tmp_path / "other" / "table").read_bytes() == (tmp_path / "own" / "table").read_bytes()


def test_a_study_goes_on_on_another_machine(place: dict[str, str], bucket: Bucket, note, tmp_path: Path) -> None:
    def run() -> None:
        for number in (1, 2, 3):
            with opened(place, tmp_path / f"machine-{number}", "run-1") as database:
                assert add_trial(database) == number

    assert note("a study on three machines in turn", ended(run)) == (0, "")
    assert bucket.names("optuna/") == ["optuna/studies.db"]


def test_of_two_studies_at_once_one_is_refused(kind: str, place: dict[str, str], note, tmp_path: Path) -> None:
    with opened(place, tmp_path / "one", "run-1") as first:

        def second() -> None:
            with opened(place, tmp_path / "two", "run-2"):
                pass

        status, line = note("a second study at the same time", ended(second))
        assert status == 2 and "the study database is being written by MLflow run run-1" in line
        assert add_trial(first) == 1


def test_a_retry_takes_over_and_the_lost_process_saves_nothing(place: dict[str, str], note, tmp_path: Path) -> None:
    """A pod is lost, and still runs while its retry begins."""
    with opened(place, tmp_path / "lost", "run-1") as lost:
        add_trial(lost)
        with opened(place, tmp_path / "retry", "run-1") as retry:
            status, line = note("a lost process goes on after its retry", ended(lambda: add_trial(lost)))
            assert status == 1 and "was taken over by MLflow run run-1" in line and "saves nothing any more" in line
            assert add_trial(retry) == 2


@pytest.mark.parametrize("wrong", ["key", "bucket", "address"])
def test_what_the_user_has_to_mend(
    kind: str, place: dict[str, str], note, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "key":
        if kind not in REAL:
            pytest.skip("moto asks for no keys here")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    changed = {"bucket": {"bucket_name": "no-such-trains"}, "address": {"endpoint_url": "http://127.0.0.1:9"}}
    found = open_bucket(IMPATIENT, **{**place, **changed.get(wrong, {})})
    status, line = note(f"wrong {wrong}", ended(lambda: found.names("data/")))
    words = {"key": "access refused", "bucket": "does not exist at", "address": "did not answer"}
    assert status == (1 if wrong == "address" else 2) and words[wrong] in line and "\n" not in line


def test_the_bucket_of_another_account(kind: str, place: dict[str, str], note, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind not in REAL:
        pytest.skip("moto has one account")
    keys = ("AKIAANOTHER", "another-secret")
    ceph_server(*keys)
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys, strict=True):
        monkeypatch.setenv(name, value)
    status, line = note("the bucket of another account", ended(lambda: open_bucket(**place).names("data/")))
    assert status == 2 and "access refused (AccessDenied)" in line


def test_which_stores_have_no_conditions(kind: str, bucket: Bucket) -> None:
    assert bucket.features.conditional == (REAL.get(kind, kind) not in NO_CONDITIONS)
    assert set(NO_CONDITIONS) < set(STORES)
