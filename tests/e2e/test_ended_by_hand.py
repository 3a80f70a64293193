"""A DAG run that a person marks as failed, in a real Airflow with its scheduler, and in its MLflow run."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from typing import Any

import psutil
import pytest

from tests.support.clones import cloned
from tests.support.patience import wait_until

pytestmark = pytest.mark.slow

LONG = ["training.max_epochs=1000", "training.early_stopping.enabled=false", "data.grid.step_s=3600"]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """A function that asks Airflow's API, and a function that asks MLflow's."""
    with cloned(tmp_path_factory.mktemp("by hand") / "a clone") as clone:
        done = clone.with_databases().run("services.py", "up")
        assert done.returncode == 0, done.stderr
        password = re.search(r"user admin, password (\S+)", done.stdout)[1]
        server = f"http://127.0.0.1:{clone.airflow_port}"

        def ask(address: str, method: str = "GET", **body: Any) -> Any:
            headers = {"Content-Type": "application/json"} | ask.headers
            data = json.dumps(body).encode() if body else None
            request = urllib.request.Request(server + address, data, headers, method=method)
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        ask.headers = {}
        token = ask("/auth/token", "POST", username="admin", password=password)["access_token"]
        ask.headers = {"Authorization": f"Bearer {token}"}
        ask.mlflow = f"http://127.0.0.1:{clone.mlflow_port}"
        ask.folder = str(clone.folder)
        yield ask


def training_process(folder: str) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "train-model" in words and "transformer" in words and any(folder in word for word in words):
            return process
    return None


@pytest.mark.parametrize("moment", ["running", "up_for_retry"])
def test_a_training_that_was_marked_as_failed_has_failed(airflow, tiny_data, tmp_path, moment):
    """Airflow skips the tasks that wait. They alone would make the DAG run a success, and the MLflow run FINISHED."""
    from mlflow import MlflowClient

    dag = "/api/v2/dags/model_training"
    own = [
        f"training.mlflow.tracking_uri={airflow.mlflow}",
        f"data.local_folder={tiny_data}",
        f"paths.cache={tmp_path}/cache",
        f"paths.runs={tmp_path}/runs",
    ]
    conf = {"overrides": [*LONG, *own]}
    airflow(dag, "PATCH", is_paused=False)
    run = f"{dag}/dagRuns/" + airflow(f"{dag}/dagRuns", "POST", logical_date=None, conf=conf)["dag_run_id"]

    def state(task: str) -> str | None:
        found: str | None = airflow(f"{run}/taskInstances/{task}")["state"]
        return found

    wait_until(lambda: training_process(str(tmp_path)), "the training", every_s=0.5)
    if moment == "up_for_retry":
        process = training_process(str(tmp_path))
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)  # as if out of memory: Airflow tries again after half a minute
    wait_until(lambda: state("train_model") == moment, moment, every_s=0.5)
    airflow(run, "PATCH", state="failed")
    wait_until(lambda: airflow(run)["state"] in ("success", "failed"), "the end of the DAG run", every_s=0.5)

    assert airflow(run)["state"] == "failed"
    assert state("train_model") == ("failed" if moment == "running" else "skipped")
    assert (state("register_model"), state("close_run"), state("check_stages")) == ("skipped", "success", "failed")
    opened = airflow(f"{run}/taskInstances/open_run/xcomEntries/run_id")["value"]
    closed = MlflowClient(airflow.mlflow).get_run(opened)
    assert closed.info.status == "FAILED"
    assert closed.data.tags["failure_reason"].startswith("train_model: ")
