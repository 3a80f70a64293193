"""The decision about a promotion: one object from the gate to the tags of the run, the report and the DAG.

This module imports only the standard library, since processes of the scheduler read decisions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

PROMOTE, DECLINE = "promote", "decline"


@dataclass(frozen=True)
class PromotionDecision:
    """Whether a registered version becomes champion, and why."""

    verdict: str = ""  # PROMOTE or DECLINE; "" = the gate did not judge
    reason: str = ""  # one line: why, or why the gate did not judge
    version: int = 0  # of the registered model; 0 = the model is not registered
    instead_of: int = 0  # version of the champion in the comparison; 0 = there was none

    @property
    def promotes(self) -> bool:
        return self.verdict == PROMOTE

    @property
    def declines(self) -> bool:
        return self.verdict == DECLINE

    @property
    def text(self) -> str:
        """One line for tags and logs, `promote: MAE 61.20 s …`; "" = there is nothing to say."""
        return f"{self.verdict or 'not judged'}: {self.reason}" if self.reason else ""

    def withheld(self, reason: str) -> Self:
        """The same versions without a verdict, so that nothing is promoted or declined."""
        return dataclasses.replace(self, verdict="", reason=reason)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Read the fields that `as_dict` returned."""
        return cls(**values)


NO_DECISION = PromotionDecision()  # no registered model, and no verdict of the gate
