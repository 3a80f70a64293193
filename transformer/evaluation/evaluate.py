"""Evaluate the model of a run on its test dates or on a window of service dates.

The results go to the caller and into MLflow: those on the test dates into the run of the training, those on a window
into a run nested in it. The model is built from the run alone: checkpoint, statistics, embeddings and the run's
configuration.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from transformer.config import Config
from transformer.data.content import changed_tables, data_digest, listed, tables_content
from transformer.data.dates import Split, dates_text, format_dates
from transformer.data.fetch import fetch_dates, list_dates
from transformer.data.freshness import NewestObservation, check_freshness, find_newest_observation
from transformer.data.points import read_op_nodes
from transformer.data.sources.attribution import licences
from transformer.data.tables import op_nodes_path
from transformer.errors import UserError
from transformer.evaluation.comparison import compare_with_champion
from transformer.evaluation.measures import Measures
from transformer.evaluation.metrics import SUMMARY
from transformer.evaluation.outcome import Outcome
from transformer.evaluation.quality import DataQuality, Examination
from transformer.evaluation.report.html import write_html_report
from transformer.evaluation.report.provenance import Provenance, reproducing_commands
from transformer.evaluation.report.tables import EvaluationResult, headline, write_evaluation
from transformer.evaluation.window import Scope, Window, window_name
from transformer.files import read_json, write_json
from transformer.prediction.row_files import write_rows
from transformer.prediction.rows import evaluation_rows
from transformer.prediction.unknown import unknown_counts, unknown_text
from transformer.registry.package import content_of
from transformer.registry.register import describe_version
from transformer.text import duration
from transformer.tracking.client import FINISHED
from transformer.tracking.datasets import EVALUATION, scored_on
from transformer.tracking.logged_models import find_model
from transformer.tracking.names import DATA_FINGERPRINT, DATA_TABLES, GIT_COMMIT, WINDOW
from transformer.tracking.origin import origin_tags
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import configuration_hash, git_commit, run_folder, run_url
from transformer.training import callbacks, checkpoints
from transformer.training.run_data import event_tables
from transformer.training.run_folder import TrainedModel, download_trained

log = logging.getLogger(__name__)

ARTIFACTS = "evaluation"  # artifact folder of the results
REPORT = "report.html"  # next to figures and tables
# Tags of the run with the results. The prefix of its metrics follows: "test" or "window".
DRIFT = "drift/"  # differences from the training dates
DEGRADED = "degraded/"  # the loss of skill since the training
GATE = "gate/"  # the gate's decision and its reason


@dataclass(frozen=True)
class EvaluationRequest:
    """The options of an evaluation.

    A window that already has results is refused, unless `again` or `if_new` is set.
    """

    window: Window | None = None  # None = the test dates of the run's split
    again: bool = False  # evaluate a window with results again
    if_new: bool = False  # keep the results of a window with results, and return them
    allow_training_dates: bool = False  # the window may hold dates that trained the model or chose its best epoch
    id: str = ""  # the run keeps the outcome under this id, see `outcome`
    env: str = "local"  # environment of the configuration, for the report
    overrides: Sequence[str] = ()  # overrides of the configuration, for the report


def evaluate(config: Config, run_id: str, request: EvaluationRequest) -> dict[str, Any]:
    """Evaluate the run's best checkpoint, and log into that run or, for a window, into a run nested in it.

    Translation and the champion are evaluated on the same rows. A window of the last dates is refused if the data are
    older than `evaluation.freshness.max_age_s`.

    Raises:
        UserError: there is no such run or date, the dates trained the model, the data are too old, or the window
            already has results.
    """
    run = RunLog(config, run_id)
    run.check()
    folder = run_folder(config, run_id)
    source = folder / "from_mlflow" if run_id else folder  # a local copy may be old, or from elsewhere
    trained = download_trained(run, source) if run_id else TrainedModel.load(source)
    given, config = config, trained.located(config)
    now = datetime.now(UTC)
    scope = _scope(request, trained.split, config, now)
    of_last_dates = request.window is not None and request.window.count is not None
    newest = _newest_observation(config, now) if of_last_dates else NewestObservation()
    if request.window is not None and (found := _earlier(run, folder, scope)) and not _asked_again(run, scope, request):
        return _told_once_more(run, scope, request, found)
    if request.window is None:
        _refuse_other_data(run, config, scope.days)
    examination = Examination(now)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".rows-") as temporary:
        scratch = Path(temporary)
        rows = write_rows(evaluation_rows(trained, config, scope.days, examination.add, newest.read), scratch / "rows")
        log.info("evaluation: %s rows predicted in %s", f"{rows.height:,}", duration(time.monotonic() - began))
        quality = examination.quality(trained.reference, config.evaluation.drift, newest.at)
        unknown = unknown_counts(rows, trained.statistics)
        log.info("known from training: %s", unknown_text(rows.height, unknown))
        quality = replace(quality, predictions=rows.height, unknown=unknown)
        comparison = compare_with_champion(run, source, trained, rows, scope.days, config, scratch / "champion")
        target, op_nodes = folder / scope.local, read_op_nodes(Path(config.data.local_folder))
        measures = Measures.of(rows, config.data.timezone, config.evaluation.alerts_per_hour)
        result = write_evaluation(
            measures,
            op_nodes,
            trained.embeddings.edges,
            target,
            prefix=scope.prefix,
            history=_training_history(run, source) if request.window is None else None,
        )
        degradation = _degradation(run, scope, result, config.evaluation.max_skill_drop)
        provenance = _provenance(run, given, scope, request, trained)
        report = write_html_report(
            target / REPORT,
            measures,
            op_nodes,
            result.figures,
            window=scope.days,
            provenance=provenance,
            champion=comparison.champion,
            verdict=comparison.line,
            remarks=[degradation] if degradation else [],
            quality=quality,
        )
    metrics = result.metrics | quality.metrics(scope.prefix) | comparison.metrics(scope.prefix)
    results = run if request.window is None else _window_run(run, scope, config, request)
    outcome = Outcome(
        window=scope.name,
        dates=format_dates(scope.days),
        report=f"{ARTIFACTS}/{REPORT}",
        run_id=results.run_id if results is not run else "",
        headline=headline(result.metrics, scope.prefix),
        degradation=degradation,
        drift=quality.drift.beyond_limits if quality.drift else "",
        decision=comparison.decision,
    )
    _log_metrics(results, metrics, find_model(config, run_id, content_of(source)) if run_id else "", scope, config)
    results.log_artifacts(target, ARTIFACTS)
    _tag(results, scope, request, outcome, quality)
    if results is not run:
        results.close(FINISHED)
    run.describe()
    describe_version(run)
    output = _output(outcome, provenance.run_url) | {
        "metrics": metrics,
        "table": result.text,
        "folder": str(target),
        "dates": [day.isoformat() for day in scope.days],
        "report": str(report),
    }
    log.info("results on %s\n%s", dates_text(scope.days), result.text)
    if comparison.gate:
        log.info("gate: %s", comparison.gate.text())
    if degradation:
        log.warning(degradation)
    log.info("report: %s", output["report_url"] or report)
    write_json(scope.result_file(folder), output)
    return output


def _log_metrics(results: RunLog, metrics: Mapping[str, float], model_id: str, scope: Scope, config: Config) -> None:
    """Log metrics of a model. Those of all rows together also belong to its logged model.

    Args:
        model_id: the logged model; "" = an earlier release trained the model.
    """
    if not model_id:
        results.log_metrics(metrics)
        return
    tables = event_tables(scope.context, scope.days, tables_content(config.data, scope.days, config.model.use_inputs))
    overall = {name: value for name, value in metrics.items() if name.removeprefix(f"{scope.prefix}/") in SUMMARY}
    results.log_metrics(overall, scored=scored_on(model_id, tables, config.data))
    results.log_metrics({name: value for name, value in metrics.items() if name not in overall})
    if scope.context == EVALUATION:
        results.log_model_input(model_id)


def _window_run(run: RunLog, scope: Scope, config: Config, request: EvaluationRequest) -> RunLog:
    """The nested run for the results on a window: that of an earlier evaluation, or else a new one.

    Args:
        run: the run of the training.
        config: configuration of the evaluation, from `TrainedModel.located`.
    """
    if not run.run_id:
        return RunLog(config, "")
    found = run.find_child({WINDOW: scope.name})
    window = found or run.open_child(
        config, f"window {scope.name}", {WINDOW: scope.name}, {WINDOW: scope.name}, inherits=()
    )
    commit = git_commit()
    content = tables_content(config.data, scope.days, config.model.use_inputs)
    window.set_tags(
        {
            **origin_tags("", commit, ""),
            "env": request.env,
            GIT_COMMIT: commit,
            DATA_FINGERPRINT: data_digest(config.data, scope.days, config.model.use_inputs),
        }
    )
    window.log_datasets([event_tables(scope.context, scope.days, content)])
    return window


def _scope(request: EvaluationRequest, split: Split, config: Config, now: datetime) -> Scope:
    """The dates to evaluate. Their event tables are fetched into the local folder."""
    window = request.window
    if window is None:
        scope = Scope.of_test(split.test)
    else:
        days = window.dates(list_dates(config), now.astimezone(ZoneInfo(config.data.timezone)).date())
        if not request.allow_training_dates:
            days = _unseen(window, days, split)
        scope = Scope.of_dates(days)
    fetch_dates(config, scope.days)
    return scope


def _refuse_other_data(run: RunLog, config: Config, days: Sequence[date]) -> None:
    """Refuse test dates whose tables have changed since the run began. Other points may have been added meanwhile.

    Raises:
        UserError: the error names the changed tables.
    """
    before = run.get_json_tag(DATA_TABLES)
    points = op_nodes_path(Path(config.data.local_folder)).name
    changed = changed_tables(before, tables_content(config.data, days, config.model.use_inputs)) if before else []
    if not changed:
        return
    what = f"the data of the test dates have changed since MLflow run {run.run_id} began: {listed(changed)}"
    if changed != [points] and not config.training.allow_changes_on_resume:
        raise UserError(
            f"{what}; restore these tables, evaluate the dates as a window (--from, --to), "
            "or set training.allow_changes_on_resume=true"
        )
    log.warning(what)


def _unseen(window: Window, days: tuple[date, ...], split: Split) -> tuple[date, ...]:
    """The dates that neither trained the model nor chose its best epoch.

    Errors on the left-out dates say little about other dates.
    """
    seen = sorted({*split.train, *split.validation} & set(days))
    left = tuple(day for day in days if day not in seen)
    if seen and (window.count is None or not left):
        raise UserError(
            f"window {window_name(days)}: this model was trained or validated on {', '.join(format_dates(seen))}; "
            "leave these dates out, or add --allow-training-dates"
        )
    if seen:
        log.info("window: %s left out: this model was trained or validated on them", ", ".join(format_dates(seen)))
    return left


def _newest_observation(config: Config, now: datetime) -> NewestObservation:
    """The time of the newest observation. Data older than the configuration allows are refused."""
    newest = find_newest_observation(config.data, now)
    if limit := config.evaluation.freshness.max_age_s:
        age = check_freshness(newest.at, now, timedelta(seconds=limit), config.data.timezone)
        log.info("freshness: the newest observation is %s old", duration(age.total_seconds()))
    return newest


def _earlier(run: RunLog, folder: Path, scope: Scope) -> Outcome | None:
    """The outcome of an earlier evaluation on the same dates."""
    if run.run_id:
        found = Outcome.of_window(run, scope.name)
    else:
        file = scope.result_file(folder)
        found = Outcome.read(read_json(file)["outcome"]) if file.is_file() else None
    return found if found and found.dates == format_dates(scope.days) else None


def _asked_again(run: RunLog, scope: Scope, request: EvaluationRequest) -> bool:
    """Whether to evaluate a window that has results.

    It is evaluated again if the request asks for that, or if the results are those of an earlier try of the request.
    """
    mine = Outcome.of_request(run, request.id) if request.id else None
    if request.again or (mine is not None and mine.window == scope.name):
        return True
    if request.if_new:
        return False
    raise UserError(f"window {scope.name} has been evaluated; add --again to evaluate it again, or name other dates")


def _told_once_more(run: RunLog, scope: Scope, request: EvaluationRequest, found: Outcome) -> dict[str, Any]:
    """Store the earlier outcome for this request too, without the gate's decision, which is not one of today."""
    log.info("window %s: no newer dates, so the earlier results are kept: %s", scope.name, found.headline)
    outcome = found.without_decision()
    if request.id:
        outcome.leave_to_request(RunLog(run.config, found.run_id or run.run_id), request.id)
    output = _output(outcome, run_url(run.config, run.run_id))
    log.info("report: %s", output["report_url"])
    return output


def _training_history(run: RunLog, folder: Path) -> pl.DataFrame:
    """A line per epoch of the training.

    Args:
        folder: run folder of the training, or a copy of its artifacts.
    """
    if run.run_id:
        run.download(f"{checkpoints.CHECKPOINTS}/{checkpoints.HISTORY}", folder)
    return pl.DataFrame(callbacks.read_history(folder / checkpoints.CHECKPOINTS / checkpoints.HISTORY))


def _degradation(run: RunLog, scope: Scope, result: EvaluationResult, max_drop: float) -> str:
    """The loss of skill since the training, in one line; "" = within the limit, or there is nothing to compare."""
    then = run.get_metric("test/skill")
    now = result.metrics.get(f"{scope.prefix}/skill")
    if then is None or now is None or then - now <= max_drop:
        return ""
    return (
        f"degraded: skill {now:+.1%} on {scope.name}, {then:+.1%} on the test dates of the training; the drop is "
        f"beyond evaluation.max_skill_drop={max_drop:g}"
    )


def _provenance(
    run: RunLog, given: Config, scope: Scope, request: EvaluationRequest, trained: TrainedModel
) -> Provenance:
    commit, split = git_commit(), trained.split
    named = scope.days if request.window is not None else None
    return Provenance(
        run_id=run.run_id,
        env=request.env,
        git_commit=commit,
        data_fingerprint=data_digest(given.data, scope.days, trained.config.model.use_inputs),
        configuration_hash=configuration_hash(given),
        commands=reproducing_commands(
            commit, request.env, request.overrides, run.run_id, named, request.allow_training_dates
        ),
        run_url=run_url(given, run.run_id),
        more={
            "trained with commit": run.get_tag(GIT_COMMIT),
            "trained on": dates_text(split.train),
            "validated on": dates_text(split.validation),
            **{f"data licence of {title}": text for title, text in licences(Path(given.data.local_folder)).items()},
        },
    )


def _tag(results: RunLog, scope: Scope, request: EvaluationRequest, outcome: Outcome, quality: DataQuality) -> None:
    """Set the tags of the results. The tag of the evaluated window comes last, when all other results are there."""
    tags = {
        DRIFT + scope.prefix: quality.drift.verdict if quality.drift else "",
        DEGRADED + scope.prefix: outcome.degradation,
        GATE + scope.prefix: outcome.decision.text,
    }
    results.set_tags({name: value for name, value in tags.items() if value})
    if request.id:
        outcome.leave_to_request(results, request.id)
    if request.window is not None:
        outcome.leave_to_window(results)


def _output(outcome: Outcome, run_page: str) -> dict[str, Any]:
    return {"outcome": outcome.as_dict(), "report_url": outcome.report_page(run_page)}
