"""The outcome of an evaluation, kept in tags of the model's run. This module imports neither torch nor polars."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from transformer.errors import UserError
from transformer.evaluation.decision import NO_DECISION, PromotionDecision
from transformer.tracking.run_log import RunLog

REQUEST = "request/"  # tag of the evaluated run; the id of the request follows
EVALUATED = "evaluated/"  # tag of the evaluated run; the name of the window follows


@dataclass(frozen=True)
class Outcome:
    """The result of `evaluate-model`, as the run keeps it in tags."""

    window: str  # `test`, or the first and last service date: 2024-12-20..2024-12-21
    dates: list[str] = field(default_factory=list)  # the evaluated dates, in the form of `data.split`
    report: str = ""  # artifact path of the report
    headline: str = ""  # one line: MAE of the model, MAE of translation, skill
    degradation: str = ""  # one line: the loss of skill since the training; "" = within the limit
    decision: PromotionDecision = NO_DECISION

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Read the fields that `as_dict` returned. Older releases kept the fields of the decision among the others."""
        given = dict(values)
        decision = given.pop("decision", {})
        if isinstance(decision, str):
            kept = {name: given.pop(name) for name in ("reason", "version", "instead_of") if name in given}
            decision = {"verdict": decision, **kept}
        return cls(**given, decision=PromotionDecision.read(decision))

    def without_decision(self) -> Self:
        """The same results without a decision, for a later request. Nothing is decided on them a second time."""
        reason = f"judged before: {self.decision.reason}" if self.decision.verdict else self.decision.reason
        return dataclasses.replace(self, decision=self.decision.withheld(reason))

    def leave_to_request(self, run: RunLog, request: str) -> None:
        """Keep the outcome for the request `evaluate-model --request ID`."""
        run.set_tags({REQUEST + request: json.dumps(self.as_dict())})

    def leave_to_window(self, run: RunLog) -> None:
        """Keep the outcome as the results on its window."""
        run.set_tags({EVALUATED + self.window: json.dumps(self.as_dict())})

    @classmethod
    def of_request(cls, run: RunLog, request: str) -> Self | None:
        return cls._of_tag(run, REQUEST + request)

    @classmethod
    def of_window(cls, run: RunLog, window: str) -> Self | None:
        return cls._of_tag(run, EVALUATED + window)

    @classmethod
    def find(cls, run: RunLog, request: str) -> Self:
        """The outcome of the evaluation with this request id.

        Raises:
            UserError: the run has no such evaluation.
        """
        if (found := cls.of_request(run, request)) is None:
            raise UserError(f"MLflow run {run.run_id} holds no results of this request; clear evaluate_model")
        return found

    @classmethod
    def _of_tag(cls, run: RunLog, name: str) -> Self | None:
        found = run.get_json_tag(name)
        try:
            return None if found is None else cls.read(found)
        except (TypeError, ValueError, AttributeError):
            raise run.unusable_tag(name) from None
