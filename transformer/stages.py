"""The stages as functions. `python -m transformer STAGE` runs them, in a process of the worker or in a pod.

Each stage takes the merged configuration and the id of the MLflow run ("" = no tracking). It returns a result that can
be written as JSON.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from zoneinfo import ZoneInfo

from transformer.config import Config
from transformer.data.content import changed_tables, data_digest, listed, tables_content
from transformer.data.dates import Split
from transformer.data.events import read_days, read_journeys
from transformer.data.fetch import fetch_dates, fetch_split, list_dates
from transformer.data.input_tables import input_lines
from transformer.data.points import read_points
from transformer.data.sources.attribution import licence_lines, licences, warn_of_other_zone
from transformer.data.survey import Survey
from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.features.cache import embeddings_folder, obtain_inputs, statistics_folder
from transformer.files import write_json
from transformer.parquet import write_parquet
from transformer.text import duration
from transformer.tracking.client import FINISHED
from transformer.tracking.datasets import VALIDATION, scored_on
from transformer.tracking.json_tags import overrides_text, split_text
from transformer.tracking.names import (
    AIRFLOW_RUN,
    BEST_OVERRIDES,
    BEST_TRIAL,
    DATA_FINGERPRINT,
    DATA_LICENCES,
    DATA_TABLES,
    MODEL_VERSION,
    SPLIT,
)
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import run_folder
from transformer.training.run_data import event_tables, split_tables

if TYPE_CHECKING:
    import polars as pl

    from transformer.evaluation.evaluate import EvaluationRequest  # these modules import torch or MLflow
    from transformer.registry.versions import Registered
    from transformer.training.run_folder import TrainedModel
    from transformer.training.trainer import TrainingResult

log = logging.getLogger(__name__)

ModelSource = str | Path  # the id of an MLflow run, or a run folder
Stage = TypeVar("Stage", bound=Callable[..., dict[str, Any]])


def _in_run(finishes: bool) -> Callable[[Stage], Stage]:
    """Decorate a stage: its MLflow run is RUNNING while the stage runs, see `RunLog.running_stage`."""

    def decorate(stage: Stage) -> Stage:
        @functools.wraps(stage)
        def in_run(config: Config, run_id: str, *options: Any, **named: Any) -> dict[str, Any]:
            with RunLog(config, run_id).running_stage(finishes):
                return stage(config, run_id, *options, **named)

        return cast(Stage, in_run)

    return decorate


@_in_run(finishes=False)
def fetch_files(config: Config, run_id: str) -> dict[str, Any]:
    """Make sure that the event tables of every split are in `data.local_folder`, complete and readable."""
    run = RunLog(config, run_id)
    survey = Survey(config.data, Path(config.paths.cache), validating=True)
    split = _fetch_split(config, run, survey)
    folder = Path(config.data.local_folder)
    log.info("data: %d service dates in %s", len(split.all), folder)
    for name, days in split.as_dict().items():
        log.info("  %s: %s", name, _listed(days))
    for line in licence_lines(folder):
        log.info("licence of %s", line)
    warn_of_other_zone(folder, config.data.timezone)
    points = read_points(folder, config.data.timezone)
    for line in points.lines():
        log.info(line)
    for line in input_lines(config.data, split.all, config.model.use_inputs):
        log.info(line)
    report = survey.report(split.all)
    log.info("events of these dates:\n%s", "\n".join(report.lines()))
    fingerprint = data_digest(config.data, split.all, config.model.use_inputs)
    run.set_tags({DATA_FINGERPRINT: fingerprint})
    if run.run_id:
        from transformer.data.page import data_page
        from transformer.data.point_map import write_point_map  # loads Matplotlib

        with tempfile.TemporaryDirectory() as temporary:
            names = ("points.png", "account.json", "report.html")
            picture, account, page = paths = [Path(temporary) / name for name in names]
            write_point_map(points, picture)
            write_json(account, report.as_dict())
            data_page(split, report, points, picture, licences(folder)).write(page)
            for path in paths:
                run.log_artifact(path, "data")
    return {
        "folder": str(folder),
        "split": split.as_dict(),
        "data_fingerprint": fingerprint,
        "quality": report.as_dict(),
    }


@_in_run(finishes=False)
def compute_statistics_and_embeddings(config: Config, run_id: str) -> dict[str, Any]:
    """Compute the statistics and embeddings of the training dates, or reuse those with the same content hash."""
    run = RunLog(config, run_id)
    split = _fetch_split(config, run)
    reuse = config.training.use_precomputed
    statistics, embeddings = obtain_inputs(
        config, split, recompute_statistics=not reuse.statistics, recompute_embeddings=not reuse.embeddings
    )
    summary = statistics.summary()
    for name, value in summary.items():
        log.info("  %s: %s", name, f"{value:,.1f}".removesuffix(".0"))
    log.info(statistics.resolution_text())
    run.log_metrics({f"statistics/{name}": value for name, value in summary.items()})
    with tempfile.TemporaryDirectory() as temporary:  # a table for people; the cache holds the sums behind the table
        table = Path(temporary) / "sections.parquet"
        write_parquet(table, statistics.section_table())
        run.log_artifact(table, "statistics")
    return {
        "statistics": str(statistics_folder(config, split)),
        "embeddings": str(embeddings_folder(config, split)),
        "summary": summary,
        "embedding_dimension": embeddings.points.dim,
    }


@_in_run(finishes=True)
def train_model(
    config: Config, run_id: str, warm_start_run_id: str | None = None, resume: bool = False
) -> dict[str, Any]:
    """Train a model, and log into the run.

    Args:
        warm_start_run_id: the training begins with the best weights of this run.
        resume: the training of `run_id` itself continues from its last checkpoint.

    Raises:
        UserError: `resume` together with another run as `warm_start_run_id`.
    """
    run = RunLog(config, run_id)
    split = _fetch_split(config, run)
    # Loading torch takes long, so wrong input is refused before.
    from transformer.training.checkpoints import BEST, CHECKPOINTS, CHECKPOINTS_OF, LAST
    from transformer.training.trainer import train

    folder = run_folder(config, run_id)
    warm_start = last = None
    if resume:
        if warm_start_run_id and warm_start_run_id != run_id:
            raise UserError(
                f"--warm-start-run-id {warm_start_run_id!r} is not the run that --resume continues, {run_id!r}; "
                "leave out --warm-start-run-id"
            )
        last = run.download(f"{CHECKPOINTS}/{LAST}", folder / "from_mlflow")
    elif (owner := run.get_tag(CHECKPOINTS_OF)) and owner == run.get_tag(AIRFLOW_RUN):
        log.info("training: an earlier try of this DAG run left a checkpoint, continuing from it")
        last = run.download(f"{CHECKPOINTS}/{LAST}", folder / "from_mlflow")
    elif warm_start_run_id:
        source = RunLog(config, warm_start_run_id)
        warm_start = source.download(f"{CHECKPOINTS}/{BEST}", folder / "warm_start")
    statistics, embeddings = obtain_inputs(config, split)
    result = train(config, split, statistics, embeddings, run, folder, warm_start=warm_start, resume=last)
    log.info(
        "training: %d epochs in %s; best validation MAE %.1f s, translation %.1f s, skill %.3f",
        result.epochs,
        duration(result.seconds),
        result.best_val_mae_s,
        result.val_translation_mae_s,
        result.best_val_skill,
    )
    if result.is_global_zero and run.run_id:
        _log_trained(config, run, split, result)
    return {
        "best_val_mae_s": result.best_val_mae_s,
        "best_val_skill": result.best_val_skill,
        "epochs": result.epochs,
        "seconds": round(result.seconds, 1),
        "checkpoints": str(folder / CHECKPOINTS),
    }


def _log_trained(config: Config, run: RunLog, split: Split, result: TrainingResult) -> None:
    """Log the best epoch, and the model as the logged model of the run.

    The checkpoints of a run whose model cannot be packed are complete. Its registration refuses the model again.
    """
    from transformer.registry.logged import log_trained
    from transformer.training.run_folder import download_trained
    from transformer.training.trainer import best_epoch_metrics

    source = run_folder(config, run.run_id) / "from_mlflow"
    download_trained(run, source)  # the best epoch of a resumed training may be on another machine
    scored = None
    try:
        model_id = log_trained(run, source, _example(config, split.all[-1]))
        content = tables_content(config.data, split.validation, config.model.use_inputs)
        scored = scored_on(model_id, event_tables(VALIDATION, split.validation, content), config.data)
    except UserError as error:
        log.warning("the run has no logged model: %s", error)
    run.log_metrics(best_epoch_metrics(result.best_val_mae_s, result.val_translation_mae_s), scored=scored)
    run.describe()


def evaluate_model(config: Config, run_id: str, request: EvaluationRequest | None = None) -> dict[str, Any]:
    """Evaluate the run's best checkpoint, and log into that run.

    Translation and the champion are evaluated on the same rows.

    Args:
        request: the window and other options; None = the test dates of the run's split.
    """
    from transformer.evaluation.evaluate import EvaluationRequest, evaluate

    request = request or EvaluationRequest()
    run = RunLog(config, run_id)
    if request.window is not None or run.check() == FINISHED:
        return evaluate(config, run_id, request)
    with run.running_stage(finishes=True):
        return evaluate(config, run_id, request)


def register_model(config: Config, run_id: str) -> dict[str, Any]:
    """Make the run's trained model a version of the registered model, with the alias `challenger`."""
    from transformer.registry.register import register
    from transformer.training.run_folder import download_trained

    if not run_id:
        raise UserError("register-model needs --run-id, the MLflow run whose model is registered")
    run = RunLog(config, run_id)
    run.check()
    source = run_folder(config, run_id) / "from_mlflow"
    trained = download_trained(run, source)
    config = trained.located(config)
    registered = register(run, source, _example(config, trained.split.all[-1]))
    run.set_tags({MODEL_VERSION: str(registered.version)})
    run.describe()
    return {"model": config.evaluation.registry.model_name, "version": registered.version, "run_id": run_id}


def _example(config: Config, day: date) -> pl.DataFrame:
    """The events of a service date, of which a few become the input example of a packed model."""
    fetch_dates(config, [day])
    events, _ = read_days(config.data, [day])
    journeys = read_journeys(Path(config.data.local_folder), [day], config.data.timezone)
    return events.join(journeys.select(*JOURNEY, "train_number", "train_type"), on=JOURNEY, how="left")


def promote_model(config: Config, version: str, why: str, by: str) -> dict[str, Any]:
    """Make a version champion, even if the gate declined it.

    Args:
        version: number or alias of the version.
        why: the reason, one line.
        by: the person or Airflow run that decided.
    """
    from transformer.registry.versions import promote

    return _champion_result(config, promote(config, version, why=why, by=by))


def rollback_model(config: Config, why: str, by: str) -> dict[str, Any]:
    """Swap the champion and the previous champion."""
    from transformer.registry.versions import rollback

    return _champion_result(config, rollback(config, why=why, by=by))


def _champion_result(config: Config, champion: Registered) -> dict[str, Any]:
    name = config.evaluation.registry.model_name
    log.info("models:/%s@champion is now version %d, of run %s", name, champion.version, champion.run_id)
    return {"model": name, "champion": champion.version, "run_id": champion.run_id}


def predict(
    config: Config, model: ModelSource, at: str, out: Path, transfer_minutes: float | None = None
) -> dict[str, Any]:
    """Write a file of predictions for every train that runs at an instant, from the events observed by then.

    Args:
        at: ISO 8601 time; a time without an offset is in `data.timezone`.
        out: .parquet, .csv or .json file; its columns are `prediction.columns.prediction_columns`.
        transfer_minutes: write all transfers, too, with the probability that they hold if they need so many minutes.
            Their file is `prediction.transfers.transfers_path(out)`.
    """
    from transformer.prediction.instant import InstantSnapshot, dates_around, parse_instant, writer
    from transformer.prediction.transfers import check_minutes, transfers_path

    write = writer(out)
    if transfer_minutes is not None:
        check_minutes(transfer_minutes, "--transfer-minutes")
    parse_instant(at, "UTC")  # refuses a mistyped time before any download; the model's time zone comes later
    trained = _obtain_trained(config, model)
    config = trained.located(config)
    instant = parse_instant(at, config.data.timezone)
    available = list_dates(config)
    days = [day for day in dates_around(instant, config) if day in available]
    local = instant.astimezone(ZoneInfo(config.data.timezone))
    own = local.date()
    outside = (
        f"--at {at}: no events of {own}; there are dates from {available[0]} to {available[-1]} "
        f"in data.local_folder={config.data.local_folder}"
    )
    if not days:
        raise UserError(outside)
    fetch_dates(config, days)
    snapshot = InstantSnapshot.of(trained, config, instant, days)
    predictions = snapshot.predictions().drop("journey", "event")
    if own not in days:
        if predictions.is_empty():
            raise UserError(outside)
        log.warning("%s; predicting the trains of other dates that run at that time", outside)
    trains = predictions.select(JOURNEY).n_unique()
    write(out, predictions)
    log.info("predictions: %d trains, %s events, in %s", trains, f"{predictions.height:,}", out)
    result = {"file": str(out), "at": local.isoformat(), "trains": trains, "events": predictions.height}
    if transfer_minutes is None:
        return result
    transfers, file = snapshot.transfers(transfer_minutes), transfers_path(out)
    write(file, transfers)
    log.info("transfers: %s of %g minutes, in %s", f"{transfers.height:,}", transfer_minutes, file)
    return result | {"transfers": transfers.height, "transfers_file": str(file)}


def predict_ride(config: Config, model: ModelSource, gold: Path, out: Path) -> dict[str, Any]:
    """Write a Parquet file of the predictions that RIDE's evaluator compares with `gold/test_eval_table.parquet`."""
    from transformer.prediction import ride

    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: RIDE's evaluator reads Parquet; end it in .parquet")
    trained = _obtain_trained(config, model)
    config = trained.located(config)
    keys = ride.read_keys(gold, config.data.timezone)
    available = list_dates(config)
    fetch_dates(config, ride.dates_needed(keys, config, available))
    predictions = ride.predict_ride(trained, config, keys, available)
    write_parquet(out, predictions.table)
    return {
        "file": str(out),
        "keys": predictions.table.height,
        "unmatched_keys": predictions.unmatched,
        "delays_per_key": keys.n,
    }


@_in_run(finishes=True)
def tune(config: Config, run_id: str, worker: int = 0, warm_start_run_id: str | None = None) -> dict[str, Any]:
    """Run trials of the study `search.study_name` until the study has `search.n_trials`.

    Each trial has a nested MLflow run.

    Args:
        worker: number of this worker. Workers that run at the same time have different numbers and share one database.
        warm_start_run_id: every trial begins with the best weights of this run.
    """
    run = RunLog(config, run_id)
    split = _fetch_split(config, run)
    # Loading torch takes long, so wrong input is refused before.
    from transformer.training.checkpoints import BEST, CHECKPOINTS
    from transformer.tuning.study import WarmStart
    from transformer.tuning.worker import run_trials

    folder = run_folder(config, run_id)
    warm_start = None
    if warm_start_run_id:
        source = RunLog(config, warm_start_run_id)
        checkpoint = source.download(f"{CHECKPOINTS}/{BEST}", folder / "warm_start")
        warm_start = WarmStart(warm_start_run_id, checkpoint)
    found = run_trials(config, split, run, folder / "trials", worker, warm_start)
    log.info("study %s: %s", config.search.study_name, found)
    return {
        "study_name": config.search.study_name,
        "complete": found.complete,
        "pruned": found.pruned,
        "failed": found.failed,
        "best_trial": found.best.number if found.best else None,
        "best_val_mae_s": found.best.value if found.best else None,
    }


@_in_run(finishes=True)
def report_study(config: Config, run_id: str, env: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Report the study `search.study_name`: table, figures, best values, and the conf that trains with them.

    Args:
        env: environment of `config`; the conf repeats it.
        overrides: overrides of `config`; the conf repeats them.
    """
    from transformer.tuning.database import database_errors, read_database
    from transformer.tuning.report import write_study_report
    from transformer.tuning.study import find_study
    from transformer.tuning.worker import close_ended_runs

    run = RunLog(config, run_id)
    target = run_folder(config, run_id) / "study"
    with database_errors(config), read_database(config) as storage:
        study = find_study(config, storage)
        close_ended_runs(study, run)
        report = write_study_report(study, target, env=env, overrides=overrides)
    run.log_metrics(report.metrics)
    run.set_tags({BEST_TRIAL: str(report.best_trial)})
    run.set_json_tag(BEST_OVERRIDES, report.best_overrides, overrides_text(report.best_overrides))
    run.log_artifacts(target, "study")
    run.describe()
    log.info("study %s\n%s", config.search.study_name, report.text)
    return {
        "table": report.text,
        "metrics": report.metrics,
        "best_trial": report.best_trial,
        "best_overrides": report.best_overrides,
        "folder": str(target),
    }


def _fetch_split(config: Config, run: RunLog, survey: Survey | None = None) -> Split:
    """Fetch the event tables of each split, and return the service dates. A tag of the run keeps its first split.

    Raises:
        UserError: there are no such dates, or the data have changed since the run began.
    """
    survey = survey or Survey(config.data, Path(config.paths.cache))
    first = _first_split(run)
    split = fetch_split(config, first, survey)
    if split.as_ranges() != first:
        run.set_json_tag(SPLIT, split.as_ranges(), split_text(split.as_ranges()))
    if licences := licence_lines(Path(config.data.local_folder)):
        run.set_tags({DATA_LICENCES: "\n".join(licences)})
    if run.run_id:
        content = tables_content(config.data, split.all, config.model.use_inputs)
        _keep_data(config, run, content)
        if run.log_datasets(split_tables(split, content)):
            run.describe()
    return split


def _first_split(run: RunLog) -> dict[str, list[str]]:
    """The split with which the run began, in the form of `data.split`; empty for a new run."""
    found = run.get_json_tag(SPLIT)
    if found is None:
        return {}
    names = [field.name for field in fields(Split)]
    if not (isinstance(found, dict) and set(found) <= set(names) and all(isinstance(v, list) for v in found.values())):
        raise run.unusable_tag(SPLIT)
    return found


def _keep_data(config: Config, run: RunLog, now: dict[str, str]) -> None:
    """Record the tables with which the run began, and refuse others.

    Raises:
        UserError: a table has changed; the error names it.
    """
    before = run.get_json_tag(DATA_TABLES) or {}
    if changed := changed_tables(before, now):
        what = f"the data have changed since MLflow run {run.run_id} began: {listed(changed)}"
        if not config.training.allow_changes_on_resume:
            raise UserError(
                f"{what}; restore these tables, train in a new run, or set training.allow_changes_on_resume=true"
            )
        log.warning("%s; training.allow_changes_on_resume=true accepts that", what)
    if before | now != before:
        run.set_json_tag(DATA_TABLES, before | now, f"digests of {len(before | now)} tables")


def _obtain_trained(config: Config, model: ModelSource) -> TrainedModel:
    """Load a trained model from a folder or from MLflow, and leave its run unchanged."""
    from transformer.training.run_folder import TrainedModel, download_trained

    if isinstance(model, Path):
        return TrainedModel.load(model)
    run = RunLog(config, model)
    run.check()
    with tempfile.TemporaryDirectory() as temporary:
        return download_trained(run, Path(temporary))


def _listed(days: list[str]) -> str:
    return f"{days[0]} … {days[-1]} ({len(days)} dates)" if len(days) > 3 else ", ".join(days)
