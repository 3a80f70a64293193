"""The install steps of the images in an empty virtual environment, and the main use of each image.

No container engine is needed: the RUN lines of `<target>-packages` run in a folder instead of an image.
"""

import ast
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from importlib.metadata import distributions
from urllib.parse import urlsplit

import pytest
import yaml

from tests.deploy.dockerfile import REPOSITORY, copy_code, install_packages
from tests.deploy.manifests import dag_bundles, environment
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_port
from tests.support.postgres import Postgres, postgres_server

pytestmark = pytest.mark.slow
TINY_DATA = ["--service-dates", "5", "--lines", "2", "--points", "12", "--journeys-per-day", "40"]
TINY_TRAINING = {
    "training.max_epochs": "1",
    "training.snapshots_per_epoch": "8",
    "training.batch_size": "4",
    "model.d_model": "16",
    "model.n_heads": "2",
    "model.n_layers": "1",
    "data.grid.step_s": "7200",
}
PATHS = {"data.local_folder": "data", "paths.cache": "cache", "paths.runs": "runs"}
TINY_STUDY = [
    "search.n_trials=3",
    "search.space=[{key: training.learning_rate, low: 1.0e-5, high: 1.0e-1, log: true}, "
    "{key: model.dropout, low: 0.0, high: 0.3}]",
]
# prose: allow length – a program
IMPORT = """
import importlib, sys, json
sys.path[:0] = ["plugins"]
wrong = []
for module, name in json.loads(sys.stdin.read()):
    try:
        found = importlib.import_module(module)
        if name and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        wrong.append(f"from {module} import {name}: {error}" if name else f"import {module}: {error}")
sys.exit("\\n".join(wrong) or 0)
"""
# The engines that Airflow itself makes: that of the scheduler, and that of the API server and the triggerer.
QUERY = """
import asyncio
from sqlalchemy import text
from airflow import settings
from airflow.utils.session import create_session_async
ENCRYPTED = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")

async def encrypted():
    async with create_session_async() as session:
        found = (await session.execute(ENCRYPTED)).scalar_one()
    await settings.async_engine.dispose()
    return found

with settings.engine.connect() as connection:
    print("encrypted:", connection.execute(ENCRYPTED).scalar_one(), "and", asyncio.run(encrypted()))
"""
OPEN_LOCAL_RUN = """
import sys
from transformer.config import load_config
from transformer.tracking import runs
print(runs.open_run(load_config("local", sys.argv[1:]), env="local"))
"""
OPEN_RUN = """
import json, sys
from types import SimpleNamespace
sys.path[:0] = ["plugins"]
from delay_pipeline import runs
conf = json.loads(sys.argv[1])
dag_run = SimpleNamespace(dag_id="model_training", run_id="manual__1", run_type="manual", conf=conf)
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


def imported(folder, *packages):
    """Every `(module, name)` that the code of an image can import, also inside functions; name "" = the module itself.

    It follows the imports of this repository, and leaves out those for type checkers.
    """
    waiting = [path for package in packages for path in sorted((folder / package).rglob("*.py"))]
    seen, found = set(waiting), {}
    while waiting:
        tree = ast.parse(waiting.pop().read_text())
        typing = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if node in typing or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [("", alias.name) for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [(alias.name, node.module) for alias in node.names]
            for name, module in names:
                found[module, name] = None
                whole = folder.joinpath(*module.split("."))
                files = [whole.with_suffix(".py"), whole / "__init__.py", whole / f"{name}.py"]
                new = [path for path in files if path.is_file() and path not in seen]
                seen.update(new)
                waiting += new
    return list(found)


def assert_importable(venv, folder, *packages, **environment):
    wanted = imported(folder, *packages)
    assert len(wanted) > 100
    command = [str(venv / "bin" / "python"), "-c", IMPORT]
    settings = os.environ | {"PYTHONPATH": ""} | environment
    result = subprocess.run(
        command, cwd=folder, env=settings, input=json.dumps(wanted), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def postgres() -> Postgres:
    server = postgres_server()
    server.offer_tls()
    return server


def address(server: Postgres, sslmode: str) -> str:
    """Address of a new database, as the guide has it: with the password, and with the mode of a managed PostgreSQL."""
    return f"{server.database().replace('@', f':{server.password}@', 1)}?sslmode={sslmode}"


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory, postgres):
    """Start the server of the image as the manifest does, with other folders and another port. Yield its port."""
    folder = tmp_path_factory.mktemp("mlflow")
    venv = install_packages("mlflow", folder)
    assert_as_locked(installed(venv))
    programs = venv / "bin"
    documents = yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes" / "mlflow.yaml").read_text())
    pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    database = address(postgres, "require")
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


def test_trainer_image_runs_every_stage(tmp_path, postgres, mlflow_server):
    venv = install_packages("trainer", tmp_path)
    packages = installed(venv)
    assert_as_locked(packages)
    assert not [name for name in packages if name.startswith("apache-airflow") or name in ("mlflow", "flask")]

    app = copy_code("trainer", tmp_path / "app")
    assert_importable(venv, app, "transformer")
    command = [venv / "bin" / "python", "-m", "transformer"]
    assert "train-model" in run(*command, "--help", folder=app)
    run(*command, "simulate", "--to", tmp_path / "data", *TINY_DATA, folder=app)
    tracking = {"training.mlflow.tracking_uri": f"http://localhost:{mlflow_server}"}
    paths = {name: tmp_path / folder for name, folder in PATHS.items()}
    overrides = [f"{key}={value}" for key, value in (TINY_TRAINING | tracking | paths).items()]
    run_id = run(venv / "bin" / "python", "-c", OPEN_LOCAL_RUN, *overrides, folder=app).split()[-1]

    def stage(name, *options, more=()):
        sets = [word for override in [*overrides, *more] for word in ("--set", override)]
        result = tmp_path / "result.json"
        words = [*command, name, "--env", "local", *sets, "--result", result, *options]
        run(*words, folder=app, PGPASSWORD=postgres.password)
        return json.loads(result.read_text())

    for name in ("fetch-files", "compute-statistics-and-embeddings", "train-model"):
        stage(name, "--run-id", run_id)
    assert stage("evaluate-model", "--run-id", run_id)["metrics"]["test/mae_s"] > 0
    assert stage("register-model", "--run-id", run_id)["version"] == 1
    study = [*TINY_STUDY, f"search.storage_url={postgres.database()}", "training.mlflow.use_mlflow=false"]
    assert stage("tune", more=study)["complete"] == 3
    assert sum(name.startswith("importance/") for name in stage("report-study", more=study)["metrics"]) == 2


def test_airflow_image_parses_the_bundle_and_opens_a_run(tmp_path, postgres, mlflow_server):
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

    database = address(postgres, "require")
    settings = {
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": database,
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "nothing"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": dag_bundles(),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(tmp_path / "bundles"),
        "AIRFLOW_CONN_GIT_DEFAULT": json.dumps({"conn_type": "git", "host": str(repository)}),
    }
    run("airflow", "db", "migrate", folder=home, **settings)
    run("airflow", "db", "check", folder=home, **settings)
    for sslmode, encrypted in (("require", "True and True"), ("disable", "False and False")):
        one = database.replace("require", sslmode)
        both = {name: one for name in settings if name.startswith("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")}
        assert f"encrypted: {encrypted}\n" in run("python", "-c", QUERY, folder=home, **settings | both)
    run("airflow", "dags", "reserialize", folder=home, **settings)
    name = urlsplit(database).path.strip("/")
    assert postgres.admin("SELECT filename, stacktrace FROM import_error", name) == []
    dags = dict(postgres.admin("SELECT dag_id, bundle_name FROM dag", name))
    assert dags["model_training"] == bundle["name"]

    assert_importable(venv, home, "plugins", "dags", **settings)
    tracking = f"training.mlflow.tracking_uri=http://localhost:{mlflow_server}"
    conf = json.dumps({"env": "prod", "overrides": [tracking]})
    # The last line is the answer, those before it are warnings.
    opened = run("python", "-c", OPEN_RUN, conf, folder=home, TRANSFORMER_GIT_COMMIT="c0ffee", **settings)
    assert re.fullmatch(r"[0-9a-f]{32}", json.loads(opened.splitlines()[-1])["run_id"])
