"""`make test-cluster`: the pipeline is installed on the cluster of `KUBECONFIG`, used, and removed.

A table at the end says what was seen.
"""

import os
import shutil
import textwrap
import time
from dataclasses import dataclass, field

import pytest
from mlflow import MlflowClient

from tests.cluster.airflow_api import Airflow
from tests.cluster.installation import NAMESPACES, STAGES, Images, install, overrides, remove, stage_pods
from tests.cluster.kubectl import KubectlError, forwarded, kubectl
from tests.support.models import TINY_TRAINING, simulated
from tests.support.patience import wait_until
from transformer.data.simulator.settings import SimulationConfig

WIDTH = 110  # of the longest cell of the table
ASKED = "TEST_CLUSTER"  # variable that `make test-cluster` sets: no other command touches a cluster
collect_ignore_glob = [] if os.environ.get(ASKED) else ["test_*.py"]

SMALL = ["training.max_epochs=4", *TINY_TRAINING]


@dataclass
class Table:
    """A line per scenario: what Airflow and MLflow show, and what is left in the namespace of the stages."""

    rows: list = field(default_factory=list)

    def __str__(self):
        head = ("scenario", "Airflow shows", "MLflow shows", "left", "s")
        lines = [head, *([textwrap.shorten(str(cell), WIDTH, placeholder=" …") for cell in row] for row in self.rows)]
        widths = [max(len(str(line[place])) for line in lines) for place in range(len(head))]
        return "\n".join(
            "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        )


TABLE = Table()


def pytest_terminal_summary(terminalreporter):
    if TABLE.rows:
        terminalreporter.write_line(f"\n{TABLE}")


@dataclass(frozen=True)
class Installation:
    airflow: Airflow
    mlflow: MlflowClient
    images: Images

    def conf(self, *more, **fields):
        """Conf of a DAG run in this installation."""
        return {"env": "dev", "overrides": [*SMALL, *overrides(self.images), *more], **fields}

    def mlflow_run(self, run):
        """The MLflow run of a DAG run, by the result of its first task."""
        return self.mlflow.get_run(run.xcom("open_run", "run_id"))


@pytest.fixture(scope="session")
def installation(monkeypatch_session):
    images = Images(os.environ.get("REGISTRY", ""), os.environ.get("TAG", "latest"))
    if missing := _missing():
        pytest.exit(f"make test-cluster cannot run: {missing}", returncode=2)
    data = simulated(SimulationConfig(service_dates=5, lines=2, points=12, journeys_per_day=40))
    remove()
    try:
        try:
            install(images, data)
        except KubectlError as error:
            pytest.exit(f"the installation failed: {error}", returncode=1)
        with (
            forwarded(NAMESPACES["airflow"], "deployment/airflow", 8080, "/api/v2/monitor/health") as airflow,
            forwarded(NAMESPACES["mlflow"], "service/mlflow", 5000, "/health") as mlflow,
        ):
            monkeypatch_session.setenv("MLFLOW_TRACKING_URI", mlflow)
            yield Installation(Airflow(airflow), MlflowClient(mlflow), images)
    finally:
        if not os.environ.get("KEEP"):
            remove()


@pytest.fixture(scope="session")
def monkeypatch_session():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def airflow(installation):
    return installation.airflow


@pytest.fixture
def note(request):
    """Add a line to the table. Before that, every pod of a stage must be gone."""
    began = time.monotonic()

    def add(airflow_shows, mlflow_shows):
        wait_until(lambda: not stage_pods(), f"no pod left in {STAGES}", every_s=1)
        seconds = round(time.monotonic() - began)
        scenario = request.node.name.removeprefix("test_").replace("_", " ")
        TABLE.rows.append((scenario, airflow_shows, mlflow_shows, "no pod", seconds))

    return add


def _missing():
    """The one thing that the tests need and this machine lacks, or ""."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster; try one with `kind create cluster`"
    if not shutil.which("kubectl"):
        return "no kubectl on the PATH"
    try:
        kubectl("get", "namespaces", "--request-timeout=20s")
    except KubectlError as error:
        return f"the cluster of KUBECONFIG={os.environ['KUBECONFIG']} does not answer: {error}"
    return ""
