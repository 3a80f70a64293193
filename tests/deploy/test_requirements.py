"""The packages of the images: equal to the lock, and sufficient for the imports of Airflow."""

import re
import subprocess
import sys

import pytest

from tests.deploy.dockerfile import REPOSITORY, TARGETS

FOLDER = REPOSITORY / "deploy" / "requirements"
# Packages that the Airflow image does not hold.
ABSENT = [
    *("torch", "lightning", "pytorch_lightning", "torchmetrics", "polars", "numpy", "pandas", "pyarrow", "scipy"),
    *("sklearn", "networkx", "matplotlib", "optuna"),
]
OPEN_RUN = """
import sys
from types import SimpleNamespace
sys.modules.update(dict.fromkeys({absent!r}))
import delay_pipeline_plugin
import transformer.evaluation.outcome, transformer.registry.versions
from delay_pipeline import alerts, evaluations, runs, stage
conf = {{"overrides": ["training.mlflow.use_mlflow=false"]}}
dag_run = SimpleNamespace(dag_id="model_training", run_id="manual__1", conf=conf)
ti = SimpleNamespace(xcom_push=lambda key, value: None)
print(runs.open_run({{"ti": ti, "dag_run": dag_run}})["env"])
"""


def pins(path):
    return dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)", path.read_text(), re.MULTILINE))


def names(target):
    lines = (FOLDER / f"{target}.in").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if re.match(r"[a-z]", line)]


def test_cluster_lock_agrees_with_the_lock():
    lock = pins(REPOSITORY / "requirements.txt")
    differing = {
        name: (version, lock[name])
        for name, version in pins(FOLDER / "cluster.txt").items()
        if lock.get(name, version) != version
    }
    assert not differing, "run `make lock`"


def test_cluster_lock_holds_what_is_asked_for():
    asked = re.findall(r"^([a-z][\w-]*)==([\d.*]+)", (FOLDER / "cluster.in").read_text(), re.MULTILINE)
    locked = pins(FOLDER / "cluster.txt")
    assert asked
    for name, version in asked:
        assert re.fullmatch(version.replace(".", r"\.").replace("*", ".*"), locked[name]), f"{name}: run `make lock`"


@pytest.mark.parametrize("target", TARGETS)
def test_every_package_of_an_image_is_locked(target):
    locked = pins(REPOSITORY / "requirements.txt") | pins(FOLDER / "cluster.txt")
    assert set(names(target)) <= set(locked)


def test_trainer_holds_no_airflow_and_airflow_no_torch():
    assert not [name for name in names("trainer") if "airflow" in name]
    assert not set(names("airflow")) & {"torch", "lightning", "mlflow", "polars"}


def test_plugins_and_open_run_need_only_what_the_airflow_image_holds(tmp_path):
    command = [sys.executable, "-c", OPEN_RUN.format(absent=ABSENT)]
    environment = {"PYTHONPATH": str(REPOSITORY / "plugins"), "AIRFLOW_HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("local")
