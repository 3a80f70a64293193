"""What the stage `evaluate-model` found, as its MLflow run keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformer.config import load_config

if TYPE_CHECKING:
    from transformer.evaluation.outcome import Outcome


def outcome_of(run: dict[str, Any]) -> Outcome:
    """The outcome of an evaluation of this DAG run.

    Args:
        run: the model that was evaluated, as `evaluations.open_evaluation` returned it.

    Raises:
        UserError: there is none.
        ServiceError: MLflow does not answer.
    """
    from transformer.evaluation.outcome import Outcome
    from transformer.tracking.run_log import RunLog

    return Outcome.find(RunLog(load_config(run["env"], run["overrides"]), run["run_id"]), run["request"])
