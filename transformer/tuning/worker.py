"""One worker of a study: it claims trials, runs each one as a training, and reports the result."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback
from optuna.exceptions import StorageInternalError, TrialPruned, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from transformer.config import Config, with_values
from transformer.data.dates import Split
from transformer.errors import ServiceError, UserError
from transformer.features.cache import obtain_inputs
from transformer.text import duration, first_line
from transformer.tracking.datasets import TRAINING
from transformer.tracking.names import STATE, STUDY_NAME, TRIAL
from transformer.tracking.run_log import RunLog
from transformer.training.callbacks import MONITORED
from transformer.training.trainer import TrainingResult, best_epoch_metrics, train
from transformer.tuning.database import StudyDatabase, beat, beating, database_errors, open_database
from transformer.tuning.space import SearchSpace, read_space, show
from transformer.tuning.study import (
    FAILED,
    FINISHED,
    KILLED,
    STUDY_ID,
    Progress,
    WarmStart,
    create_sampler,
    open_study,
    progress,
    refuse_all_failed,
    retry_stale,
)
from transformer.tuning.trials import (
    EPOCHS,
    FAILURE,
    MLFLOW_RUN_ID,
    RETRIED,
    SECONDS,
    STATES,
    TRANSLATION_MAE,
    StudyTrials,
    failure_of,
    value_of,
)

log = logging.getLogger(__name__)

WORKER = "worker"  # user attribute of a trial: the worker that runs it


def run_trials(
    config: Config, split: Split, run: RunLog, folder: Path, worker: int, warm_start: WarmStart | None = None
) -> Progress:
    """Run trials until the study has `search.n_trials`. Each one is logged to an MLflow run nested in `run`.

    Args:
        folder: folder of the trials' checkpoints.
        worker: number of this worker among those of the same MLflow run; a retried worker keeps its number.
        warm_start: the weights that every trial begins with.

    Raises:
        UserError: the search space is wrong or differs from that of the study, or every trial failed.
        ServiceError: the database, the bucket or MLflow stopped answering; the running trial is queued again.
    """
    space = read_space(config, warm_start=warm_start is not None)
    with database_errors(config), open_database(config, run.run_id, retry_stale(config.search)) as database:
        with database.exclusively():
            study = open_study(config, space, split, database, warm_start)
        me = _Worker(f"{run.run_id}/{worker}", study, space, database, config, split, run, folder, warm_start)
        me.bring_back_orphans()
        close_ended_runs(study, run)
        while claimed := me.claim():
            with beating(database.storage, claimed.trial._trial_id):
                me.run_trial(claimed)
        close_ended_runs(study, run)
        found = progress(study)
    if not (found.complete or found.running or found.waiting):
        refuse_all_failed(study)
    return found


def close_ended_runs(study: optuna.Study, run: RunLog) -> None:
    """Close the MLflow runs of trials whose worker was killed before it closed them."""
    trials = StudyTrials.of(study)
    for run_id, tags in run.running({STUDY_ID: study.user_attrs[STUDY_ID]}).items():
        if not tags.get(TRIAL, "").isdecimal():
            log.warning(
                "MLflow run %s has the tag %s of this study, but no tag %s: not closed", run_id, STUDY_ID, TRIAL
            )
            continue
        number = int(tags[TRIAL])
        if number >= len(trials.all):  # the database with this trial was never saved to the bucket
            _close(RunLog(run.config, run_id), KILLED, RETRIED, "its worker died")
        elif number in trials.retried:
            _close(RunLog(run.config, run_id), KILLED, RETRIED, "its worker died; the trial was run again")
        elif trials.all[number].state.is_finished():
            _close_as(RunLog(run.config, run_id), trials.all[number])


@dataclass(frozen=True)
class _Claim:
    """A trial that a worker has taken, and its values by key."""

    trial: optuna.Trial
    values: dict[str, Any]


@dataclass(frozen=True)
class _Worker:
    """One worker of a study. It keeps its name after a retry."""

    name: str
    study: optuna.Study
    space: SearchSpace
    database: StudyDatabase
    config: Config
    split: Split
    run: RunLog
    folder: Path
    warm_start: WarmStart | None

    def bring_back_orphans(self) -> None:
        """Queue running trials again whose worker is known to be dead: those of this worker before its retry."""
        with self.database.exclusively():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if self.database.alone or trial.user_attrs.get(WORKER, self.name) == self.name:
                    log.info("trial %d: its worker died; the trial is run again", trial.number)
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    retry_stale(self.config.search)(self.study, self.study.trials[trial.number])
        self.database.save()

    def claim(self) -> _Claim | None:
        """Claim the next trial; None if no trial is left."""
        search = self.config.search
        with self.database.exclusively():
            fail_stale_trials(self.study)
            found = progress(self.study)
            if not found.waiting and found.counted >= search.n_trials:
                return None
            self.study.sampler = create_sampler(search, found.counted)
            trial = self.study.ask()
            trial.set_user_attr(WORKER, self.name)
            beat(self.database.storage, trial._trial_id)  # a trial without any heartbeat never counts as stale
            values = self.space.suggest(trial)
        place = found.counted - found.waiting + 1
        texts = {key: f"{value:.4g}" if isinstance(value, float) else show(value) for key, value in values.items()}
        listed = ", ".join(f"{key}={text}" for key, text in texts.items())
        log.info("trial %d (%d of %d): %s", trial.number, place, search.n_trials, listed)
        return _Claim(trial, values)

    def run_trial(self, claimed: _Claim) -> None:
        """Train with the trial's values, and report the result to the study and to MLflow."""
        trial = claimed.trial
        self.database.save()  # the bucket's copy must have the trial before MLflow has it
        child = RunLog(self.config, "")
        target = self.folder / f"trial-{trial.number}"
        began = time.monotonic()
        state = TrialState.FAIL
        value: float | None = None
        try:
            # Only workers run in parallel: a training that started more processes would start this worker again.
            config = with_values(self.config, {**claimed.values, "training.devices": "1"}, f"trial {trial.number}")
            child = self._open_run(config, claimed)
            result = self._train(config, child, target, trial)
        except TrialPruned:
            state = TrialState.PRUNED
        except (ServiceError, OSError, MemoryError, StorageInternalError, SQLAlchemyError):
            self._run_again(trial, child, "a service or the machine failed")
            raise
        except Exception as error:
            reason = first_line(error)
            trial.set_user_attr(FAILURE, reason)
            log.warning("trial %d failed: %s", trial.number, reason, exc_info=not isinstance(error, UserError))
        except BaseException:  # SIGTERM or Ctrl-C
            self._run_again(trial, child, "its worker was stopped")
            raise
        else:
            state, value = TrialState.COMPLETE, result.best_val_mae_s
            trial.set_user_attr(TRANSLATION_MAE, result.val_translation_mae_s)
        trial.set_user_attr(SECONDS, round(time.monotonic() - began, 1))
        try:
            ended = self.study.tell(trial, value, state)
        except (UpdateFinishedTrialError, ValueError):
            raise _taken_over(trial) from None
        self.database.save()
        _close_as(child, ended)
        self._report_progress(ended)
        if child.run_id:  # MLflow has the checkpoint
            shutil.rmtree(target, ignore_errors=True)

    def _open_run(self, config: Config, claimed: _Claim) -> RunLog:
        trial = claimed.trial
        tags = {
            TRIAL: str(trial.number),
            STUDY_ID: self.study.user_attrs[STUDY_ID],
            STUDY_NAME: self.study.study_name,
            STATE: STATES[TrialState.RUNNING],
        }
        child = self.run.open_child(config, f"trial {trial.number}", claimed.values, tags, contexts=TRAINING)
        trial.set_user_attr(MLFLOW_RUN_ID, child.run_id)
        return child

    def _train(self, config: Config, child: RunLog, folder: Path, trial: optuna.Trial) -> TrainingResult:
        return train(
            config,
            self.split,
            *obtain_inputs(config, self.split),
            child,
            folder,
            warm_start=self.warm_start.checkpoint if self.warm_start else None,
            callbacks=[ReportToStudy(trial)],
            resumable=False,
        )

    def _run_again(self, trial: optuna.Trial, child: RunLog, why: str) -> None:
        """Queue an unfinished trial again. If a service does not answer, the next worker corrects the rest."""
        try:
            self.study.tell(trial, state=TrialState.FAIL)
            retry_stale(self.config.search)(self.study, self.study.trials[trial.number])
            self.database.save()
            _close(child, KILLED, RETRIED, f"{why}; the trial is run again")
        except Exception as error:
            log.warning("trial %d cannot be queued again now: %s", trial.number, first_line(error))

    def _report_progress(self, trial: FrozenTrial) -> None:
        best = progress(self.study).best
        outcome = "no value" if trial.value is None else f"{trial.value:.1f} s"
        log.info(
            "trial %d: %s, %s after %s; %s",
            trial.number,
            STATES[trial.state],
            outcome,
            duration(trial.user_attrs[SECONDS]),
            f"best {best.value:.1f} s of trial {best.number}" if best else "none is complete yet",
        )
        values = {"study/val_mae_s": trial.value, "study/best_val_mae_s": best.value if best else None}
        self.run.log_metrics({name: value for name, value in values.items() if value is not None}, step=trial.number)


class ReportToStudy(Callback):
    """Reports the validation MAE of each epoch to the study, and ends the training if the study prunes it."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        epoch = trainer.current_epoch + 1
        try:
            self._trial.report(float(trainer.callback_metrics[MONITORED]), epoch)
        except UpdateFinishedTrialError:
            raise _taken_over(self._trial) from None
        self._trial.set_user_attr(EPOCHS, epoch)
        if self._trial.should_prune():
            raise TrialPruned


def _close_as(child: RunLog, trial: FrozenTrial) -> None:
    """Close the MLflow run of a trial that ended."""
    state = STATES[trial.state]
    if trial.state is TrialState.COMPLETE:
        if TRANSLATION_MAE in trial.user_attrs:
            child.log_metrics(best_epoch_metrics(value_of(trial), trial.user_attrs[TRANSLATION_MAE]))
        _close(child, FINISHED, state)
    elif trial.state is TrialState.PRUNED:
        _close(child, KILLED, state, f"pruned after epoch {trial.last_step}")
    else:
        _close(child, FAILED, state, failure_of(trial))


def _close(child: RunLog, status: str, state: str, reason: str = "") -> None:
    child.set_tags({STATE: state})
    child.close(status, reason)


def _taken_over(trial: optuna.Trial) -> ServiceError:
    return ServiceError(f"trial {trial.number} was taken over: another process runs as the same worker of this study")
