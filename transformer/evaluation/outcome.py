"""The outcome of an evaluation, kept in the MLflow run that has its results.

This module imports neither torch nor polars.

The results on the test dates are in the run of the training. Those on a window are in a run of their own, nested in it.
Earlier releases kept the outcomes of windows in tags of the training's run, and these are still read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from transformer.errors import UserError
from transformer.evaluation.decision import NO_DECISION, PromotionDecision
from transformer.tracking.names import WINDOW, artifact_page, sibling_page
from transformer.tracking.run_log import RunLog

REQUEST = "request/"  # tag of the run with the results; the id of the request follows
OUTCOME = "outcome"  # tag of a nested run; the last one of an evaluation, when all other results are there
EVALUATED = "evaluated/"  # tag of an earlier release in the run of the training; the name of the window follows


@dataclass(frozen=True)
class Outcome:
    """The result of `evaluate-model`, as an MLflow run keeps it."""

    window: str  # `test`, or the first and last service date: 2024-12-20..2024-12-21
    dates: list[str] = field(default_factory=list)  # the evaluated dates, in the form of `data.split`
    report: str = ""  # artifact path of the report
    run_id: str = ""  # nested run that has the results; "" = the run of the training has them
    headline: str = ""  # one line: MAE of the model, MAE of translation, skill
    degradation: str = ""  # one line: the loss of skill since the training; "" = within the limit
    drift: str = ""  # one line: how the events differ from those of the training, beyond a limit; "" = within all
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

    @property
    def worse(self) -> str:
        """One line: why the model no longer fits the events; "" = it does."""
        return "; ".join(line for line in (self.degradation, self.drift and f"drift: {self.drift}") if line)

    def without_decision(self) -> Self:
        """The same results without a decision, for a later request. Nothing is decided on them a second time."""
        reason = f"judged before: {self.decision.reason}" if self.decision.verdict else self.decision.reason
        return dataclasses.replace(self, decision=self.decision.withheld(reason))

    def report_page(self, run_page: str) -> str:
        """Address of the report's page in MLflow; "" = the run has no page.

        Args:
            run_page: page of the training's run.
        """
        return artifact_page(sibling_page(run_page, self.run_id) if self.run_id else run_page, self.report)

    def leave_to_request(self, results: RunLog, request: str) -> None:
        """Keep the outcome for the request `evaluate-model --request ID`."""
        results.set_json_tag(REQUEST + request, self.as_dict(), self.headline)

    def leave_to_window(self, results: RunLog) -> None:
        """Keep the outcome as the results on its window."""
        results.set_json_tag(OUTCOME, self.as_dict(), self.headline)

    @classmethod
    def of_request(cls, run: RunLog, request: str) -> Self | None:
        """The outcome of a request, among those of a training's run.

        Raises:
            UserError: the tag does not hold an outcome.
        """
        name = REQUEST + request
        child = run.find_child({name: ""})
        return (cls._of_tag(child, name) if child else None) or cls._of_tag(run, name)

    @classmethod
    def of_window(cls, run: RunLog, window: str) -> Self | None:
        """The results on a window, among those of a training's run.

        Raises:
            UserError: the tag does not hold an outcome.
        """
        child = run.find_child({WINDOW: window})
        return (cls._of_tag(child, OUTCOME) if child else None) or cls._of_tag(run, EVALUATED + window)

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
