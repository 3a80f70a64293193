"""The stages as functions: what `python -m transformer <stage>` runs, here or in a pod.

Each takes the merged configuration and the MLflow run's id ("" = no tracking) and returns a JSON-able result.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl

from transformer.config import Config, SplitConfig, content_hash
from transformer.data.event_table import read_days
from transformer.data.events import (
    ReadingReport,
    Split,
    available_dates,
    configured_split,
    data_fingerprint,
    format_dates,
    read_op_nodes,
    resolve_split,
)
from transformer.data.freshness import check_freshness, newest_observation_in
from transformer.durations import duration
from transformer.errors import UserError
from transformer.evaluation.provenance import Provenance, dates_text, reproducing_commands
from transformer.evaluation.quality import examine
from transformer.files import write_json, write_parquet
from transformer.mlflow_pages import artifact_page
from transformer.precomputed import embeddings_folder, obtain_embeddings, obtain_statistics, statistics_folder
from transformer.storage import Bucket
from transformer.tracking import AIRFLOW_RUN, FINISHED, RunLog, configuration_hash, git_commit, run_url
from transformer.windows import Scope, Window, window_name

if TYPE_CHECKING:
    from transformer.trained import TrainedModel  # imports torch

log = logging.getLogger(__name__)
ModelSource = str | Path  # an MLflow run's id, or a run folder

SPLITS = ("train", "validation", "test")
BEST_OVERRIDES = "best_overrides"  # tag: what makes a configuration that of the best trial, a JSON list of key=value
REPORT = "report.html"  # of an evaluation, beside its figures and tables
EVALUATED = "evaluated/"  # and a window's name: tag of each window that was evaluated, its dates
DRIFT = "drift/"  # and "test" or a window's name: tag that says what is not as on the training dates
SPLIT = "split"  # tag: the service dates of each split, as data.split takes them


def fetch_files(config: Config, run_id: str) -> dict[str, Any]:
    """Make sure the event tables of every split are in `data.local_folder`, whole and readable."""
    run = RunLog(config, run_id)
    run.begin()
    split = prepare_data(config, run)
    folder = Path(config.data.local_folder)
    log.info("data: %d service dates in %s", len(split.all), folder)
    for name, days in split.as_dict().items():
        log.info("  %s: %s", name, _listed(days))
    report = ReadingReport()
    for day in split.all:  # one date in memory at a time
        report.add(read_days(config.data, [day], quiet=True)[1])
    for line in report.lines():
        log.info(line)
    fingerprint = content_hash(data_fingerprint(folder, split.all))
    run.tags({"data_fingerprint": fingerprint})
    return {
        "folder": str(folder),
        "split": split.as_dict(),
        "data_fingerprint": fingerprint,
        "quality": report.as_dict(),
    }


def compute_statistics_and_embeddings(config: Config, run_id: str) -> dict[str, Any]:
    """Compute, or reuse under their content hash, the statistics and embeddings of the training dates."""
    run = RunLog(config, run_id)
    run.begin()
    split = prepare_data(config, run)
    reuse = config.training.use_precomputed
    statistics = obtain_statistics(config, split, recompute=not reuse.statistics)
    embeddings = obtain_embeddings(config, split, recompute=not reuse.embeddings)
    summary = statistics.summary()
    for name, value in summary.items():
        log.info("  %s: %s", name, f"{value:,.1f}".removesuffix(".0"))
    run.metrics({f"statistics/{name}": value for name, value in summary.items()})
    with tempfile.TemporaryDirectory() as temporary:  # for people; the cache holds the sums behind it
        table = Path(temporary) / "sections.parquet"
        write_parquet(table, statistics.section_table())
        run.artifact(table, "statistics")
    return {
        "statistics": str(statistics_folder(config, split)),
        "embeddings": str(embeddings_folder(config, split)),
        "summary": summary,
        "embedding_dimension": embeddings.points.dim,
    }


def train_model(
    config: Config, run_id: str, warm_start_run_id: str | None = None, resume: bool = False
) -> dict[str, Any]:
    """Train; with `warm_start_run_id` from that run's best weights, with `resume` that run itself goes on."""
    from transformer import training

    run = RunLog(config, run_id)
    run.begin()
    split = prepare_data(config, run)
    folder = run_folder(config, run_id)
    warm_start = last = None
    if resume:
        if warm_start_run_id and warm_start_run_id != run_id:
            raise UserError(
                f"--resume continues --run-id {run_id!r} itself; --warm-start-run-id must be the same or absent"
            )
        last = run.download(f"{training.CHECKPOINTS}/{training.LAST}", folder / "from_mlflow")
    elif (owner := run.tag(training.CHECKPOINTS_OF)) and owner == run.tag(AIRFLOW_RUN):
        log.info("training: an earlier try of this DAG run left a checkpoint, continuing from it")
        last = run.download(f"{training.CHECKPOINTS}/{training.LAST}", folder / "from_mlflow")
    elif warm_start_run_id:
        source = RunLog(config, warm_start_run_id)
        warm_start = source.download(f"{training.CHECKPOINTS}/{training.BEST}", folder / "warm_start")
    statistics = obtain_statistics(config, split)
    embeddings = obtain_embeddings(config, split)
    result = training.train(config, split, statistics, embeddings, run, folder, warm_start=warm_start, resume=last)
    log.info(
        "training: %d epochs in %s; best validation MAE %.1f s, translation %.1f s, skill %.3f",
        result.epochs,
        duration(result.seconds),
        result.best_val_mae_s,
        result.val_translation_mae_s,
        result.best_val_skill,
    )
    run.metrics({"val/best_mae_s": result.best_val_mae_s, "val/best_skill": result.best_val_skill})
    return {
        "best_val_mae_s": result.best_val_mae_s,
        "best_val_skill": result.best_val_skill,
        "epochs": result.epochs,
        "seconds": round(result.seconds, 1),
        "checkpoints": str(folder / training.CHECKPOINTS),
    }


def evaluate_model(
    config: Config,
    run_id: str,
    window: Window | None = None,
    *,
    again: bool = False,
    allow_training_dates: bool = False,
    env: str = "local",
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate the run's best checkpoint, beside translation on the same rows, and log into that run.

    All that makes the model comes from the run: checkpoint, statistics, embeddings and its own configuration. The
    window of the last dates is refused where the data are older than `evaluation.freshness.max_age_s`.

    Args:
        window: service dates to evaluate on, with metrics, artifacts and a tag of their own; None = the test dates of
            the run's split.
        again: evaluate a window that has been evaluated.
        allow_training_dates: the window may hold dates that trained the model or chose its best epoch.
        env: environment and
        overrides: overrides that `config` was made of, for the report.
    """
    from transformer.evaluation.html_report import write_html_report
    from transformer.evaluation.report import write_evaluation
    from transformer.prediction import evaluation_rows
    from transformer.trained import TrainedModel, download_trained

    run = RunLog(config, run_id)
    status = run.check()
    folder = run_folder(config, run_id)
    source = folder / "from_mlflow" if run_id else folder  # a local copy may be older, or another machine's
    trained = download_trained(run, source) if run_id else TrainedModel.load(source)
    given, config = config, trained.located(config)
    now = datetime.now(UTC)
    history = newest = None
    if window is None:
        if status != FINISHED:
            run.begin()
        history = _training_history(run, source)
        scope = Scope.of_test(trained.split.test)
        _fetch_dates(config, scope.days)
    else:
        scope = Scope.of_window(window, _available_dates(config))
        if not allow_training_dates:
            _refuse_training_dates(trained.split, scope.days)
        _fetch_dates(config, scope.days)
        if window.count is not None:  # dates that were named are as old as they are
            newest = _newest_observation(config, now)
        if not again and (run.tag(EVALUATED + scope.name) if run_id else scope.result_file(folder).is_file()):
            raise UserError(f"window {scope.name} has been evaluated; add --again to do it again, or name other dates")
    quality = examine(config, scope.days, trained.reference, now, newest)
    began = time.monotonic()
    rows = evaluation_rows(trained, config, scope.days)
    log.info("evaluation: %s rows predicted in %s", f"{rows.height:,}", duration(time.monotonic() - began))
    target, op_nodes = folder / scope.local, read_op_nodes(Path(config.data.local_folder))
    result = write_evaluation(
        rows,
        op_nodes,
        trained.embeddings.edges,
        target,
        prefix=scope.prefix,
        timezone=config.data.timezone,
        history=history,
    )
    commit = git_commit()
    provenance = Provenance(
        run_id=run_id,
        env=env,
        git_commit=commit,
        data_fingerprint=content_hash(data_fingerprint(Path(config.data.local_folder), scope.days)),
        configuration_hash=configuration_hash(given),
        commands=reproducing_commands(
            commit, env, overrides, run_id, scope.days if window is not None else None, allow_training_dates
        ),
        run_url=run_url(config, run_id),
        more={
            "trained with commit": run.tag("git_commit"),
            "trained on": dates_text(trained.split.train),
            "validated on": dates_text(trained.split.validation),
        },
    )
    report = write_html_report(
        target / REPORT,
        rows,
        op_nodes,
        result.figures,
        window=scope.days,
        timezone=config.data.timezone,
        provenance=provenance,
        quality=quality,
    )
    metrics = result.metrics | quality.metrics(scope.prefix)
    run.metrics(metrics)
    run.artifacts(target, scope.artifacts)
    tags = {DRIFT + scope.name: quality.drift.verdict} if quality.drift else {}
    if window is not None:  # counts as evaluated when all of it is there
        tags[EVALUATED + scope.name] = ", ".join(format_dates(scope.days))
    run.tags(tags)
    listed = [day.isoformat() for day in scope.days]
    report_url = artifact_page(provenance.run_url, f"{scope.artifacts}/{REPORT}")
    log.info("results on %s\n%s", _listed(listed), result.text)
    log.info("report: %s", report_url or report)
    output = {
        "metrics": metrics,
        "table": result.text,
        "folder": str(target),
        "dates": listed,
        "report": str(report),
        "report_url": report_url,
    }
    write_json(scope.result_file(folder), output)
    return output


def predict(config: Config, model: ModelSource, at: str, out: Path) -> dict[str, Any]:
    """Write the predictions for every train that runs at an instant, from what was known then, to a file.

    Args:
        at: ISO 8601 time; without an offset it is one of `data.timezone`.
        out: .parquet, .csv or .json file; columns: `prediction.PREDICTION_COLUMNS`.
    """
    from transformer import prediction

    write = prediction.writer(out)
    trained = _obtain_trained(config, model)
    config = trained.located(config)
    instant = prediction.parse_instant(at, config.data.timezone)
    available = _available_dates(config)
    days = [day for day in prediction.dates_around(instant, config) if day in available]
    local = instant.astimezone(ZoneInfo(config.data.timezone))
    own = local.date()
    outside = f"--at {at}: no events of {own}; there are dates from {available[0]} to {available[-1]}"
    if not days:
        raise UserError(outside)
    _fetch_dates(config, days)
    predictions = prediction.predictions_at(trained, config, instant, days)
    if own not in days:
        if predictions.is_empty():
            raise UserError(outside)
        log.warning("%s; predicting the trains of other dates that run then", outside)
    trains = predictions.select("train_id", "service_date").n_unique()
    write(out, predictions)
    log.info("predictions: %d trains, %s events, in %s", trains, f"{predictions.height:,}", out)
    return {"file": str(out), "at": local.isoformat(), "trains": trains, "events": predictions.height}


def predict_ride(config: Config, model: ModelSource, gold: Path, out: Path) -> dict[str, Any]:
    """Write the predictions that RIDE's evaluator compares with `gold/test_eval_table.parquet`, to a Parquet file."""
    from transformer import ride

    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: RIDE's evaluator reads Parquet; end it in .parquet")
    trained = _obtain_trained(config, model)
    config = trained.located(config)
    keys = ride.read_keys(gold, config.data.timezone)
    available = _available_dates(config)
    _fetch_dates(config, ride.dates_needed(keys, config, available))
    predictions = ride.predict_ride(trained, config, keys, available)
    write_parquet(out, predictions)
    return {"file": str(out), "keys": predictions.height, "delays_per_key": keys.n}


def tune(config: Config, run_id: str, worker: int = 0, warm_start_run_id: str | None = None) -> dict[str, Any]:
    """Run trials of the study `search.study_name` until it has `search.n_trials`, each in a nested MLflow run.

    Args:
        worker: number of this worker; several run at a time, each with its own, on a database that all reach.
        warm_start_run_id: every trial begins with the best weights of this run.
    """
    from transformer import training
    from transformer.tuning.study import WarmStart, run_trials

    run = RunLog(config, run_id)
    run.begin()
    split = prepare_data(config, run)
    folder = run_folder(config, run_id)
    warm_start = None
    if warm_start_run_id:
        source = RunLog(config, warm_start_run_id)
        checkpoint = source.download(f"{training.CHECKPOINTS}/{training.BEST}", folder / "warm_start")
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


def report_study(config: Config, run_id: str, env: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Say what the study `search.study_name` found: table, figures, best values and the conf that trains them.

    Args:
        env: environment and
        overrides: overrides that `config` was made of, for that conf.
    """
    from transformer.tuning.database import database_errors, read_database
    from transformer.tuning.report import write_study_report
    from transformer.tuning.study import close_ended_runs, find_study

    run = RunLog(config, run_id)
    run.begin()
    target = run_folder(config, run_id) / "study"
    with database_errors(config), read_database(config) as storage:
        study = find_study(config, storage)
        close_ended_runs(study, run)
        report = write_study_report(study, target, env=env, overrides=overrides)
    run.metrics(report.metrics)
    run.tags({"best_trial": str(report.best_trial), BEST_OVERRIDES: json.dumps(report.best_overrides)})
    run.artifacts(target, "study")
    log.info("study %s\n%s", config.search.study_name, report.text)
    return {
        "table": report.text,
        "metrics": report.metrics,
        "best_trial": report.best_trial,
        "best_overrides": report.best_overrides,
        "folder": str(target),
    }


def prepare_data(config: Config, run: RunLog) -> Split:
    """The service dates of each split, with their event tables in `data.local_folder`: each pod has a disk of its own.

    A run keeps the split it began with: dates that arrive later do not move its test dates into its training.
    """
    data, folder = config.data, Path(config.data.local_folder)
    chosen = data.split
    if not configured_split(chosen).all and (pinned := run.tag(SPLIT)):
        chosen = SplitConfig(**json.loads(pinned))
    available = None
    if data.download_data_from_s3:
        bucket = Bucket.from_config(data)
        available = bucket.available_dates()
        wanted = configured_split(chosen).all or available  # telling partial dates apart needs them all
        bucket.sync_data([day for day in available if day in set(wanted)], folder)
    split = resolve_split(chosen, folder, data.validation.skip_partial_dates, available)
    run.tags({SPLIT: json.dumps({name: format_dates(getattr(split, name)) for name in SPLITS})})
    return split


def _available_dates(config: Config) -> list[date]:
    """Service dates that have data, sorted: in the bucket where that is downloaded from, else in the local folder."""
    if config.data.download_data_from_s3:
        return Bucket.from_config(config.data).available_dates()
    return available_dates(Path(config.data.local_folder))


def _fetch_dates(config: Config, days: Sequence[date]) -> None:
    """Bring the event tables of `days` to `data.local_folder` where it is filled from a bucket."""
    if config.data.download_data_from_s3:
        Bucket.from_config(config.data).sync_data(days, Path(config.data.local_folder))


def _training_history(run: RunLog, folder: Path) -> pl.DataFrame:
    """A line per epoch of the training whose run folder, or copy of artifacts, this is."""
    from transformer import training

    if run.run_id:
        run.download(f"{training.CHECKPOINTS}/{training.HISTORY}", folder)
    return pl.DataFrame(training.read_history(folder / training.CHECKPOINTS / training.HISTORY))


def _newest_observation(config: Config, now: datetime) -> datetime | None:
    """When the newest observation of all was made; refused where it is older than the configuration allows."""
    newest = newest_observation_in(config.data, now)
    if limit := config.evaluation.freshness.max_age_s:
        age = check_freshness(newest, now, timedelta(seconds=limit), config.data.timezone)
        log.info("freshness: the newest observation is %s old", duration(age.total_seconds()))
    return newest


def _refuse_training_dates(split: Split, days: Sequence[date]) -> None:
    """Errors on dates that trained a model or chose its best epoch say little about others."""
    if seen := sorted({*split.train, *split.validation} & set(days)):
        raise UserError(
            f"window {window_name(days)}: {', '.join(format_dates(seen))} trained or validated this model; "
            "leave them out, or add --allow-training-dates"
        )


def _obtain_trained(config: Config, model: ModelSource) -> TrainedModel:
    """A trained model, from a folder or from MLflow; its run is left as it is."""
    from transformer.trained import TrainedModel, download_trained

    if isinstance(model, Path):
        return TrainedModel.load(model)
    run = RunLog(config, model)
    run.check()
    with tempfile.TemporaryDirectory() as temporary:
        return download_trained(run, Path(temporary))


def run_folder(config: Config, run_id: str) -> Path:
    """Local folder of a run's checkpoints and reports; without tracking, one per configuration."""
    return Path(config.paths.runs) / (run_id or f"untracked-{configuration_hash(config)}")


def _listed(days: list[str]) -> str:
    return f"{days[0]} … {days[-1]} ({len(days)} dates)" if len(days) > 3 else ", ".join(days)
