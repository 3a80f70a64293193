"""The outcome of the stage `evaluate-model`, read from its MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformer.config import load_config

if TYPE_CHECKING:
    from transformer.evaluation.outcome import Outcome


def outcome_of(run: dict[str, Any]) -> Outcome:
    """Return the outcome of an evaluation of this DAG run.

    Args:
        run: the evaluated model, an entry of `models` from `evaluations.open_evaluation`.

    Raises:
        UserError: the MLflow run holds no outcome of this DAG run.
        ServiceError: MLflow does not answer.
    """
    from transformer.evaluation.outcome import Outcome
    from transformer.tracking.run_log import RunLog

    return Outcome.find(RunLog(load_config(run["env"], run["overrides"]), run["run_id"]), run["request"])
