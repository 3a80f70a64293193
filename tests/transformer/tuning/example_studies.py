"""Studies in memory, for tests of reports and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

SPACE: dict[str, BaseDistribution] = {
    "model.d_model": CategoricalDistribution([32, 64, 128]),
    "model.n_layers": IntDistribution(1, 4),
    "model.use_inputs.calendar": CategoricalDistribution([True, False]),
    "training.learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "training.loss.name": CategoricalDistribution(["log", "mixed"]),
    "training.loss.ranked_weight": FloatDistribution(10, 600, log=True),
    "training.precision": CategoricalDistribution(["auto", "32-true"]),
}
DEFAULTS = {
    "model.d_model": 128,
    "model.n_layers": 3,
    "model.use_inputs.calendar": True,
    "training.learning_rate": 1e-3,
    "training.loss.name": "log",
    "training.precision": "auto",
}
MIXED = {**DEFAULTS, "training.loss.name": "mixed", "training.loss.ranked_weight": 120.0}


def new_study(name: str = "delays") -> optuna.Study:
    return optuna.create_study(study_name=name)


def add(
    study: optuna.Study,
    value: float | None,
    params: Mapping[str, Any] = DEFAULTS,
    *,
    state: TrialState = TrialState.COMPLETE,
    curve: tuple[float, ...] = (),
    retry_of: list[int] | None = None,
    **user_attrs: Any,
) -> None:
    """Add a trial. By default, a complete one has 10 epochs, 60 s of training, and 80 s as MAE of translation."""
    if state is TrialState.COMPLETE:
        user_attrs = {"seconds": 60.0, "epochs": 10, "val_translation_mae_s": 80.0, **user_attrs}
    study.add_trial(
        optuna.create_trial(
            state=state,
            value=value,
            params=dict(params),
            distributions={key: SPACE[key] for key in params},
            user_attrs=user_attrs,
            system_attrs={"failed_trial": retry_of[0], "retry_history": retry_of} if retry_of else {},
            intermediate_values=dict(enumerate(curve, start=1)),
        )
    )


def fail(study: optuna.Study, reason: str | None = None, params: Mapping[str, Any] = DEFAULTS) -> None:
    add(study, None, params, state=TrialState.FAIL, **({"failure": reason} if reason else {}))


def mixed_study() -> optuna.Study:
    """Trials in every state. Only the learning rate decides the value: 50 s at 1e-3, and 8 s more per decade."""
    study = new_study()
    add(study, 50.0, curve=(70.0, 55.0, 50.0), defaults=True, mlflow_run_id="run-of-defaults")
    rng = np.random.default_rng(0)
    for k in range(24):
        rate = float(10 ** rng.uniform(-5, -1))
        params: dict[str, Any] = {
            "model.d_model": [32, 64, 128][k % 3],
            "model.n_layers": int(rng.integers(1, 5)),
            "model.use_inputs.calendar": bool(rng.integers(2)),
            "training.learning_rate": rate,
            "training.loss.name": "log",
            "training.precision": "auto",
        }
        if k % 4 == 0:
            params |= {"training.loss.name": "mixed", "training.loss.ranked_weight": 60.0}
        value = 49.0 + 8 * abs(math.log10(rate) + 2.8)
        add(study, value, params, curve=(value + 20, value + 5, value))
    add(study, 66.0, MIXED, state=TrialState.PRUNED, curve=(72.0, 66.0), epochs=2, seconds=12.0)
    fail(study, "model.d_model=128 does not fit http://me:secret@gpu/ memory")
    fail(study)  # number 27: its worker died, and 28 runs it again
    add(study, 47.5, MIXED, retry_of=[27], curve=(60.0, 47.5), mlflow_run_id="run-of-best")
    return study
