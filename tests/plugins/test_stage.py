"""The stage operator: arguments, streaming, exit codes and its end by force."""

import asyncio
import logging
import os
import signal
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import certifi
import psutil
import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException, TaskDeferred
from airflow.serialization.serialized_objects import OperatorSerialization
from kubernetes.client import models as k8s
from kubernetes.config import incluster_config
from kubernetes_asyncio.config import incluster_config as async_incluster_config

from delay_pipeline import stage
from delay_pipeline.links import MlflowRunLink, PodLink, ReportLink
from delay_pipeline.pods import StagePodTrigger
from delay_pipeline.stage import EvaluateModelOperator, StageOperator
from tests.support.patience import wait_until
from tests.support.registry_double import FakeRegistry

RUN = {
    "env": "local",
    "overrides": ["training.max_epochs=1", "data.local_folder=/a folder; rm -rf $HOME"],
    "run_id": "abc",
    "warm_start_run_id": None,
    "resume_run": False,
    "run_url": "http://127.0.0.1:5000/#/experiments/1/runs/abc",
}
WRITE_RESULT = """
    import json, pathlib, sys
    pathlib.Path(sys.argv[sys.argv.index("--result") + 1]).write_text(json.dumps({"argv": sys.argv[1:]}))
"""


@pytest.fixture(autouse=True)
def _outside_a_task_runner(monkeypatch):
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)


@pytest.fixture
def stage_is(monkeypatch, tmp_path):
    """Replace `python -m transformer` by a script."""

    def replace(script):
        path = tmp_path / "stage.py"
        path.write_text(textwrap.dedent(script))
        monkeypatch.setattr(stage, "MODULE", [str(path)])

    return replace


@pytest.fixture
def lines(monkeypatch):
    """Every line an operator logs."""
    seen = []
    logger = logging.Logger("stage")
    logger.handle = lambda record: seen.append(record.getMessage())
    monkeypatch.setattr(StageOperator, "log", logger, raising=False)
    return seen


def operator(name="train-model", worker=None, **changes):
    return StageOperator(task_id=name.replace("-", "_"), stage=name, worker=worker, mlflow_run={**RUN, **changes})


def run(task):
    """Execute; return the XComs it pushed."""
    xcoms = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: xcoms.update({key: value}))
    task.xcoms = xcoms
    task.execute({"ti": ti})
    return xcoms


def test_arguments_are_the_contract():
    assert operator("fetch-files", warm_start_run_id="old").stage_arguments() == [
        "fetch-files",
        "--env",
        "local",
        "--set",
        "training.max_epochs=1",
        "--set",
        "data.local_folder=/a folder; rm -rf $HOME",
        "--run-id",
        "abc",
    ]
    plain = {"overrides": []}
    assert operator(**plain, run_id="").stage_arguments() == ["train-model", "--env", "local"]
    warm = operator(**plain, warm_start_run_id="old").stage_arguments()
    assert warm[3:] == ["--run-id", "abc", "--warm-start-run-id", "old"]
    resumed = operator(**plain, warm_start_run_id="abc", resume_run=True).stage_arguments()
    assert resumed[3:] == ["--run-id", "abc", "--warm-start-run-id", "abc", "--resume"]


def test_a_study_has_workers_and_resuming_it_is_no_warm_start():
    plain = ["tune", "--env", "local", "--run-id", "abc", "--worker", "0"]
    assert operator("tune", worker=0, overrides=[]).stage_arguments() == plain
    warm = operator("tune", worker=2, overrides=[], warm_start_run_id="old").stage_arguments()
    assert warm[5:] == ["--worker", "2", "--warm-start-run-id", "old"]
    resumed = operator("tune", worker=0, overrides=[], warm_start_run_id="abc", resume_run=True).stage_arguments()
    assert resumed == plain
    report = operator("report-study", overrides=[], warm_start_run_id="old").stage_arguments()
    assert report == ["report-study", "--env", "local", "--run-id", "abc"]


def test_success_leaves_the_result_and_the_link(stage_is, lines):
    stage_is(WRITE_RESULT)
    xcoms = run(task := operator())
    assert xcoms["result"]["argv"][:-2] == task.stage_arguments()
    assert xcoms[MlflowRunLink().xcom_key] == RUN["run_url"]
    assert MlflowRunLink().get_link(task, ti_key=None) == RUN["run_url"]
    assert "error" not in xcoms


def evaluation(**changes):
    return EvaluateModelOperator(task_id="evaluate_model", mlflow_run={**RUN, **changes})


def test_an_evaluation_has_arguments_of_its_own():
    own = ["--last", "7", "--request", "0123"]
    assert evaluation(overrides=[], arguments=own).stage_arguments() == [
        *["evaluate-model", "--env", "local", "--run-id", "abc"],
        *own,
    ]


def test_an_evaluation_on_a_window_links_the_report_that_its_run_names(monkeypatch):
    registry = FakeRegistry(champion="abc").install(monkeypatch)
    task = evaluation(request="0123")
    assert ReportLink().get_link(task, ti_key=None) == ""  # it has not ended well
    registry.found("abc", "0123", report="evaluation/2025-01-24..2025-01-25/report.html")
    page = f"{RUN['run_url']}/artifacts/evaluation/2025-01-24..2025-01-25/report.html"
    assert ReportLink().get_link(task, ti_key=None) == page


def test_an_evaluation_links_its_report_too():
    task = evaluation()
    links = OperatorSerialization.serialize_operator(task)["_operator_extra_links"]
    assert links == {link.name: link.xcom_key for link in (MlflowRunLink(), PodLink(), ReportLink())}
    report = "http://127.0.0.1:5000/#/experiments/1/runs/abc/artifacts/evaluation/report.html"
    assert ReportLink().get_link(task, ti_key=None) == report
    assert ReportLink().get_link(evaluation(run_url=""), ti_key=None) == ""
    assert list(OperatorSerialization.serialize_operator(operator())["_operator_extra_links"]) == ["MLflow run", "Pod"]


POD_URL = "compute.kubernetes.pod_url=https://pods.example.org/{namespace}/pod/{pod}"


@pytest.mark.parametrize(
    ("overrides", "page"),
    [([POD_URL], "https://pods.example.org/train-delays-dev/pod/train-model-7"), ([], "")],
)
def test_a_stage_links_its_pod_as_soon_as_there_is_one(monkeypatch, overrides, page):
    pod = SimpleNamespace(metadata=SimpleNamespace(name="train-model-7", namespace="train-delays-dev"))
    monkeypatch.setattr(KubernetesPodOperator, "get_or_create_pod", lambda *arguments: pod)
    task, xcoms = operator(env="dev", overrides=overrides), {}
    task._configure_pod(task._config())
    assert PodLink().get_link(task, ti_key=None) == ""
    ti = SimpleNamespace(xcom_push=lambda key, value: xcoms.update({key: value}))
    assert task.get_or_create_pod(None, {"ti": ti}) is pod
    assert PodLink().get_link(task, ti_key=None) == page
    assert xcoms == ({PodLink().xcom_key: page} if page else {})


def test_output_streams_line_by_line_and_merged(stage_is, lines, tmp_path):
    """The stage goes on only when its first line has come."""
    came = tmp_path / "came"
    stage_is(
        f"""
    import pathlib, sys, time
    print("to stdout")
    while not pathlib.Path({str(came)!r}).exists():
        time.sleep(0.05)
    print("to stderr", file=sys.stderr)
    {WRITE_RESULT}
        """
    )

    def watch():
        try:
            wait_until(lambda: lines == ["to stdout"], "the first line")
            seen.append(True)
        finally:
            came.touch()

    seen = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    run(operator())
    watcher.join()
    assert seen and lines == ["to stdout", "to stderr"]


def test_exit_2_is_the_users_to_correct_and_not_retried(stage_is, lines):
    stage_is('import sys; print("error: data/x does not exist", file=sys.stderr); print("bye"); sys.exit(2)')
    task = operator()
    with pytest.raises(AirflowFailException, match=r"^data/x does not exist$"):
        run(task)
    assert task.xcoms["error"] == "data/x does not exist"


def test_exit_1_is_retried(stage_is, lines):
    stage_is('import sys; print("error: MLflow does not answer", file=sys.stderr); sys.exit(1)')
    with pytest.raises(AirflowException, match=r"^MLflow does not answer$") as failed:
        run(operator())
    assert not isinstance(failed.value, AirflowFailException)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; print('last words'); sys.exit(1)", "last words"),
        ("import sys; sys.exit(3)", "train-model .*with 3 .*no output"),
        ("import os; os.kill(os.getpid(), 9)", "train-model .*SIGKILL; out of memory"),
        ("pass", "train-model .*with 0 .*no JSON object .*--result"),
    ],
)
def test_other_ends_are_said_in_one_line(stage_is, lines, script, message):
    stage_is(script)
    with pytest.raises(AirflowException, match=message) as failed:
        run(operator())
    assert not isinstance(failed.value, AirflowFailException)
    assert "\n" not in str(failed.value)


def test_a_bad_configuration_is_refused_before_anything_starts(stage_is, lines):
    stage_is("print('started')")
    with pytest.raises(AirflowFailException, match="unknown key"):
        run(operator(overrides=["training.max_epoch=1"]))
    assert lines == []


# prose: allow length – a program
FAMILY = """
    import os, signal, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); "
                                                    "print('deaf', flush=True); time.sleep(3600)"])
    def save(*_):
        print("saved", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    print(f"pids {os.getpid()} {child.pid}", flush=True)
    time.sleep(3600)
"""


def wait_for_family(lines):
    def said():
        return "deaf" in lines and [text for text in lines if text.startswith("pids")]

    wait_until(said, "the stage and its child")
    return [int(pid) for pid in said()[0].split()[1:]]


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_gone(pids):
    """On busy cores a process that was killed takes a moment to die."""
    wait_until(lambda: all(gone(pid) for pid in pids), f"the end of {pids}")


def test_a_kill_ends_the_whole_process_group_after_a_grace(stage_is, lines):
    stage_is(FAMILY)
    task = operator()
    pids = []

    def kill():
        pids.extend(wait_for_family(lines))
        task.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(AirflowException, match="train-model was stopped") as failed:
        run(task)
    killer.join()
    assert not isinstance(failed.value, AirflowFailException)
    assert "saved" in lines
    assert len(pids) == 2
    assert_gone(pids)


def test_an_interrupt_leaves_nothing_running(stage_is, lines):
    stage_is(FAMILY)
    pids = []

    def interrupt():
        pids.extend(wait_for_family(lines))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        killer = threading.Thread(target=interrupt)
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            run(operator())
        killer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert_gone(pids)


def test_a_kill_without_a_local_process_goes_to_the_pod(monkeypatch):
    killed = []
    monkeypatch.setattr(KubernetesPodOperator, "on_kill", lambda self: killed.append(self.task_id))
    operator().on_kill()
    assert killed == ["train_model"]


@pytest.fixture
def inside_a_pod(monkeypatch, tmp_path):
    """The files and variables by which a pod of a cluster finds its API server."""
    certificate = Path(certifi.where())
    for name, content in (("TOKEN", b"t"), ("CERT", certificate.read_bytes())):
        (tmp_path / name).write_bytes(content)
        for module in (incluster_config, async_incluster_config):
            monkeypatch.setattr(module, f"SERVICE_{name}_FILENAME", str(tmp_path / name))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")


@pytest.mark.usefixtures("inside_a_pod")
def test_without_a_connection_the_trigger_opens_the_cluster_that_it_runs_in(monkeypatch):
    def missing(conn_id):
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")

    monkeypatch.setattr(BaseHook, "get_connection", missing)
    task = StageOperator(task_id="fetch_files", stage="fetch-files", mlflow_run=RUN)
    task.pod = k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="fetch-files-1", namespace="train-delays-dev"))
    with pytest.raises(TaskDeferred) as deferral:
        task.invoke_defer_method()
    path, arguments = deferral.value.trigger.serialize()
    assert path == "delay_pipeline.pods.StagePodTrigger"
    hook = StagePodTrigger(**arguments).hook
    asyncio.run(hook._load_config())
    assert hook.client_configuration.host == "https://10.96.0.1:443"


def test_the_stage_runs_with_this_python():
    assert stage.MODULE == ["-m", "transformer"]
    assert sys.executable
