"""Alerts by mail and SNS: a DAG run has failed, or a model has degraded.

The group `alerts` of the run's configuration names the recipients. An alert that cannot be sent is logged, and never
fails a run.

One Airflow variable per DAG lists the alerts that were sent, so that a task and its DAG run normally send one alert.
The variable has no lock: two processes that read it at the same time both send, and one may overwrite the other's
entry. An alert that could not be sent is not listed: if the task could not send it, the DAG run tries again.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from airflow.providers.amazon.aws.notifications.sns import SnsNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import BaseNotifier, Context, Variable

from delay_pipeline.pages import dag_run_page
from delay_pipeline.params import TRAINING_ENV
from delay_pipeline.runs import failure_reason
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.protocol import ENV_VARIABLE, ERROR_XCOM
from transformer.text import redact

log = logging.getLogger(__name__)

PREFIX = "[train delays] "
SUBJECT_LENGTH = 150
SNS_SUBJECT_LENGTH = 100  # SNS takes no more, and ASCII only
LEDGER = "alerts_sent_"  # followed by the DAG id: the variable that lists the keys of the alerts that were sent
LEDGER_LENGTH = 200  # newest keys that are kept
OPENING_TASKS = ("open_run", "open_evaluation")


@dataclass(frozen=True)
class Alert:
    """One message about one fault.

    Attributes:
        key: identifies the fault; a task and its DAG run give the same fault the same key.
        lines: paragraphs of the message.
        links: address of each link by its name; an empty address is left out.
    """

    key: str
    subject: str
    lines: list[str]
    links: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        return "\n".join([*self.lines, "", *(f"{name}: {address}" for name, address in self._linked())])

    def html(self) -> str:
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in self.lines)
        links = "".join(f'<p><a href="{html.escape(address)}">{name}</a></p>' for name, address in self._linked())
        return lines + links

    def _linked(self) -> Iterator[tuple[str, str]]:
        return ((name, address) for name, address in self.links.items() if address)


class _Alert(BaseNotifier):
    def render_template_fields(self, context: Context, jinja_env: object = None) -> None:
        """Render nothing: no field of an alert is a template."""


class FailureAlert(_Alert):
    """`on_failure_callback` of a DAG and of its tasks: normally one alert for a DAG run.

    A failed task sends the alert at once, with its error. The DAG sends it if no task could, for example if the run
    took too long.
    """

    def notify(self, context: Context) -> None:
        with _harmless():
            _send(context, [_failure(context)])


class DegradationAlert(_Alert):
    """`on_success_callback` of a task that returns `degraded`: normally one alert per model and window."""

    def notify(self, context: Context) -> None:
        with _harmless():
            ti = context["ti"]
            found = ti.xcom_pull(task_ids=ti.task_id) or {}
            _send(context, [_degradation(entry) for entry in found.get("degraded", ())])


class _harmless(suppress):  # noqa: N801  (used like the function it extends)
    """Turn any error into a line of the log."""

    def __init__(self) -> None:
        super().__init__(Exception)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if isinstance(error, NameError) and error.name == "SUPERVISOR_COMMS":
            log.info("no alert of the DAG: `airflow dags test` does not let it read the run; its tasks send alerts")
        elif isinstance(error, Exception):
            log.warning("alert not sent: %s: %s", type(error).__name__, redact(str(error)))
        return bool(super().__exit__(kind, error, trace))


def _failure(context: Context) -> Alert:
    dag_id, run_id = _dag_id(context), str(context["run_id"])
    reason = _reason(context)
    dag_run = context.get("dag_run")
    attempt = getattr(dag_run, "clear_number", 0) or 0  # a run that was cleared and fails again sends a new alert
    opened = _opened(context)
    return Alert(
        key=f"failed/{run_id}/{attempt}",
        subject=f"{dag_id} failed: {reason}",
        lines=[
            f"{dag_id} failed: {reason}",
            f"DAG run: {run_id}",
            f"Environment: {opened.get('env') or _default_env()}",
            "Correct what the first line names, then clear the task. The results of earlier tasks are kept.",
        ],
        links={"Airflow": dag_run_page(dag_id, run_id), "MLflow run": str(opened.get("run_url") or "")},
    )


def _degradation(entry: Mapping[str, str]) -> Alert:
    return Alert(
        key=f"degraded/{entry['run_id']}/{entry['window']}",
        subject=f"model {entry['text']}",
        lines=[
            f"A model has {entry['text']}.",
            f"MLflow run: {entry['run_id']}",
            "The report says where and when. Train again on newer dates, or return to the previous champion: "
            "`python -m transformer rollback`.",
        ],
        links={"Report": entry["report_url"], "MLflow run": entry["run_url"]},
    )


def _send(context: Context, alerts: list[Alert]) -> None:
    """Send every new alert on every channel. A channel that fails does not stop the others."""
    if not alerts:
        return
    config = _config(context)
    channels = dict(_channels(config))
    if not channels:
        log.info("no alert sent: alerts.email.to and alerts.sns.topic_arn are empty")
        return
    dag_id = _dag_id(context)
    for alert in alerts:
        for channel, send in channels.items():
            key = f"{channel} {alert.key}"
            if key in _sent(dag_id):
                log.info("alert %s was sent before", key)
                continue
            with _harmless():
                send(alert)
                log.info("alert sent by %s: %s", channel, alert.subject)
                _note(dag_id, key)


def _channels(config: Config) -> Iterator[tuple[str, Callable[[Alert], None]]]:
    """Yield the name and the send function of each channel that the configuration opens."""
    email, sns = config.alerts.email, config.alerts.sns

    def mail(alert: Alert) -> None:
        SmtpNotifier(
            to=email.to,
            from_email=email.sender or None,
            subject=_shortened(alert.subject, SUBJECT_LENGTH),
            html_content=alert.html(),
            smtp_conn_id=email.connection,
        ).notify({})  # no context: no field of an alert is a template

    def publish(alert: Alert) -> None:
        SnsNotifier(
            target_arn=sns.topic_arn,
            subject=_shortened(alert.subject.encode("ascii", "replace").decode(), SNS_SUBJECT_LENGTH),
            message=alert.text(),
            aws_conn_id=sns.connection,
            region_name=sns.topic_arn.split(":")[3],
        ).notify({})

    if email.to:
        yield "mail", mail
    if sns.topic_arn:
        yield "SNS", publish


def _shortened(subject: str, length: int) -> str:
    """Return the subject as one line of at most `length` characters. The text of the alert holds all of it."""
    line = PREFIX + " ".join(subject.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def _sent(dag_id: str) -> list[str]:
    """Return the keys of the alerts that were sent.

    If the variable cannot be read, return []: two alerts about one fault are better than none.
    """
    try:
        return list(Variable.get(LEDGER + dag_id, default=[], deserialize_json=True))
    except Exception as error:
        log.warning("alerts: the list of sent alerts cannot be read: %s", type(error).__name__)
        return []


def _note(dag_id: str, key: str) -> None:
    description = "Alerts that were sent, and are not sent again. Delete this variable to send them again."
    newest = [*_sent(dag_id), key][-LEDGER_LENGTH:]
    Variable.set(LEDGER + dag_id, newest, description=description, serialize_json=True)


def _reason(context: Context) -> str:
    """Return why the DAG run failed, as one line that begins with the task id."""
    ti = context.get("ti")
    if error := context.get("exception"):  # the failed task itself sends the alert
        reason = ti.xcom_pull(task_ids=ti.task_id, key=ERROR_XCOM, map_indexes=ti.map_index)
        return f"{ti.task_id}: {reason or _line(error)}"
    reason = failure_reason(context) if ti else ""
    return str(redact(reason or context.get("reason") or "no task gave a reason"))


def _line(error: object) -> str:
    return str(redact((str(error) or type(error).__name__).splitlines()[0]))


def _config(context: Context) -> Config:
    """Return the configuration of the run.

    If that configuration is the fault, return the one of the run's environment, or else of the default environment.
    """
    opened = _opened(context)
    given = getattr(context.get("dag_run"), "conf", None) or {}
    for env, overrides in (
        (opened.get("env"), opened.get("overrides") or []),
        (given.get("env"), given.get("overrides") or []),
        (given.get("env"), []),
        (_default_env(), []),
    ):
        with suppress(UserError, TypeError):
            if env:
                return load_config(env, overrides)
    return load_config(TRAINING_ENV)


def _opened(context: Context) -> dict[str, Any]:
    """Return the result of the first task, or {} if the first task has none."""
    ti = context.get("ti")
    for task_id in OPENING_TASKS if ti else ():
        if task_id in context["dag"].task_ids:
            return ti.xcom_pull(task_ids=task_id) or {}
    return {}


def _default_env() -> str:
    return os.environ.get(ENV_VARIABLE) or TRAINING_ENV


def _dag_id(context: Context) -> str:
    return str(context["dag"].dag_id)
