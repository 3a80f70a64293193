"""What an evaluation found, left in the model's run for whoever asks. Imports neither torch nor polars."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from transformer.errors import UserError
from transformer.evaluation.decision import NO_DECISION, PromotionDecision
from transformer.tracking.run_log import RunLog

REQUEST = "request/"  # and the request's id: tag of the run that was evaluated
EVALUATED = "evaluated/"  # and a window's name: tag of each window that was evaluated


@dataclass(frozen=True)
class Outcome:
    """The result of `evaluate-model`, as its run keeps it in tags."""

    window: str  # `test`, or the first and last service date: 2024-12-20..2024-12-21
    dates: list[str] = field(default_factory=list)  # that were evaluated, as `data.split` takes them
    report: str = ""  # artifact path of the report
    headline: str = ""  # one line: MAE, that of translation, skill
    degradation: str = ""  # one line: what has become worse since the training; "" = nothing beyond the limit
    decision: PromotionDecision = NO_DECISION

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """What `as_dict` gave, or a release that kept the fields of the decision among the others."""
        given = dict(values)
        decision = given.pop("decision", {})
        if isinstance(decision, str):
            kept = {name: given.pop(name) for name in ("reason", "version", "instead_of") if name in given}
            decision = {"verdict": decision, **kept}
        return cls(**given, decision=PromotionDecision.read(decision))

    def without_decision(self) -> Self:
        """The same results, told again: nothing is decided on them a second time."""
        reason = f"judged before: {self.decision.reason}" if self.decision.verdict else self.decision.reason
        return dataclasses.replace(self, decision=self.decision.withheld(reason))

    def leave_to_request(self, run: RunLog, request: str) -> None:
        """Keep it for whoever asked for it with `evaluate-model --request ID`."""
        run.set_tags({REQUEST + request: json.dumps(self.as_dict())})

    def leave_to_window(self, run: RunLog) -> None:
        """Keep it as the results on its window."""
        run.set_tags({EVALUATED + self.window: json.dumps(self.as_dict())})

    @classmethod
    def of_request(cls, run: RunLog, request: str) -> Self | None:
        return cls._of_tag(run, REQUEST + request)

    @classmethod
    def of_window(cls, run: RunLog, window: str) -> Self | None:
        return cls._of_tag(run, EVALUATED + window)

    @classmethod
    def find(cls, run: RunLog, request: str) -> Self:
        """What the evaluation that was asked for under this id found.

        Raises:
            UserError: the run has no such evaluation.
        """
        if (found := cls.of_request(run, request)) is None:
            raise UserError(f"MLflow run {run.run_id} holds no results of this request; clear evaluate_model")
        return found

    @classmethod
    def _of_tag(cls, run: RunLog, name: str) -> Self | None:
        found = run.get_tag(name)
        return cls.read(json.loads(found)) if found else None
