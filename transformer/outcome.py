"""What an evaluation found, left in the model's run for whoever asked for it. Imports neither torch nor polars."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from transformer.errors import UserError
from transformer.tracking import RunLog

REQUEST = "request/"  # and the request's id: tag of the run that was evaluated
PROMOTE, DECLINE = "promote", "decline"


@dataclass(frozen=True)
class Outcome:
    """The result of `evaluate-model --request ID`."""

    window: str  # `test`, or the first and last service date: 2024-12-20..2024-12-21
    report: str  # artifact path of the report
    headline: str  # one line: MAE, that of translation, skill
    degradation: str = ""  # one line: what has become worse than at the training; "" = nothing beyond the limit
    version: int = 0  # of the registered model, when the gate judged it; 0 = it did not
    decision: str = ""  # PROMOTE or DECLINE, when the gate judged it
    reason: str = ""  # one line: why
    instead_of: int = 0  # the champion's version that it was compared with; 0 = there was none

    def leave(self, run: RunLog, request: str) -> None:
        run.tags({REQUEST + request: json.dumps(asdict(self))})

    @classmethod
    def find(cls, run: RunLog, request: str) -> Self:
        """What the evaluation that was asked for under this id found.

        Raises:
            UserError: the run has no such evaluation.
        """
        if not (found := run.tag(REQUEST + request)):
            raise UserError(f"MLflow run {run.run_id} holds no results of this request; clear evaluate_model")
        return cls(**json.loads(found))
