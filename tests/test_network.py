"""Importing this repository contacts no other machine, and no library sends usage data to its makers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.dockerfile import TARGETS, ancestry, read_stages

REPOSITORY = Path(__file__).resolve().parents[1]
SWITCH = "MLFLOW_DISABLE_TELEMETRY"
# Variables that tell MLflow that it is under test. MLflow is then silent, regardless of its settings.
TESTING = (
    *("PYTEST", "CI", "GITHUB_", "GITLAB_", "CIRCLECI", "JENKINS_", "TRAVIS", "TF_BUILD", "BITBUCKET_", "CODEBUILD_"),
    *("BUILDKITE", "TEAMCITY_", "CLOUD_RUN_", "RUNBOT_", "DO_NOT_TRACK", "MLFLOW_"),
)

# Refuses and records every attempt of Python code to reach another process. Attempts of native code are not seen.
# Threads get time to try.
# prose: allow length – a program
PROBE = """
import sys, threading
attempts = []
def hook(event, arguments):
    if event == "socket.bind" and arguments[1][:2] == ("::1", 0):
        return  # urllib3 asks the machine whether it knows IPv6
    if event in {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
                 "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}:
        attempts.append(f"{event} {arguments[-5 if event == 'socket.getaddrinfo' else 1:]}")
        raise ConnectionRefusedError(f"{event} while importing")
sys.addaudithook(hook)

import importlib, json, pkgutil
failed, imported = {}, []
def load(name):
    try:
        importlib.import_module(name)
        imported.append(name)
    except Exception as error:
        failed[name] = repr(error)
for name in sys.argv[1:]:
    if name.startswith("dags:"):
        from airflow.dag_processing.dagbag import DagBag
        bag = DagBag(name.removeprefix("dags:"))
        imported += bag.dags
        failed |= bag.import_errors
        continue
    load(name)
    for module in pkgutil.walk_packages(getattr(sys.modules.get(name), "__path__", []), f"{name}."):
        if not module.name.endswith(".__main__"):  # a command, not a module to import
            load(module.name)
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(timeout=3)
print(json.dumps({"attempts": attempts, "failed": failed, "imported": imported}))
"""


def imports(*names, folder=REPOSITORY, **environment):
    """Import `names` with every module below, and return what was attempted, what failed and what was imported."""
    paths = [str(folder), str(REPOSITORY / "plugins")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(TESTING)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names],
        cwd=folder,
        env=kept | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "one_of_them"),
    [
        (["transformer"], "transformer.tuning.study"),
        (["delay_pipeline_plugin", "delay_pipeline"], "delay_pipeline.stage"),
        ([f"dags:{REPOSITORY / 'dags'}"], "model_training"),
    ],
    ids=["transformer", "plugins", "dags"],
)
def test_no_import_speaks_to_another_machine(names, one_of_them):
    seen = imports(*names)
    assert seen["failed"] == {}
    assert one_of_them in seen["imported"]
    assert seen["attempts"] == []


@pytest.mark.parametrize(
    ("call", "event"),
    [
        ("socket.socket().connect(('192.0.2.1', 80))", "socket.connect"),
        ("socket.getaddrinfo('example.org', 443)", "socket.getaddrinfo"),
        ("socket.socket().bind(('127.0.0.1', 0))", "socket.bind"),
    ],
)
def test_a_module_that_does_is_found_out(tmp_path, call, event):
    """The module is found even if it swallows the refusal, in a thread."""
    package = tmp_path / "talkative"
    package.mkdir()
    (package / "__init__.py").touch()
    tries = f"def call():\n    with contextlib.suppress(OSError):\n        {call}\n"
    (package / "inner.py").write_text(
        "import contextlib, socket, threading\n" + tries + "threading.Thread(target=call, daemon=True).start()\n"
    )
    seen = imports("talkative", folder=tmp_path)
    assert seen["imported"] == ["talkative", "talkative.inner"]
    assert any(attempt.startswith(event) for attempt in seen["attempts"])


# prose: allow lexical_illusions – a program
USE_OF_MLFLOW = """
import transformer.tracking.runs
from mlflow import MlflowClient
MlflowClient("sqlite:///mlflow.db").create_experiment("delays")
"""


@pytest.mark.slow
@pytest.mark.parametrize("switched", [{}, {SWITCH: "false"}], ids=["as it is", "switched on"])
def test_mlflow_reports_home_only_where_somebody_wants_it(tmp_path, switched):
    """The second case shows that the first case can fail."""
    (tmp_path / "use_of_mlflow.py").write_text(USE_OF_MLFLOW)
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    seen = imports("use_of_mlflow", folder=tmp_path, PYTHONPATH=paths, HOME=str(tmp_path), **switched)
    assert seen["failed"] == {}
    assert bool(seen["attempts"]) == bool(switched), seen["attempts"]
    assert all("telemetry" in attempt for attempt in seen["attempts"])


def test_the_local_servers_and_stages_are_told_to_be_silent(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    import services

    given = {SWITCH: "false", "PATH": "/bin"}  # settings of other installations do not count
    assert services.mlflow_service(given).environment[SWITCH] == "true"
    assert services.airflow_service(given).environment[SWITCH] == "true"
    assert services.airflow_environment(given, "training")[SWITCH] == "true"


@pytest.mark.parametrize("target", TARGETS)
def test_the_images_are_told_to_be_silent(target):
    lines = [line for stage in ancestry(read_stages(), target) for line in stage.values("ENV")]
    assert f"{SWITCH}=true" in " ".join(lines).split()


def test_airflow_has_nothing_to_switch_off():
    """Airflow 2.10 to 3.0 counted its users with this section. A release that counts them again needs a switch."""
    from airflow.configuration import conf

    assert not conf.has_section("usage_data_collection")


def test_the_local_servers_listen_on_this_machine_only(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    import services

    command = services.mlflow_service({}).command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert services.airflow_service({}).environment["AIRFLOW__API__HOST"] == "127.0.0.1"
