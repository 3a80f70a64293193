"""The install steps of the images in an empty virtual environment, and the main use of each image.

No container engine is needed: the RUN lines of `<target>-packages` run in a folder instead of an image.
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

from tests.deploy.dockerfile import REPOSITORY, copy_code, install_packages
from tests.deploy.manifests import dag_bundles, environment
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_port

pytestmark = pytest.mark.slow
TINY_DATA = ["--service-dates", "5", "--lines", "2", "--points", "12", "--journeys-per-day", "40"]
TINY_TRAINING = {
    "training.mlflow.use_mlflow": "false",
    "training.max_epochs": "1",
    "training.snapshots_per_epoch": "8",
    "training.batch_size": "4",
    "model.d_model": "16",
    "model.n_heads": "2",
    "model.n_layers": "1",
    "data.grid.step_s": "7200",
}
OPEN_RUN = """
import json, sys
from types import SimpleNamespace
sys.path[:0] = ["plugins"]
from delay_pipeline import runs
dag_run = SimpleNamespace(dag_id="model_training", run_id="manual__1", conf=json.loads(sys.argv[1]))
ti = SimpleNamespace(xcom_push=lambda key, value: None)
print(json.dumps(runs.open_run({"ti": ti, "dag_run": dag_run})))
"""


def run(*argv, folder, **environment):
    command = [str(word) for word in argv]
    settings = os.environ | {"PYTHONPATH": ""} | environment
    result = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def installed(venv):
    packages = distributions(path=[str(path) for path in venv.glob("lib/python*/site-packages")])
    return {re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower(): package.version for package in packages}


def locked():
    texts = [(REPOSITORY / name).read_text() for name in ("requirements.txt", "deploy/requirements/cluster.txt")]
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;]+)", "\n".join(texts), re.MULTILINE))


def assert_as_locked(packages):
    """Check that every package has its locked version, except build tags such as `+cpu` and torch's CUDA libraries."""
    lock = locked()
    cuda = re.compile(r"nvidia-.*|cuda-.*|triton")
    others = {name: version for name, version in packages.items() if not cuda.fullmatch(name)}
    assert {name: version.partition("+")[0] for name, version in others.items()} == {
        name: lock.get(name) for name in others
    }
    assert "pip" not in packages


def git(*argv, folder):
    run("git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *argv, folder=folder)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """Start the server as the manifest does, with another database, artifact folder and port. Yield its port.

    It runs in the environment of the tests. `test_requirements.py` checks that this holds the packages of the image.
    """
    folder = tmp_path_factory.mktemp("mlflow")
    programs = Path(sys.executable).parent
    documents = yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes" / "mlflow.yaml").read_text())
    pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    database = f"sqlite:///{folder}/runs.db"
    migration = [word.replace("$(MLFLOW_BACKEND_STORE_URI)", database) for word in pod["initContainers"][0]["args"]]
    run(programs / migration[0], *migration[1:], folder=folder)

    port = free_port()
    changed = {"--host": "127.0.0.1", "--port": str(port)}
    program, *arguments = pod["containers"][0]["args"]
    arguments = [f"{key}={changed.get(key, value)}" for key, value in (a.split("=", 1) for a in arguments[1:])]
    settings = environment(pod["containers"][0]) | {"MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts")}
    server = subprocess.Popen(
        [programs / program, "server", *arguments],
        cwd=folder,
        env=os.environ | settings | {"MLFLOW_BACKEND_STORE_URI": database},
        stdout=(folder / "server.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until(lambda: status(port, "/health") == 200, "MLflow", server, folder / "server.log")
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE_S)


def status(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_mlflow_image_answers_to_its_names_only(mlflow_server):
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    for host in ("mlflow.mlflow.svc.cluster.local:5000", "mlflow.mlflow:5000", "localhost:5000", "mlflow.example.org"):
        assert status(mlflow_server, search, Host=host) == 200, host
    assert status(mlflow_server, search, Host="elsewhere.example.org") == 403
    assert status(mlflow_server, "/health", Host="10.0.0.7:5000") == 200  # the kubelet calls it by this name


def test_trainer_image_trains(tmp_path):
    venv = install_packages("trainer", tmp_path)
    packages = installed(venv)
    assert_as_locked(packages)
    assert not [name for name in packages if name.startswith("apache-airflow") or name in ("mlflow", "flask")]

    app = copy_code("trainer", tmp_path / "app")
    command = [venv / "bin" / "python", "-m", "transformer"]
    assert "train-model" in run(*command, "--help", folder=app)
    run(*command, "simulate", "--to", tmp_path / "data", *TINY_DATA, folder=app)
    paths = {"data.local_folder": "data", "paths.cache": "cache", "paths.runs": "runs"}
    options = [f"{key}={value}" for key, value in TINY_TRAINING.items()]
    options += [f"{key}={tmp_path / name}" for key, name in paths.items()]
    sets = [word for option in options for word in ("--set", option)]
    for stage in ("fetch-files", "compute-statistics-and-embeddings", "train-model", "evaluate-model"):
        run(*command, stage, "--env", "local", *sets, "--result", tmp_path / "result.json", folder=app)
    metrics = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert metrics["test/mae_s"] > 0


def test_airflow_image_parses_the_bundle_and_opens_a_run(tmp_path, mlflow_server):
    venv = install_packages("airflow", tmp_path)
    packages = installed(venv)
    assert_as_locked(packages)
    assert not {"torch", "lightning", "polars", "mlflow", "numpy"} & set(packages)

    home = copy_code("airflow", tmp_path / "airflow")
    (bundle,) = json.loads(dag_bundles())
    repository = tmp_path / "repository"
    repository.mkdir()
    copy_code("airflow", repository)
    git("init", "--quiet", folder=repository)
    git("add", ".", folder=repository)
    git("commit", "--quiet", "--message", "Release", folder=repository)
    git("tag", bundle["kwargs"]["tracking_ref"], folder=repository)

    settings = {
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "nothing"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": dag_bundles(),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(tmp_path / "bundles"),
        "AIRFLOW_CONN_GIT_DEFAULT": json.dumps({"conn_type": "git", "host": str(repository)}),
    }
    run("airflow", "db", "migrate", folder=home, **settings)
    run("airflow", "dags", "reserialize", folder=home, **settings)
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        assert database.execute("SELECT filename, stacktrace FROM import_error").fetchall() == []
        dags = dict(database.execute("SELECT dag_id, bundle_name FROM dag").fetchall())
    assert dags["model_training"] == bundle["name"]

    run("python", "-c", "import asyncpg, psycopg2", folder=home, **settings)
    address = f"training.mlflow.tracking_uri=http://localhost:{mlflow_server}"
    conf = json.dumps({"env": "prod", "overrides": [address]})
    # The last line is the answer, those before it are warnings.
    opened = run("python", "-c", OPEN_RUN, conf, folder=home, TRANSFORMER_GIT_COMMIT="c0ffee", **settings)
    assert re.fullmatch(r"[0-9a-f]{32}", json.loads(opened.splitlines()[-1])["run_id"])
