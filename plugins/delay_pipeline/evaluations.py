"""The light tasks of `model_evaluation`: choose the models, collect the results, ask a person, promote.

The tasks import MLflow only when they run.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from delay_pipeline import retraining
from delay_pipeline.failures import one_line_failures
from delay_pipeline.outcomes import outcome_of
from delay_pipeline.params import EvaluationParams, read_evaluation_params
from delay_pipeline.schedules import REGISTERED_MODEL
from transformer import protocol
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.evaluation.decision import PromotionDecision

if TYPE_CHECKING:
    from transformer.evaluation.outcome import Outcome

log = logging.getLogger(__name__)

BY_HAND = "manual"  # type of a DAG run that a person started


def open_evaluation(context: Context) -> dict[str, Any]:
    """Check the conf and choose the models to evaluate. The MLflow runs of the models do not change.

    A run that asset events started evaluates each model that an event names. Models that register at about the same
    time start one run together.

    Returns:
        `env` and `overrides` of the newest model, and `models`: the input of the stage for each model, and whether a
        person must approve its promotion (`ask`).

    Raises:
        AirflowFailException: the conf, an event, an environment variable, the configuration or a run id is wrong; not
            retried.
        AirflowException: MLflow does not answer; retried.
    """
    dag_run = context["dag_run"]
    request_id = hashlib.sha256(f"{dag_run.dag_id} {dag_run.run_id}".encode()).hexdigest()[:16]
    models: list[dict[str, Any]] = []
    with one_line_failures(context["ti"]):
        if announced := _announced(context):
            for conf in announced:
                with _of_event(conf, announced):
                    request = read_evaluation_params(conf, os.environ)
                    models += _evaluations(request, request_id, by_hand=False)
        else:
            request = read_evaluation_params(dag_run.conf, os.environ)
            models += _evaluations(request, request_id, by_hand=dag_run.run_type == BY_HAND)
    for model in models:
        log.info("%s: %s", model["model"], model["run_url"] or model["run_id"])
    return {"env": models[-1]["env"], "overrides": models[-1]["overrides"], "models": models}


def _evaluations(request: EvaluationParams, request_id: str, *, by_hand: bool) -> Iterator[dict[str, Any]]:
    """Yield the input of the stage for each model to evaluate."""
    config = load_config(request.env, request.overrides)
    if not config.training.mlflow.use_mlflow:
        raise UserError("training.mlflow.use_mlflow=false keeps no trained model to evaluate; set it to true")
    arguments = _window_arguments(request, config, by_hand=by_hand)
    for name, run_id, run_url in _models(config, request.warm_start_run_id):
        yield {
            "model": name,
            "env": request.env,
            "overrides": request.overrides,
            "run_id": run_id,
            "run_url": run_url,
            "warm_start_run_id": None,
            "resume_run": False,
            "ask": config.evaluation.gate.ask_for_approval,
            "request": request_id,
            "arguments": [*arguments, protocol.REQUEST, request_id],
        }


def decide(opened: dict[str, Any], context: Context) -> dict[str, Any]:
    """Collect the results of the evaluations, and decline the challenger if the gate declines it.

    Returns:
        `degraded`: run id, page, window, report and one line for each model that has become worse.
        `promotion`: the PromotionDecision as a dict if the gate promotes, else None. If the gate promotes several
            models, the newest counts.
        `retraining`: why to train again, from `retraining.finding`, or None.
        `env` and `overrides` of the promoted model, and `ask`: whether a person must approve the promotion.
        `body`: Markdown text for this person.
    """
    promotion: PromotionDecision | None = None
    promoted = opened["models"][-1]
    degraded = []
    lines = []
    outcomes = []
    with one_line_failures(context["ti"]):
        for run, found in _outcomes(opened["models"]):
            outcomes.append((run, found))
            report = found.report_page(run["run_url"])
            line = f"{run['model']} on {found.window}: {found.headline}"
            lines.append(f"- [{line}]({report})" if report else f"- {line}")
            log.info("%s\n%s", line, report)
            if found.decision.text:
                log.info(found.decision.text)
            if found.degradation:
                log.warning(found.degradation)
                degraded.append(
                    {
                        "run_id": run["run_id"],
                        "run_url": run["run_url"],
                        "window": found.window,
                        "report_url": report,
                        "text": found.degradation,
                    }
                )
            if found.decision.promotes:  # the newest model is the last one
                if promotion:
                    log.warning("version %d is not promoted: a newer one is, too", promotion.version)
                promotion, promoted = found.decision, run
            elif found.decision.declines:
                _decline(run, found.decision.version, found.decision.reason, by=_dag_run(context))
    reason = [f"**Why:** {promotion.reason}", ""] if promotion else []
    return {
        "degraded": degraded,
        "promotion": promotion.as_dict() if promotion else None,
        "retraining": retraining.finding(outcomes, promoted["run_id"] if promotion else ""),
        "env": promoted["env"],
        "overrides": promoted["overrides"],
        "ask": promoted["ask"],
        "body": "\n".join([*reason, *lines]),
    }


def promote(decision: dict[str, Any], context: Context) -> dict[str, Any]:
    """Make the challenger champion if the gate promotes it and, where `ask` is true, a person has approved."""
    promotion = _promotion(decision)
    response = context["ti"].xcom_pull(task_ids="approve") if decision["ask"] else None
    by = f"approved by {_who(response)}" if response else _dag_run(context)
    with one_line_failures(context["ti"]):
        if decision["ask"] and not response:  # a person marked the task `approve` as a success
            raise UserError(
                "nobody approved the promotion; clear approve to ask again, or use `python -m transformer promote`"
            )
        from transformer.registry import versions

        try:
            champion = versions.promote(
                load_config(decision["env"], decision["overrides"]),
                promotion.version,
                why=promotion.reason,
                by=by,
                instead_of=promotion.instead_of,
            )
        except versions.ChampionChangedError as error:  # a retry of this task would not compare the models again
            raise UserError(f"{error}: clear evaluate_model") from None
    return {"champion": champion.version, "run_id": champion.run_id}


class ApprovePromotion(ApprovalOperator):
    """Ask a person whether to promote the challenger. Skipped if the gate promotes no model or nobody must be asked.

    Args:
        decision: result of `decide` (an XCom reference in a DAG).
    """

    template_fields = ("subject", "body", "decision")
    ui_color: ClassVar[str] = "#fdf3d0"

    def __init__(self, *, decision: Any, **kwargs: Any) -> None:
        super().__init__(subject="Promote the challenger?", **kwargs)
        self.decision = decision

    def execute(self, context: Context) -> None:
        promotion = _promotion(self.decision)
        if not self.decision["ask"]:
            raise AirflowSkipException("evaluation.gate.ask_for_approval=false: nobody is asked")
        replaced = f"version {promotion.instead_of}" if promotion.instead_of else "no champion so far"
        self.subject = f"Promote version {promotion.version} to champion, instead of {replaced}?"
        self.body = self.decision["body"]
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        if event.get("error_type") == "timeout":
            with one_line_failures(context["ti"]):
                raise UserError("nobody answered in time, so no model is promoted; clear approve to ask again")
        if event.get("chosen_options") == [self.REJECT]:
            version = _promotion(self.decision).version
            with one_line_failures(context["ti"]):
                _decline(self.decision, version, "a person rejected the promotion", by=f"rejected by {_who(event)}")
        return super().execute_complete(context, event)


def _promotion(decided: Mapping[str, Any]) -> PromotionDecision:
    """The promotion in what `decide` returned.

    Raises:
        AirflowSkipException: there is none.
    """
    if not decided["promotion"]:
        raise AirflowSkipException("the gate promotes no model")
    return PromotionDecision.read(decided["promotion"])


def _announced(context: Context) -> list[dict[str, Any]]:
    """Return the conf that evaluates each announced model, the newest model last; [] = no event names a model."""
    events = (context.get("triggering_asset_events") or {}).get(REGISTERED_MODEL, ())
    confs: dict[str, dict[str, Any]] = {}
    for event in sorted(events, key=lambda event: event.timestamp):
        extra = event.extra or {}
        if not extra.get("run_id"):  # a person can create an event by hand, without a model
            log.info("the asset event of %s names no model", event.timestamp)
            continue
        named = str(extra["run_id"])
        confs.pop(named, None)  # a task that ran again announces its model again
        confs[named] = {"warm_start_run_id": extra["run_id"]} | {
            key: extra[key] for key in ("env", "overrides") if key in extra
        }
    return list(confs.values())


@contextmanager
def _of_event(conf: Mapping[str, Any], announced: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Name the event in an error, and the models of the other events, which are not evaluated either."""
    try:
        yield
    except UserError as error:
        others = [str(other["warm_start_run_id"]) for other in announced if other is not conf]
        more = f"; not evaluated either: {', '.join(others)} (trigger the DAG with warm_start_run_id)" if others else ""
        raise UserError(f"asset event of run {conf['warm_start_run_id']}: {error}{more}") from None


def _window_arguments(request: EvaluationParams, config: Config, *, by_hand: bool) -> list[str]:
    if isinstance(request.window, tuple):
        first, last = request.window
        arguments = [protocol.FROM, first, protocol.TO, last]
    else:
        arguments = [protocol.LAST, str(request.window or config.evaluation.schedule.last_dates)]
    if request.again:
        arguments.append(protocol.AGAIN)
    elif not by_hand:  # reuse existing results; a person gets an error instead, which asks for `again`
        arguments.append(protocol.IF_NEW)
    if request.allow_training_dates:
        arguments.append(protocol.ALLOW_TRAINING_DATES)
    return arguments


def _models(config: Config, run_id: str | None) -> Iterator[tuple[str, str, str]]:
    """Yield name, run id and page of each model to evaluate."""
    from transformer.registry.versions import challenger, champion
    from transformer.tracking.run_log import RunLog
    from transformer.tracking.runs import run_url

    named = {"champion": champion(config), "challenger": challenger(config)}
    foreign = {name: found.foreign for name, found in named.items() if found and found.foreign}
    for name, why in foreign.items():
        log.warning("the %s is not evaluated: %s", name, why)
    runs = {name: found.run_id for name, found in named.items() if found and name not in foreign}
    if runs.get("challenger") == runs.get("champion"):  # after a resumed training the run holds the challenger's files
        runs.pop("champion", None)
    if run_id:
        RunLog(config, run_id).check("warm_start_run_id")
        name = next((name for name, registered in runs.items() if registered == run_id), f"run {run_id[:8]}")
        runs = {name: run_id}
    elif not runs and foreign:
        raise UserError("; ".join(f"the {name}: {why}" for name, why in foreign.items()))
    elif not runs:
        raise UserError(
            f"model {config.evaluation.registry.model_name} has no version yet; train one with model_training, or give "
            "the run of a training as warm_start_run_id"
        )
    for name, chosen in runs.items():
        yield name, chosen, run_url(config, chosen)


def _outcomes(models: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Outcome]]:
    """Yield each model whose evaluation succeeded, with its outcome."""
    missing: UserError | None = None
    found = 0
    for run in models:
        try:
            outcome = outcome_of(run)
        except UserError as error:  # this evaluation failed; its task gives the reason
            missing = error
            continue
        found += 1
        yield run, outcome
    if missing and not found:
        raise missing


def _decline(opened: Mapping[str, Any], version: int, why: str, *, by: str) -> None:
    from transformer.registry import versions

    versions.decline(load_config(opened["env"], opened["overrides"]), version, why=why, by=by)


def _dag_run(context: Context) -> str:
    dag_run = context["dag_run"]
    return f"{dag_run.dag_id} {dag_run.run_id}"


def _who(response: Mapping[str, Any]) -> str:
    user = response.get("responded_by_user") or {}
    return str(user.get("name") or user.get("id") or "a person without a name")
