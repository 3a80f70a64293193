"""Workers killed by SIGKILL, with the study in S3 or in PostgreSQL: no trial is lost and none counts twice."""

import random
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.support.commands import finish
from tests.support.grids import grid
from tests.support.patience import PATIENCE_S
from tests.transformer.tuning.workers import (
    check_whole,
    kill_when,
    nested_runs,
    search_overrides,
    start,
    study_of,
)
from transformer.config import load_config
from transformer.tracking import names, runs
from transformer.tuning.trials import superseded

pytestmark = pytest.mark.slow


@pytest.fixture
def overrides(small_overrides: list[str], mlflow_server: str) -> list[str]:
    return [*small_overrides, *search_overrides(mlflow_server)]


@pytest.mark.parametrize("seed", range(grid(1)))
def test_sqlite_in_s3_survives_kills_between_and_during_trials(
    overrides: list[str], mlflow_server: str, sample_folder: Path, store, tmp_path: Path, seed: int
):
    for path in sample_folder.rglob("*.parquet"):
        store.put(f"data/{path.relative_to(sample_folder).as_posix()}", path.read_bytes())
    chance = random.Random(seed)
    in_s3 = [*overrides, *store.overrides, "search.n_trials=6"]
    config = load_config("local", [*in_s3, f"paths.optuna_db={tmp_path}/reader/studies.db"])
    run_id = runs.open_run(config, env="local", tags={names.AIRFLOW_RUN: f"manual__{seed}"})
    moments = [(r"trial 1 \(2 of 6\)", chance.uniform(0, 1)), (r"epoch 2/3 done", 0.0), (r"trial \d+: complete", 0.0)]
    for number, (line, after_s) in enumerate(moments):
        log = kill_when(start(in_s3, run_id, tmp_path / f"pod-{number}"), line, after_s)
        assert "Traceback" not in log, log
    finish(start(in_s3, run_id, tmp_path / "last"))
    check_whole(study_of(config), nested_runs(mlflow_server, run_id), 6)
    assert not [name for name in store.listing() if name.endswith((".lock", ".tmp"))]


def test_sigterm_hands_the_trial_back_at_once(overrides: list[str], mlflow_server: str, tmp_path: Path):
    here = [*overrides, "search.n_trials=2"]
    config = load_config("local", [*here, f"paths.optuna_db={tmp_path}/studies.db"])
    run_id = runs.open_run(config, env="local")
    process = start(here, run_id, tmp_path, held="epoch 1/3 done")
    assert any(text == "held\n" for text in process.stderr)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(PATIENCE_S)
    assert process.returncode == 143 and log.rstrip().endswith("error: terminated by SIGTERM"), log
    assert nested_runs(mlflow_server, run_id) == {0: [("KILLED", "retried")]}
    assert [trial.state for trial in study_of(config).trials] == [TrialState.FAIL, TrialState.WAITING]
    finish(start(here, run_id, tmp_path))
    check_whole(study_of(config), nested_runs(mlflow_server, run_id), 2)


def test_four_workers_on_postgresql_run_every_trial_once_though_one_is_killed(
    overrides: list[str], mlflow_server: str, database_url: str, tmp_path: Path
):
    n_trials = 8
    shared = [*overrides, f"search.storage_url={database_url}", "search.n_workers=4", f"search.n_trials={n_trials}"]
    shared += ["search.heartbeat_s=5"]  # on a busy machine a second may pass without a beat
    config = load_config("local", shared)
    run_id = runs.open_run(config, env="local", tags={names.AIRFLOW_RUN: "manual__1"})
    workers = [start(shared, run_id, tmp_path / f"pod-{k}", worker=k) for k in range(4)]
    kill_when(workers[3], r"epoch 1/3 done")
    logs = finish(*workers[:3])
    # Its retry, as Airflow starts it, does the rest.
    finish(start(shared, run_id, tmp_path / "pod-3b", worker=3))
    study = study_of(config)
    assert len(superseded(study.trials)) == 1
    check_whole(study, nested_runs(mlflow_server, run_id), n_trials)
    by_worker = {trial.user_attrs["worker"] for trial in study.trials}
    assert by_worker == {f"{run_id}/{k}" for k in range(4)}
    assert sum("study train-delays: new" in log for log in logs) <= 1


def test_a_worker_that_falls_silent_is_replaced_by_the_others(
    overrides: list[str], mlflow_server: str, database_url: str, tmp_path: Path
):
    shared = [*overrides, f"search.storage_url={database_url}", "search.n_workers=2", "search.n_trials=3"]
    shared += ["search.heartbeat_s=1"]
    config = load_config("local", shared)
    run_id = runs.open_run(config, env="local")
    kill_when(start(shared, run_id, tmp_path / "pod-0", worker=0), r"epoch 1/3 done")
    time.sleep(5)  # four heartbeats missed
    finish(start(shared, run_id, tmp_path / "pod-1", worker=1))
    study = study_of(config)
    assert superseded(study.trials) == {0}
    check_whole(study, nested_runs(mlflow_server, run_id), 3)
