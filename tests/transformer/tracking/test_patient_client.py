"""MLflow's client waits for a server that goes away, and a lost answer makes it do nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from mlflow import MlflowClient

from tests.support.cuts import Cut, Line, line_to
from transformer.config import load_config
from transformer.errors import UnansweredError, UserError
from transformer.tracking.client import check_server, connect, experiment_of
from transformer.tracking.patient_client import CREATION
from transformer.tracking.run_log import RunLog

pytestmark = pytest.mark.slow


@pytest.fixture
def line(mlflow_server: str) -> Iterator[Line]:
    with line_to(urlsplit(mlflow_server).port or 0) as made:
        yield made


@pytest.fixture
def patient(line: Line) -> MlflowClient:
    return connect(load_config("local", [f"training.mlflow.tracking_uri=http://127.0.0.1:{line.port}"]))


@pytest.fixture
def direct(mlflow_server: str) -> MlflowClient:
    return MlflowClient(tracking_uri=mlflow_server)


LOST = Cut(piece=1, seconds=0.2, answered=True)


@pytest.mark.parametrize("answered", [True, False])
def test_a_run_is_created_once(line: Line, patient: MlflowClient, direct: MlflowClient, answered: bool) -> None:
    experiment = experiment_of(direct, uuid4().hex)
    line.begin(Cut(1, 0.2, answered))
    run = patient.create_run(experiment, tags={"a": "b"}, run_name="trial 1")
    assert line.was_cut
    (found,) = direct.search_runs([experiment])
    assert (found.info.run_id, found.info.run_name, found.data.tags["a"]) == (run.info.run_id, "trial 1", "b")
    assert CREATION.startswith("mlflow.")  # so that pages hide it


def test_a_version_is_created_once(line: Line, patient: MlflowClient, direct: MlflowClient, tmp_path: Path) -> None:
    name = uuid4().hex
    direct.create_registered_model(name)
    run = direct.create_run("0")
    source = f"{run.info.artifact_uri}/model"
    other = direct.create_model_version(name, source, run.info.run_id, tags={"content": "other"})
    line.begin(LOST)
    made = patient.create_model_version(name, source, run.info.run_id, tags={"content": "new"})
    assert line.was_cut
    found = {entry.version: entry.tags for entry in direct.search_model_versions(f"name = '{name}'")}
    assert found == {other.version: {"content": "other"}, made.version: {"content": "new"}}


def test_a_logged_model_is_created_once(line: Line, patient: MlflowClient, direct: MlflowClient) -> None:
    experiment = experiment_of(direct, uuid4().hex)
    run = direct.create_run(experiment).info.run_id
    line.begin(LOST)
    made = patient.create_logged_model(experiment, "trains", run, tags={"content": "ab"}, model_type="transformer")
    assert line.was_cut
    (found,) = direct.search_logged_models([experiment])
    assert (found.model_id, found.tags["content"]) == (made.model_id, "ab")


def test_an_experiment_is_created_once(line: Line, patient: MlflowClient, direct: MlflowClient) -> None:
    name = uuid4().hex
    line.begin(Cut(2, 0.2, True))  # the first request asks for it
    assert experiment_of(patient, name) == direct.get_experiment_by_name(name).experiment_id
    assert line.was_cut


def test_a_tag_is_deleted_once(line: Line, patient: MlflowClient, direct: MlflowClient) -> None:
    run = direct.create_run("0", tags={"a": "b"})
    line.begin(LOST)
    patient.delete_tag(run.info.run_id, "a")
    assert line.was_cut
    assert "a" not in direct.get_run(run.info.run_id).data.tags


def test_metrics_are_logged_once(line: Line, direct: MlflowClient) -> None:
    run = direct.create_run("0").info.run_id
    log = RunLog(load_config("local", [f"training.mlflow.tracking_uri=http://127.0.0.1:{line.port}"]), run)
    for step in range(3):
        line.begin(LOST)
        log.log_metrics({"a": step, "b": float("nan")}, step)
        assert line.was_cut
    for name in ("a", "b"):
        assert [entry.step for entry in direct.get_metric_history(run, name)] == [0, 1, 2]


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_artifacts_arrive_whole(
    line: Line, patient: MlflowClient, direct: MlflowClient, tmp_path: Path, piece: int
) -> None:
    run = direct.create_run("0").info.run_id
    (tmp_path / "file").write_bytes(bytes(range(256)) * 2_000)
    for request in (
        lambda: patient.log_artifact(run, str(tmp_path / "file"), "x"),
        lambda: patient.download_artifacts(run, "x", str(tmp_path / "down")),
    ):
        (tmp_path / "down").mkdir(exist_ok=True)
        line.begin(Cut(piece, 0.2, answered=False))
        request()
    assert (tmp_path / "down" / "x" / "file").read_bytes() == (tmp_path / "file").read_bytes()


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Starts a server that gives every request the same status."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "7")
                self.end_headers()
                self.wfile.write(b"refused")

            do_POST = do_GET  # noqa: N815 (a name that http.server calls)

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("pod", [False, True])
@pytest.mark.parametrize(("status", "remedy"), [(401, "MLFLOW_TRACKING_PASSWORD"), (403, "ask for the permission")])
def test_refused_access_is_the_users_to_mend(
    answering: Callable[[int], str],
    status: int,
    remedy: str,
    pod: bool,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
) -> None:
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    address = answering(status)
    config = load_config("local", [f"training.mlflow.tracking_uri={address}"])
    with pytest.raises(UserError, match=rf"^MLflow at {address} refuses access \({status}: .*{remedy}") as caught:
        check_server(config)
    assert ("compute.kubernetes.secret" in str(caught.value)) == (pod and status == 401)
    assert not pauses


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_waited_for(answering: Callable[[int], str], status: int, pauses: list[float]) -> None:
    config = load_config("local", [f"training.mlflow.tracking_uri={answering(status)}"])
    with pytest.raises(UnansweredError, match=rf"did not answer for 1\d\d s \(.*{status} error responses"):
        check_server(config)
    assert sum(pauses) >= 120


def test_the_wrong_one_of_http_and_https_is_the_users_to_mend(mlflow_server: str, pauses: list[float]) -> None:
    address = mlflow_server.replace("http://", "https://")
    config = load_config("local", [f"training.mlflow.tracking_uri={address}"])
    with pytest.raises(UserError, match=r"no secure connection .*http:// and https://.*REQUESTS_CA_BUNDLE"):
        check_server(config)
    assert not pauses
