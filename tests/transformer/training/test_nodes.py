"""A training on two nodes, which are two processes here: it equals that of one process, and ends as a whole."""

import os
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support import commands
from tests.support.commands import finish
from tests.support.messages import assert_names
from tests.support.models import history_of
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from transformer.config import Config, load_config
from transformer.errors import ServiceError, UserError
from transformer.protocol import LOST_PROCESS
from transformer.tracking import names, runs
from transformer.training.checkpoints import BEST, CHECKPOINTS, HISTORY, LAST
from transformer.training.processes import TrainingProcesses

EPOCHS = 3
ENDLESS = ["training.max_epochs=100000", "training.early_stopping.enabled=false"]


@pytest.fixture(scope="module")
def overrides(small_overrides: list[str], mlflow_server: str) -> list[str]:
    return [
        *small_overrides,
        "training.mlflow.use_mlflow=true",
        f"training.mlflow.tracking_uri={mlflow_server}",
        f"training.max_epochs={EPOCHS}",
        "training.log_every_s=0.1",
        "model.dropout=0",
        "model.head_dropout=0",
        # The first node waits this long for one that failed at its start, and the test with it.
        "compute.kubernetes.schedule_timeout_s=60",
        "compute.kubernetes.startup_timeout_s=60",
    ]


@pytest.fixture(scope="module")
def config(overrides: list[str]) -> Config:
    return load_config("local", overrides)


def open_run(config: Config) -> str:
    return runs.open_run(config, env="local", tags={names.AIRFLOW_RUN: "manual__1"})


def start(overrides: list[str], run_id: str, folder: Path, **environment: str) -> commands.Forked:
    words = ["transformer", "train-model", "--run-id", run_id]
    for override in [*overrides, f"paths.runs={folder}"]:
        words += ["--set", override]
    return commands.start(*words, environment=os.environ | environment)


def node(overrides: list[str], run_id: str, folder: Path, rank: int, port: int) -> commands.Forked:
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
    return start(overrides, run_id, folder / f"node{rank}", TRANSFORMER_NODES="2", **place)


def two_nodes(overrides: list[str], run_id: str, folder: Path) -> list[commands.Forked]:
    port = free_port()
    return [node(overrides, run_id, folder, rank, port) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one_process(overrides: list[str], config: Config, tmp_path_factory: pytest.TempPathFactory):
    folder, run_id = tmp_path_factory.mktemp("one"), open_run(config)
    finish(start(overrides, run_id, folder))
    return history_of(config, run_id, folder)


def assert_same_curve(history: list[dict[str, float]], expected: list[dict[str, float]]):
    assert len(history) == len(expected) == EPOCHS
    for row, other in zip(history, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_two_nodes_have_the_loss_curve_of_one_and_the_first_writes_the_run(
    overrides: list[str], config: Config, one_process, tmp_path: Path
):
    run_id = open_run(config)
    logs = finish(*two_nodes(overrides, run_id, tmp_path))
    assert_same_curve(history_of(config, run_id, tmp_path), one_process)
    client = MlflowClient(config.training.mlflow.tracking_uri)
    assert len(client.get_metric_history(run_id, "val/mae_s")) == EPOCHS
    assert len(client.get_metric_history(run_id, "val/best_mae_s")) == 1
    assert {path.name for path in tmp_path.glob(f"node0/*/{CHECKPOINTS}/*")} == {BEST, HISTORY, LAST}
    assert not list(tmp_path.glob(f"node1/*/{CHECKPOINTS}/*"))
    assert "epoch 1/" in logs[0] and "epoch 1/" not in logs[1]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_node_ends_the_other_and_all_continue_from_the_last_epoch(
    overrides: list[str], config: Config, one_process, tmp_path: Path, victim: int
):
    run_id = open_run(config)
    nodes = two_nodes(overrides, run_id, tmp_path / "first")
    for line in nodes[0].stderr:
        if f"epoch 2/{EPOCHS}" in line:  # the first is saved and copied
            break
    nodes[victim].kill()
    nodes[victim].communicate()
    survivor = nodes[1 - victim]
    log = survivor.communicate(PATIENCE_S)[1]
    assert survivor.returncode == 1
    assert log.splitlines()[-1].startswith(f"error: {LOST_PROCESS}")
    assert "Traceback" not in log
    logs = finish(*two_nodes(overrides, run_id, tmp_path / "retry"))
    assert all("continuing from it" in log for log in logs)
    assert f"epoch 1/{EPOCHS} done" not in logs[0]
    assert_same_curve(history_of(config, run_id, tmp_path), one_process)


@pytest.mark.slow
def test_sigterm_ends_the_training_on_both_nodes(overrides: list[str], config: Config, tmp_path: Path):
    nodes = two_nodes([*overrides, *ENDLESS], open_run(config), tmp_path)
    for line in nodes[0].stderr:
        if "epoch 2/" in line:
            break
    nodes[0].send_signal(signal.SIGTERM)
    logs = [each.communicate(PATIENCE_S)[1] for each in nodes]
    assert [each.returncode for each in nodes] == [128 + signal.SIGTERM, 1]
    assert logs[0].splitlines()[-1] == "error: terminated by SIGTERM"
    assert logs[1].splitlines()[-1].startswith(f"error: {LOST_PROCESS}")


@pytest.mark.slow
def test_sigterm_ends_a_process_that_waits_for_a_node_that_hangs(overrides: list[str], config: Config, tmp_path: Path):
    nodes = two_nodes([*overrides, *ENDLESS], open_run(config), tmp_path)
    for line in nodes[0].stderr:
        if "epoch 2/" in line:
            break
    nodes[1].send_signal(signal.SIGSTOP)
    time.sleep(1)  # by then it waits in a collective
    began = time.monotonic()
    nodes[0].send_signal(signal.SIGTERM)
    log = nodes[0].communicate(PATIENCE_S)[1]
    nodes[1].kill()
    nodes[1].communicate()
    assert nodes[0].returncode == 128 + signal.SIGTERM
    assert log.splitlines()[-1] == "error: terminated by SIGTERM"
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_first_node_without_the_others_ends_after_the_time_for_their_start(
    overrides: list[str], config: Config, tmp_path: Path
):
    short = ["compute.kubernetes.schedule_timeout_s=1", "compute.kubernetes.startup_timeout_s=1"]
    alone = node([*overrides, *short], open_run(config), tmp_path, 0, free_port())
    log = alone.communicate(PATIENCE_S)[1]
    assert alone.returncode == 1
    assert log.splitlines()[-1].startswith(f"error: {LOST_PROCESS} (Timed out after")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch):
    """Set the variables of a second node, or others."""

    def set_variables(**changes: str) -> None:
        variables = {"TRANSFORMER_NODES": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "9", "NODE_RANK": "1"}
        for name, value in (variables | changes).items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("TRANSFORMER_TRAINING_PROCESS", raising=False)

    yield set_variables
    os.environ.pop("TRANSFORMER_TRAINING_PROCESS", None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MASTER_PORT": ""}, "TRANSFORMER_NODES=2 needs MASTER_PORT"),
        ({"NODE_RANK": "2"}, "NODE_RANK=2 is no node of TRANSFORMER_NODES=2"),
        ({"TRANSFORMER_NODES": "two"}, "TRANSFORMER_NODES=two is no whole number"),
        ({"MASTER_PORT": "tcp"}, "MASTER_PORT=tcp is no whole number"),
    ],
)
def test_a_node_without_its_place_is_refused(place, changes: dict[str, str], said: str):
    place(**changes)
    with pytest.raises(UserError) as refused:
        TrainingProcesses()
    assert_names(refused.value, said)


def test_a_node_waits_for_the_first_one_no_longer_than_its_start_may_take(place):
    place(MASTER_PORT=str(free_port()))
    with pytest.raises(ServiceError, match="node 0 of the training did not answer at localhost:"):
        TrainingProcesses().await_first_node(timeout_s=0)


def test_a_name_that_is_not_resolved_yet_is_no_failure(place, monkeypatch: pytest.MonkeyPatch):
    place(MASTER_ADDR="train-model-0.invalid")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("transformer.training.processes.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        TrainingProcesses().await_first_node(timeout_s=60)
