"""The trials of a study: their attributes, their states, and the best ones.

Values are validation MAE in seconds; lower is better.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from transformer.text import redact
from transformer.tuning.space import as_override, rounded

# Optuna calls these features experimental: heartbeats and retries (since 2.8), and multivariate TPE in groups.
warnings.filterwarnings("ignore", category=ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with Study.optimize")

IDENTITY = "identity"  # user attribute of a study: see `study_identity`
WARM_START = "warm_start_run_id"  # key in it: the MLflow run whose weights every trial begins with
# User attributes of a trial
DEFAULTS = "defaults"  # true: the trial has the configuration's own values
EPOCHS = "epochs"  # number of finished epochs
FAILURE = "failure"  # reason of the failure, in one line
MLFLOW_RUN_ID = "mlflow_run_id"
SECONDS = "seconds"  # duration
TRANSLATION_MAE = "val_translation_mae_s"  # MAE of translation, on the same rows

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
RETRIED = "retried"  # state of a trial whose worker died, and that was run again under another number


@dataclass(frozen=True)
class StudyTrials:
    """The trials of a study by state. A trial that was run again is only in `all`; its number is in `retried`."""

    all: list[FrozenTrial]
    retried: set[int]
    complete: list[FrozenTrial]  # best first; equal ones by number
    pruned: list[FrozenTrial]
    failed: list[FrozenTrial]
    running: list[FrozenTrial]
    waiting: list[FrozenTrial]

    @classmethod
    def of(cls, study: optuna.Study) -> StudyTrials:
        trials = study.get_trials(deepcopy=False)
        retried = superseded(trials)
        by_state: dict[TrialState, list[FrozenTrial]] = {state: [] for state in TrialState}
        for trial in trials:
            if trial.number not in retried:
                by_state[trial.state].append(trial)
        return cls(
            trials,
            retried,
            complete=sorted(by_state[TrialState.COMPLETE], key=lambda trial: (value_of(trial), trial.number)),
            pruned=by_state[TrialState.PRUNED],
            failed=by_state[TrialState.FAIL],
            running=by_state[TrialState.RUNNING],
            waiting=by_state[TrialState.WAITING],
        )

    @property
    def counted(self) -> int:
        """The number of trials. A trial that was run again counts once."""
        return len(self.all) - len(self.retried)

    @property
    def best(self) -> FrozenTrial:
        """The best complete trial; there must be one."""
        return self.complete[0]

    @property
    def defaults(self) -> FrozenTrial | None:
        """The trial with the configuration's own values, if it is complete and its value is finite."""
        as_it_is = (trial for trial in self.complete if trial.user_attrs.get(DEFAULTS))
        return next((trial for trial in as_it_is if math.isfinite(value_of(trial))), None)

    @property
    def judged(self) -> list[FrozenTrial]:
        """Trials with a value: complete ones, best first, then pruned ones, whose value is their last."""
        return [*self.complete, *(trial for trial in self.pruned if trial.value is not None)]

    @property
    def keys(self) -> list[str]:
        """Every key that at least one trial with a value has searched."""
        return sorted({key for trial in self.judged for key in trial.params})

    @property
    def top(self) -> float:
        """The largest value of a complete trial that is not an outlier. Axes end there; importances clip values there.

        Otherwise one diverged training would squeeze all other trials into a line. The limit is three times the spread
        of the best three quarters above them. Among two values or fewer, none is an outlier.
        """
        values = np.array([value_of(trial) for trial in self.complete])
        values = values[np.isfinite(values)]
        usual = np.quantile(values, 0.75, method="lower")
        limit = usual + 3 * (usual - values[0])
        return float(values[values <= limit].max() if usual > values[0] else values[-1])

    def state(self, trial: FrozenTrial) -> str:
        return RETRIED if trial.number in self.retried else STATES[trial.state]

    def seconds(self) -> float:
        """Duration of all trials, also of those that were run again."""
        return math.fsum(trial.user_attrs.get(SECONDS, 0.0) for trial in self.all)


def superseded(trials: Iterable[FrozenTrial]) -> set[int]:
    """Numbers of the trials that were run again after their worker died."""
    return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


def value_of(trial: FrozenTrial) -> float:
    """Validation MAE, in seconds, of a trial that has a value."""
    assert trial.value is not None
    return trial.value


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """Values of a trial by key, as in its configuration."""
    return {key: _as_configured(trial, key) for key in trial.params}


def _as_configured(trial: FrozenTrial, key: str) -> Any:
    distribution, value = trial.distributions[key], trial.params[key]
    stepped = isinstance(distribution, FloatDistribution) and distribution.step is not None
    return rounded(value) if stepped else value


def failure_of(trial: FrozenTrial) -> str:
    """The reason of a trial's failure, in one line."""
    return str(redact(trial.user_attrs.get(FAILURE, "its worker died too often")))


def mae_text(seconds: float) -> str:
    """`1234.5` → `1,234.50 s`."""
    return f"{seconds:,.2f} s"


def value_text(value: Any) -> str:
    """A parameter's value for people, in at most 20 characters."""
    text = f"{value:.4g}" if isinstance(value, float) else as_override(value)
    return text if len(text) <= 20 else f"{text[:19]}…"
