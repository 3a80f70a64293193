"""Alerts: their text, that each is sent once, and that an alert that cannot be sent fails no run."""

import json
from types import SimpleNamespace

import boto3
import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from delay_pipeline import alerts
from delay_pipeline.alerts import DegradationAlert, FailureAlert
from tests.support.ports import free_port
from tests.support.smtp import mail_server

ENOUGH = ["alerts.email.to=[ops@example.org, anna@example.org]"]
REASON = "newest observation is 3 d 4 h old (2025-02-03 23:48 CET), limit 2 d; fetch newer data"
DEGRADED = {
    "run_id": "abc",
    "run_url": "http://mlflow/#/abc",
    "window": "2025-01-24..2025-01-25",
    "report_url": "http://mlflow/#/abc/report",
    "text": "degraded: skill +1.0% on 2025-01-24..2025-01-25, +30.0% on the test dates of its training",
}


@pytest.fixture
def mailbox(monkeypatch):
    with mail_server(free_port()) as mailbox:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mailbox.connection)
        yield mailbox


@pytest.fixture(autouse=True)
def ledger(monkeypatch):
    """The Airflow variables, in this process."""
    variables = {}

    class Variable:
        @staticmethod
        def get(key, default=None, deserialize_json=False):
            return json.loads(variables[key]) if key in variables else default

        @staticmethod
        def set(key, value, description=None, serialize_json=False):
            variables[key] = json.dumps(value)

    monkeypatch.setattr(alerts, "Variable", Variable)
    return variables


def context(*, task="evaluate_model", level="task", overrides=ENOUGH, attempt=0, returned=None, **errors):
    xcoms = {
        ("open_run", "return_value"): {"env": "local", "overrides": overrides, "run_url": "http://mlflow/#/abc"},
        (task, "return_value"): returned,
        (task, "error"): REASON,
    }
    ti = SimpleNamespace(task_id=task, map_index=-1, dag_id="model_training", run_id="manual__1")
    ti.xcom_pull = lambda task_ids, key="return_value", map_indexes=-1: xcoms.get((task_ids, key))
    ti.get_task_states = lambda dag_id, run_ids: {"manual__1": {"open_run": "success", task: "failed"}}
    order = [SimpleNamespace(task_id=name, is_teardown=False) for name in ("open_run", task)]
    dag = SimpleNamespace(dag_id="model_training", task_ids=["open_run", task], topological_sort=lambda: order)
    found = {
        "dag": dag,
        "ti": ti,
        "run_id": "manual__1",
        "dag_run": SimpleNamespace(run_id="manual__1", clear_number=attempt, conf={}),
    }
    return found | ({"exception": RuntimeError("raw")} if level == "task" else {"reason": "task_failure"}) | errors


def tell(alert, given):
    alert.notify(given)


def test_a_failure_says_why_in_its_subject_and_what_to_do(mailbox):
    tell(FailureAlert(), context())
    (message,) = mailbox.messages
    assert message["subject"] == f"[train delays] model_training failed: evaluate_model: {REASON}"
    assert message["to"] == "ops@example.org, anna@example.org"
    text = message.get_body(("html",)).get_content()
    for words in (REASON, "DAG run: manual__1", "Environment: local", "clear the task", "http://mlflow/#/abc"):
        assert words in text


def test_a_subject_is_one_line_of_bearable_length():
    assert alerts._shortened("a\nb", 150) == "[train delays] a b"
    assert alerts._shortened("x" * 200, 100) == f"[train delays] {'x' * 82}..."


@pytest.mark.parametrize("levels", [("task", "dag"), ("dag", "task"), ("task", "task")])
def test_the_task_and_the_dag_send_one_alert_together(mailbox, levels):
    for level in levels:
        tell(FailureAlert(), context(level=level))
    assert len(mailbox.messages) == 1
    assert f"evaluate_model: {REASON}"[:60] in mailbox.messages[0]["subject"]


def test_a_run_that_was_cleared_and_fails_again_is_news(mailbox):
    tell(FailureAlert(), context())
    tell(FailureAlert(), context(attempt=1))
    assert len(mailbox.messages) == 2


def test_a_run_that_ended_without_any_task_says_what_airflow_says(mailbox):
    given = context(level="dag")
    minimal = {"dag": given["dag"], "run_id": "manual__1", "reason": "timed_out"}
    tell(FailureAlert(), minimal)
    assert mailbox.subjects() == []  # only the environment can name recipients, and it names none


def test_the_environment_names_the_recipients_if_the_conf_is_the_fault(mailbox, monkeypatch):
    given = context()
    given["ti"].xcom_pull = lambda task_ids, key="return_value", map_indexes=-1: None
    given["dag_run"].conf = {"env": "locl", "overrides": ["training.max_epoch=3"]}
    real = alerts.load_config
    monkeypatch.setattr(alerts, "load_config", lambda env, overrides=(): real(env, [*overrides, *ENOUGH]))
    tell(FailureAlert(), given)
    assert mailbox.subjects() == ["[train delays] model_training failed: evaluate_model: raw"]


def test_no_alert_is_sent_without_recipients(mailbox, caplog):
    with caplog.at_level("INFO"):
        tell(FailureAlert(), context(overrides=[]))
    assert mailbox.messages == []
    assert "alerts.email.to" in caplog.text
    assert "alerts.sns.topic_arn" in caplog.text


def test_a_degraded_model_gets_one_alert_for_each_window(mailbox):
    found = {"degraded": [DEGRADED, {**DEGRADED, "window": "2025-01-26..2025-01-26"}]}
    for _ in range(2):
        tell(DegradationAlert(), context(task="decide", returned=found))
    assert len(mailbox.messages) == 2
    assert mailbox.subjects()[0].startswith("[train delays] model degraded: skill +1.0% on 2025-01-24..2025-01-25")
    text = mailbox.messages[0].get_body(("html",)).get_content()
    assert 'href="http://mlflow/#/abc/report"' in text
    tell(DegradationAlert(), context(task="decide", returned={"degraded": []}))
    assert len(mailbox.messages) == 2


def test_a_mail_that_was_not_sent_is_tried_again_and_fails_no_run(mailbox, monkeypatch, caplog, ledger):
    refused = f"smtp://user:geheim@127.0.0.1:{free_port()}?disable_ssl=true&disable_tls=true&timeout=2&retry_limit=1"
    with monkeypatch.context() as unreachable:
        unreachable.setenv("AIRFLOW_CONN_SMTP_DEFAULT", refused)
        tell(FailureAlert(), context())
    assert "alert not sent" in caplog.text
    assert "geheim" not in caplog.text
    assert ledger == {}
    tell(FailureAlert(), context())
    assert len(mailbox.messages) == 1


def test_a_ledger_that_cannot_be_read_stops_no_alert(mailbox, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no database")

    monkeypatch.setattr(alerts.Variable, "get", broken)
    tell(FailureAlert(), context())
    assert len(mailbox.messages) == 1


def test_a_wrong_context_raises_nothing(caplog):
    tell(FailureAlert(), {})
    tell(DegradationAlert(), {})
    assert caplog.text.count("alert not sent") == 2


def test_a_dag_without_a_supervisor_leaves_it_to_its_tasks(caplog, monkeypatch):
    """As `airflow dags test` calls it, where no XCom, connection or variable can be read."""
    monkeypatch.delattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", raising=False)
    failed = context(level="dag")
    failed["ti"].get_task_states = RuntimeTaskInstance.get_task_states
    with caplog.at_level("INFO"):
        tell(FailureAlert(), failed)
    assert "`airflow dags test`" in caplog.text
    assert "alert not sent" not in caplog.text


def test_the_ledger_stays_small(mailbox, ledger):
    ledger["alerts_sent_model_training"] = json.dumps([f"mail failed/{number}/0" for number in range(500)])
    tell(FailureAlert(), context())
    kept = json.loads(ledger["alerts_sent_model_training"])
    assert len(kept) == alerts.LEDGER_LENGTH
    assert kept[-1] == "mail failed/manual__1/0"


def test_markup_in_an_error_is_text(mailbox):
    given = context()
    given["ti"].xcom_pull = lambda task_ids, key="return_value", map_indexes=-1: (
        "<b>{{ var.value.secret }}</b>" if key == "error" else {"env": "local", "overrides": ENOUGH}
    )
    tell(FailureAlert(), given)
    assert "&lt;b&gt;{{ var.value.secret }}&lt;/b&gt;" in mailbox.messages[0].get_body(("html",)).get_content()


@pytest.mark.slow
def test_sns_sends_the_same_text_even_if_mail_fails(monkeypatch, mailbox, caplog):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "eu-west-3", "endpoint_url": url}
        topic = boto3.client("sns", **keys).create_topic(Name="delays")["TopicArn"]
        queue = boto3.client("sqs", **keys).create_queue(QueueName="delays")["QueueUrl"]
        arn = boto3.client("sqs", **keys).get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        boto3.client("sns", **keys).subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=arn["Attributes"]["QueueArn"],
            Attributes={"RawMessageDelivery": "false"},
        )
        extra = {"region_name": "eu-west-3", "endpoint_url": url}
        conn = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(conn))
        given = [*ENOUGH, f"alerts.sns.topic_arn={topic}", "alerts.email.connection=not_there"]
        for _ in range(2):
            tell(FailureAlert(), context(overrides=given))
        received = boto3.client("sqs", **keys).receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    finally:
        server.stop()
    (message,) = [json.loads(entry["Body"]) for entry in received]
    assert message["Subject"].startswith("[train delays] model_training failed: evaluate_model: newest observation")
    assert len(message["Subject"]) <= 100
    assert REASON in message["Message"]
    assert mailbox.messages == []
    assert "alert not sent" in caplog.text
