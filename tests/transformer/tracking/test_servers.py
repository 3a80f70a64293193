"""MLflow as operators have it: user accounts, a path prefix, artifacts in S3, workspaces, other releases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import mlflow
import pytest
import requests
from mlflow import MlflowClient

from tests.support import commands
from tests.support.answers import answers
from tests.support.mlflow_releases import ASKED, mlflow_python
from tests.support.postgres import postgres_server
from tests.support.servers import EVERY_SERVER, every_server, start_mlflow
from transformer.cli import main
from transformer.config import load_config
from transformer.errors import UserError
from transformer.tracking.client import FINISHED
from transformer.tracking.runs import close_run, open_run, run_url

pytestmark = pytest.mark.slow

SERVES = ("--serve-artifacts", "--artifacts-destination")
ACCESS_KEY, SECRET_KEY = "AKIAARTIFACTS", "planted-secret"
OLDER, NEWER = ("3.15.2", "3.16.1"), ("3.18.0",)  # than the client


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of the shell, and none that a test or the commands leave."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("AWS_", "MLFLOW_")):
            monkeypatch.delenv(name)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def runs_stages(
    small_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], undrawn_figures: None
) -> Callable[..., str]:
    """Trains, evaluates and registers a tiny model with an MLflow server, checks it there, and returns its run."""
    del undrawn_figures

    def run(address: str, *more: str) -> str:
        overrides = [*small_overrides, "training.max_epochs=1", "training.mlflow.use_mlflow=true", *more]
        overrides += [f"training.mlflow.tracking_uri={address}", f"paths.runs={tmp_path}/runs"]
        config = load_config("local", overrides)
        run_id = open_run(config, env="local")
        for stage in ("compute-statistics-and-embeddings", "train-model", "evaluate-model", "register-model"):
            sets = [word for override in overrides for word in ("--set", override)]
            assert main([stage, "--run-id", run_id, *sets]) == 0, capsys.readouterr().err
        close_run(config, run_id, FINISHED)
        client = MlflowClient(tracking_uri=address)
        found = client.get_run(run_id)
        assert found.info.status == "FINISHED"
        assert found.data.metrics["test/n"] > 100
        assert {"checkpoints", "config", "evaluation"} <= {entry.path for entry in client.list_artifacts(run_id)}
        (version,) = client.search_model_versions(
            f"name = '{config.evaluation.registry.model_name}' and run_id = '{run_id}'"
        )
        mlflow.set_tracking_uri(address)
        assert mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}").metadata.signature is not None
        return run_id

    return run


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    assert "secret" not in line.replace("compute.kubernetes.secret", "").replace("into the secret that", "")
    return line


# --- user accounts ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Accounts:
    """A server that asks for a user and a password."""

    url: str
    password: str = "planted-secret-password"

    def tracking(self, *more: str) -> list[str]:
        return ["training.mlflow.use_mlflow=true", f"training.mlflow.tracking_uri={self.url}", *more]

    def admin(self, path: str, **values: object) -> requests.Response:
        """A request of the administrator."""
        answer = requests.post(
            f"{self.url}/api/2.0/mlflow/{path}", json=values, auth=("admin", self.password), timeout=60
        )
        assert answer.ok, answer.text
        return answer


def start_accounts(folder: Path, *options: str) -> Accounts:
    python = mlflow_python(mlflow.__version__)
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        "auth_cache_ttl_seconds = 60\n"  # otherwise each request takes the time to hash the password
        f"database_uri = sqlite:///{folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": Accounts.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
    }
    destination = (folder / "artifacts").as_uri()
    options = ("--app-name", "basic-auth", *SERVES, destination, *options)
    made = Accounts(start_mlflow(folder, *options, python=python, variables=variables))
    for user in ("ada", "ben"):
        made.admin("users/create", username=user, password=made.password)
    return made


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Accounts:
    return start_accounts(tmp_path_factory.mktemp("accounts"))


@pytest.fixture
def log_in(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def change(user: str, password: str = accounts.password) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return change


def test_a_user_runs_every_stage(accounts: Accounts, log_in: Callable[[str], None], runs_stages: Callable[..., str]):
    log_in("ada")
    runs_stages(accounts.url, "training.mlflow.experiment_name=of ada", "evaluation.registry.model_name=of-ada")


def test_credentials_in_the_address_work_and_are_not_shown(accounts: Accounts, caplog: pytest.LogCaptureFixture):
    address = accounts.url.replace("//", f"//ada:{accounts.password}@")
    config = load_config("local", [f"training.mlflow.tracking_uri={address}", "training.mlflow.experiment_name=other"])
    run_id = open_run(config, env="local")
    assert run_url(config, run_id).startswith(f"{accounts.url}/#/experiments/")
    assert accounts.password not in caplog.text


@pytest.mark.parametrize(
    "given", [{}, {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "a wrong secret"}]
)
@pytest.mark.parametrize("stage", ["train-model", "promote"])
def test_missing_and_wrong_credentials_are_one_line(
    accounts: Accounts,
    small_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, str],
    stage: str,
):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    words = [word for override in [*small_overrides, *accounts.tracking()] for word in ("--set", override)]
    target = [] if stage == "promote" else ["--run-id", "0" * 32]
    assert main([stage, *target, *words]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: MLflow at {accounts.url} refuses access (401: ")
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line
    assert "permission" not in line
    assert "a wrong secret" not in line


def test_an_experiment_that_the_user_may_not_write_is_one_line(accounts: Accounts, log_in: Callable[[str], None]):
    accounts.admin("experiments/create", name="of others")
    log_in("ben")
    config = load_config("local", accounts.tracking("training.mlflow.experiment_name=of others"))
    line = refusal(lambda: open_run(config, env="local"))
    assert line.startswith(f"MLflow at {accounts.url} refuses access (403: ")
    assert "ask for the permission that is missing, or name what this user may write" in line
    assert "PASSWORD" not in line


# --- workspaces ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> Accounts:
    """A server with the workspace `trains`, in which no user but the administrator may do anything."""
    made = start_accounts(tmp_path_factory.mktemp("workspaces"), "--enable-workspaces")
    answer = requests.post(
        f"{made.url}/api/3.0/mlflow/workspaces", json={"name": "trains"}, auth=("admin", made.password), timeout=60
    )
    assert answer.ok, answer.text
    return made


def test_a_workspace_is_named_in_the_environment(workspaces: Accounts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", workspaces.password)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "trains")
    config = load_config("local", workspaces.tracking())
    run_id = open_run(config, env="local")
    assert run_url(config, run_id).endswith(f"/runs/{run_id}?workflowType=machine_learning&workspace=trains")
    monkeypatch.delenv("MLFLOW_WORKSPACE")
    with pytest.raises(mlflow.MlflowException, match="not found"):
        MlflowClient(tracking_uri=workspaces.url).get_run(run_id)


@pytest.mark.parametrize("workspace", ["trains", "nowhere"])
def test_a_workspace_without_permission_is_one_line(
    workspaces: Accounts, monkeypatch: pytest.MonkeyPatch, workspace: str
):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ben")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", workspaces.password)
    monkeypatch.setenv("MLFLOW_WORKSPACE", workspace)
    config = load_config("local", workspaces.tracking())
    line = refusal(lambda: open_run(config, env="local"))
    assert "MLFLOW_WORKSPACE" in line
    assert ("refuses access (403: " if workspace == "trains" else "Workspace 'nowhere' not found") in line


def test_a_workspace_at_a_server_without_is_one_line(mlflow_server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_WORKSPACE", "trains")
    config = load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}"])
    line = refusal(lambda: open_run(config, env="local"))
    assert line.startswith(f"MLflow at {mlflow_server}: ")
    assert line.endswith("; correct MLFLOW_WORKSPACE")


# --- a path prefix ---------------------------------------------------------------------------------------------------
def test_a_server_below_a_path(tmp_path: Path, runs_stages: Callable[..., str]):
    destination = (tmp_path / "artifacts").as_uri()
    address = start_mlflow(tmp_path, *SERVES, destination, prefix="/tools/mlflow")
    run_id = runs_stages(f"{address}/")
    config = load_config("local", [f"training.mlflow.tracking_uri={address}/"])
    page = urlsplit(run_url(config, run_id))
    assert page.path == "/tools/mlflow/"
    body = answers(f"http://{page.netloc}{page.path}") or b""
    assert b"<title>MLflow</title>" in body
    public = load_config(
        "local", [f"training.mlflow.tracking_uri={address}", "training.mlflow.public_uri=https://x/y/"]
    )
    assert run_url(public, run_id).startswith("https://x/y/#/experiments/")


# --- artifacts on another host ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ArtifactStore:
    """A bucket for artifacts, and the variables of a process that may use it."""

    root: str
    variables: dict[str, str]
    bucket: object
    checks: bool  # whether it refuses the credentials of a stranger

    def names(self) -> list[str]:
        return [entry.key for entry in self.bucket.objects.all()]


@pytest.fixture(params=EVERY_SERVER)
def artifact_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    if not ASKED:
        pytest.skip("a training for each store: only in `make test-all` (TEST_SERVERS=1)")
    with every_server(request.param, ACCESS_KEY, SECRET_KEY) as endpoint:
        resource = boto3.resource(
            "s3", endpoint_url=endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )  # fmt: skip
        bucket = resource.create_bucket(Bucket=f"artifacts-{tmp_path.name.replace('_', '-')[-40:].strip('-').lower()}")
        yield ArtifactStore(
            root=f"s3://{bucket.name}/artifacts",
            variables={
                "MLFLOW_S3_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
            },
            bucket=bucket,
            checks=request.param != "moto",
        )


@pytest.mark.parametrize("serves", [True, False], ids=["through the server", "straight to the store"])
def test_mlflow_on_postgresql_with_artifacts_in_s3(
    artifact_store: ArtifactStore,
    runs_stages: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    small_overrides: list[str],
    serves: bool,
):
    server = postgres_server()
    store = server.database().replace("postgresql://tuner@", f"postgresql+psycopg://tuner:{server.password}@")
    where = (
        (*SERVES, artifact_store.root)
        if serves
        else ("--no-serve-artifacts", "--default-artifact-root", artifact_store.root)
    )
    address = start_mlflow(tmp_path, *where, store=store, variables=artifact_store.variables)
    if not serves:
        for name, value in artifact_store.variables.items():
            monkeypatch.setenv(name, value)
    run_id = runs_stages(address)
    assert any(f"/{run_id}/artifacts/checkpoints/" in name for name in artifact_store.names())
    if serves:
        return

    stranger = {"AWS_ACCESS_KEY_ID": "AKIASTRANGER", "AWS_SECRET_ACCESS_KEY": "planted-secret-too"}
    # moto lets everybody in.
    for given in ({}, stranger) if artifact_store.checks else ({},):
        line = refused_by_store(address, run_id, small_overrides, given)
        assert line.startswith(f"error: the store of the artifacts of MLflow at {address} refuses access (")
        assert "AWS_ACCESS_KEY_ID" in line and "MLFLOW_S3_ENDPOINT_URL" in line and "--serve-artifacts" in line
        assert "planted-secret" not in line


def refused_by_store(address: str, run_id: str, overrides: list[str], credentials: dict[str, str]) -> str:
    """The last line of a stage that may not read the artifacts, in a process of its own: clients keep their keys."""
    tracked = [*overrides, "training.mlflow.use_mlflow=true", f"training.mlflow.tracking_uri={address}"]
    words = [word for override in tracked for word in ("--set", override)]
    own = {
        name: value for name, value in os.environ.items() if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    environment = {**own, "AWS_EC2_METADATA_DISABLED": "true", **credentials}
    done = commands.run("transformer", "train-model", "--run-id", run_id, *words, environment=environment)
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1]


# --- other releases --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("release", [*OLDER, *NEWER])
def test_a_server_of_another_release(release: str, tmp_path: Path, runs_stages: Callable[..., str]):
    python = mlflow_python(release)
    address = start_mlflow(tmp_path, *SERVES, (tmp_path / "artifacts").as_uri(), python=python)
    assert answers(f"{address}/version") == release.encode()
    runs_stages(address)
