"""Event tables as datasets of MLflow: their names, sources and contexts."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from mlflow import MlflowClient

from transformer.config import DataConfig, load_config
from transformer.tracking.datasets import TRAINING, EventTables, dataset_input, dataset_name
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import open_run

COLUMNS = {"train_id": "String", "planned_ts": "Datetime"}
TRAIN = EventTables("train", ["2025-01-06..2025-01-10", "2025-01-13"], "0123456789abcdef", COLUMNS)
TEST = EventTables("test", ["2025-01-15"], "fedcba9876543210", COLUMNS)
IN_BUCKET = {"download_data_from_s3": True, "bucket_name": "trains"}


def test_a_dataset_is_its_folder_and_its_dates() -> None:
    data = DataConfig(local_folder="/srv/ride")
    assert dataset_name(TRAIN, data) == "ride 2025-01-06..2025-01-13"
    assert dataset_name(TEST, data) == "ride 2025-01-15"
    dataset = dataset_input(TRAIN, data).dataset
    assert dataset.digest == TRAIN.digest
    assert json.loads(dataset.profile) == {"service_dates": "2025-01-06..2025-01-10, 2025-01-13"}
    assert json.loads(dataset.schema) == {
        "mlflow_colspec": [{"name": "train_id", "type": "String"}, {"name": "planned_ts", "type": "Datetime"}]
    }


@pytest.mark.parametrize(
    ("settings", "kind", "uri", "name"),
    [
        ({"local_folder": "/srv/ride/"}, "local", "/srv/ride", "ride"),
        ({"local_folder": "/srv/ride/data"}, "local", "/srv/ride/data", "ride"),
        ({"local_folder": "ride"}, "local", str(Path.cwd() / "ride"), "ride"),
        (IN_BUCKET, "s3", "s3://trains/data", "trains"),
        (IN_BUCKET | {"bucket_prefix": "north/2025/"}, "s3", "s3://trains/north/2025/data", "2025"),
    ],
)
def test_the_source_is_a_folder_or_a_bucket(settings: dict[str, object], kind: str, uri: str, name: str) -> None:
    data = DataConfig.model_validate(settings)
    dataset = dataset_input(TEST, data).dataset
    assert (dataset.source_type, json.loads(dataset.source)) == (kind, {"uri": uri})
    assert dataset.name == f"{name} 2025-01-15"


@pytest.mark.slow
def test_a_run_and_its_trials_name_their_datasets_once(mlflow_server: str) -> None:
    config = load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}"])
    client = MlflowClient(tracking_uri=mlflow_server)

    def used(run: RunLog) -> dict[str, tuple[str, str]]:
        inputs = client.get_run(run.run_id).inputs.dataset_inputs
        return {entry.tags[0].value: (entry.dataset.name, entry.dataset.digest) for entry in inputs}

    run = RunLog(config, open_run(config, env="local"))
    for _ in range(2):  # each stage names them
        run.log_datasets([TRAIN, TEST])
    expected = {"train": ("sample 2025-01-06..2025-01-13", TRAIN.digest), "test": ("sample 2025-01-15", TEST.digest)}
    assert used(run) == expected
    assert len(client.get_run(run.run_id).inputs.dataset_inputs) == 2
    trial = run.open_child(config, "trial 0", {}, {}, contexts=TRAINING)
    assert used(trial) == {"train": expected["train"]}  # a trial never sees the test dates


@pytest.mark.slow
def test_processes_that_name_the_same_datasets_at_once_do_not_fail(mlflow_server: str) -> None:
    """The nodes of a training do so, and trials that begin together."""
    config = load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}"])
    client = MlflowClient(tracking_uri=mlflow_server)
    for number in range(8):
        run = RunLog(config, open_run(config, env="local"))
        table = EventTables("test", ["2025-01-15"], f"{number:016}", COLUMNS)
        together = Barrier(4)

        def name_it(run_id: str, table: EventTables = table, together: Barrier = together) -> None:
            process = RunLog(config, run_id)
            together.wait()
            process.log_datasets([table])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(name_it, [run.run_id] * 4))  # raises what one of them raised
        assert [used.dataset.digest for used in client.get_run(run.run_id).inputs.dataset_inputs] == [table.digest]


def test_without_a_run_nothing_is_named() -> None:
    RunLog(load_config("local"), "").log_datasets([TEST])
