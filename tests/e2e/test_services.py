"""`make up` and `make down`: the processes that they leave alone, and the error about a busy port.

`test_up.py` covers the servers that they start and stop.
"""

import json
import os
import re
import socket
from contextlib import contextmanager

import psutil
import pytest


@contextmanager
def listening(port):
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        yield


@pytest.mark.parametrize("variable", ["MLFLOW_PORT", "AIRFLOW_PORT"])
def test_a_busy_port_is_one_line_and_starts_nothing(clone, variable):
    port = int(clone.environment[variable])
    with listening(port):
        done = clone.run("services.py", "up")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"error: port {port} for " in done.stderr
    assert f"set {variable} to a free port" in done.stderr
    assert re.search(rf"taken by (process {os.getpid()} \(|another program)", done.stderr)
    assert not list(clone.folder.glob(".run/*.json"))
    assert not (clone.folder / "data").exists()


def test_a_nonsense_port_is_one_line(clone):
    clone.mlflow_port = "http"
    done = clone.run("services.py", "up")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "MLFLOW_PORT='http' is not a port" in done.stderr


def test_down_without_up_says_so(clone):
    done = clone.run("services.py", "down")
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["Airflow: was not up", "MLflow: was not up"]


def test_down_spares_a_process_that_inherited_a_recorded_pid(clone):
    (clone.folder / ".run").mkdir()
    record = {"pid": psutil.Process().pid, "started": 1.0, "port": clone.mlflow_port}
    (clone.folder / ".run" / "mlflow.json").write_text(json.dumps(record))
    done = clone.run("services.py", "down")
    assert "MLflow: was not up" in done.stdout
