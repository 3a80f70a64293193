"""A study: how it is opened and continued, its sampler and its pruner, and its progress.

The study's database is the record of the trials, and MLflow shows them. Every step is written to the database first,
then to MLflow. After a kill at any moment the database is therefore right, and MLflow can be corrected from it.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from transformer.config import Config, SearchConfig
from transformer.data.content import data_digest
from transformer.data.dates import Split
from transformer.errors import UserError
from transformer.files import content_hash
from transformer.training.resume import changed_settings, training_identity
from transformer.tuning.database import StudyDatabase
from transformer.tuning.space import SOURCE, SearchSpace
from transformer.tuning.trials import (
    DEFAULTS,
    FAILURE,
    IDENTITY,
    WARM_START,
    StudyTrials,
)

log = logging.getLogger(__name__)

STUDY_ID = "study_id"  # attribute of the study, and tag of its trials' MLflow runs; other databases may use its name
FINISHED, KILLED, FAILED = "FINISHED", "KILLED", "FAILED"  # states of an MLflow run
_BEGUN = tuple(state for state in TrialState if state is not TrialState.WAITING)


@dataclass(frozen=True)
class Progress:
    """Numbers of a study's trials. A trial that was run again counts once."""

    counted: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    best: FrozenTrial | None

    def __str__(self) -> str:
        left = f", {self.running} running, {self.waiting} waiting" if self.running or self.waiting else ""
        best = f"; best {self.best.value:.1f} s of trial {self.best.number}" if self.best else ""
        return f"{self.complete} trials complete, {self.pruned} pruned, {self.failed} failed{left}{best}"


@dataclass(frozen=True)
class WarmStart:
    """Weights to begin with, and the MLflow run that trained them."""

    run_id: str
    checkpoint: Path


def open_study(
    config: Config, space: SearchSpace, split: Split, database: StudyDatabase, warm_start: WarmStart | None
) -> optuna.Study:
    """Create or continue the study `search.study_name`.

    Raises:
        UserError: a study of this name searches another space, or its trials cannot be compared with new ones.
    """
    search = config.search
    study = optuna.create_study(
        study_name=search.study_name,
        storage=database.storage,
        direction="minimize",
        load_if_exists=True,
        pruner=create_pruner(config),
    )
    identity = study_identity(config, space, split, warm_start)
    if IDENTITY not in study.user_attrs:
        if study.get_trials(deepcopy=False, states=_BEGUN):
            raise UserError(_foreign(search.study_name))
        study.set_user_attr(STUDY_ID, uuid.uuid4().hex)
        _enqueue_defaults(study, space, search)
        study.set_user_attr(IDENTITY, identity)  # last: a study that has it is complete
        log.info("study %s: new, %d trials to run", search.study_name, search.n_trials)
        for key, text in space.describe().items():
            log.info("  %s: %s", key, text)
        return study
    before: dict[str, str] = study.user_attrs[IDENTITY]
    if changed := changed_settings(before, identity):
        raise UserError(
            f"study {search.study_name!r} was begun with other settings: {'; '.join(changed)}; "
            "use the same settings, or give another study_name (search.study_name)"
        )
    found = progress(study)
    log.info("study %s: continued with %d of %d trials", search.study_name, found.counted, search.n_trials)
    return study


def find_study(config: Config, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """The study `search.study_name`, for reading.

    Raises:
        UserError: the database has no such study, or another program made it.
    """
    name = config.search.study_name
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise UserError(f"search.study_name={name!r} is not in the database, which has: {', '.join(names) or 'none'}")
    study = optuna.load_study(study_name=name, storage=storage)
    if STUDY_ID not in study.user_attrs:
        raise UserError(_foreign(name))
    return study


def _foreign(name: str) -> str:
    return f"study {name!r} was not made by this pipeline; give another study_name (search.study_name)"


def study_identity(config: Config, space: SearchSpace, split: Split, warm_start: WarmStart | None) -> dict[str, str]:
    """The settings, by name, that must be the same for the values of trials to be comparable."""
    searched = space.describe()
    fixed = {key: value for key, value in training_identity(config, split).items() if key not in searched}
    days = [*split.train, *split.validation]
    fingerprint = data_digest(config.data, days, config.model.use_inputs)
    begins = {WARM_START: warm_start.run_id} if warm_start else {}
    return {**{f"{SOURCE} {key}": text for key, text in searched.items()}, **fixed, "data": fingerprint, **begins}


def create_sampler(search: SearchConfig, n_trials: int) -> optuna.samplers.BaseSampler:
    """The sampler of the next trial of a study that has `n_trials` (a trial that was run again counts once).

    Its seed depends on that number, so an interrupted study draws the same values as an uninterrupted one.
    """
    seed = int(content_hash(search.sampler.seed, n_trials), 16) % 2**32
    if search.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=search.sampler.n_startup_trials,
        multivariate=True,
        group=True,  # for conditional keys: one density per set of keys that occur together
        constant_liar=search.n_workers > 1,  # running trials count as bad ones, so workers try different values
    )


def create_pruner(config: Config) -> optuna.pruners.BasePruner:
    pruner = config.search.pruner
    if pruner.name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=pruner.n_startup_trials, n_warmup_steps=pruner.n_warmup_epochs
        )
    if pruner.name == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=pruner.n_warmup_epochs,
            max_resource=config.training.max_epochs,
            reduction_factor=pruner.reduction_factor,
        )
    return optuna.pruners.NopPruner()


def progress(study: optuna.Study) -> Progress:
    trials = StudyTrials.of(study)
    return Progress(
        counted=trials.counted,
        complete=len(trials.complete),
        pruned=len(trials.pruned),
        failed=len(trials.failed),
        running=len(trials.running),
        waiting=len(trials.waiting),
        best=trials.best if trials.complete else None,
    )


def refuse_all_failed(study: optuna.Study) -> None:
    """Refuse a study without a complete trial.

    Raises:
        UserError: always; the error names the last failure.
    """
    reasons = [trial.user_attrs[FAILURE] for trial in study.get_trials(deepcopy=False) if FAILURE in trial.user_attrs]
    raise UserError(
        f"study {study.study_name!r}: none of its trials completed, {len(reasons)} failed"
        + (f", the last one: {reasons[-1]}" if reasons else "")
        + "; correct that and give another study_name (search.study_name)"
    )


def _enqueue_defaults(study: optuna.Study, space: SearchSpace, search: SearchConfig) -> None:
    if not search.start_with_defaults:
        return
    if outside := space.outside():
        log.info("the default configuration is outside the search space and is not tried: %s", ", ".join(outside))
        return
    study.enqueue_trial(space.own_values(), user_attrs={DEFAULTS: True}, skip_if_exists=True)


def retry_stale(search: SearchConfig) -> RetryHeartbeatStaleTrialCallback:
    return RetryHeartbeatStaleTrialCallback(max_retry=search.max_retries)
