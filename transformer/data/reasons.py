"""The account of reading: what becomes of every event, and the reason if it is not used.

An event that was read is kept, or dropped for a reason. An event that is kept is cancelled, or not observed, or its
observation is discarded for a reason, or its observation is used. So the numbers add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Self


class Reason(NamedTuple):
    """The meaning of a count, and the remedy; `docs/data-quality.md` shows both."""

    meaning: str
    remedy: str


# An event counts under the first reason that applies.
DROPPED: Mapping[str, Reason] = MappingProxyType(
    {
        "without train_id": Reason("`train_id` is missing or blank", "write an id, or remove the rows at the source"),
        "without seq, op_id or planned_ts": Reason(
            "the event has no order, no place or no planned time", "write the value, or remove the rows at the source"
        ),
        "of an unknown event_type": Reason("`event_type` is not A, D or P", "translate the codes of the source"),
        "of another service date than the file": Reason(
            "`service_date` differs from the date in the file's name", "write each service date into its own file"
        ),
        "planned more than two days from the service date": Reason(
            "the planned time is not of this service date", "correct the date or the time zone of `planned_ts`"
        ),
        "of a second run under the same train_id": Reason(
            "a journey has a gap of more than `data.validation.max_gap_s` between two planned events, or of one hour "
            "where two events have the same `seq`; the longer part is kept",
            "give each run of a service date its own `train_id`",
        ),
        "with a duplicate key": Reason(
            "another event has the same `train_id`, `service_date` and `seq`; an observed event is kept before an "
            "unobserved one, else the first",
            "remove the duplicates at the source",
        ),
        "planned in an impossible order": Reason(
            "the planned time is earlier than at a lower `seq`, or later than at a higher one, and most other times of "
            "the journey contradict it",
            "correct `seq` or `planned_ts`",
        ),
    }
)
DISCARDED: Mapping[str, Reason] = MappingProxyType(
    {
        "later than data.validation.max_delay_s": Reason(
            "the delay is a recording error", "raise the limit if such delays are real"
        ),
        "earlier than data.validation.max_early_s": Reason(
            "the train was recorded far too early, for example by its previous run",
            "raise the limit if trains do run so early",
        ),
        "in an impossible order": Reason(
            "the train would have been here before it was at an earlier stop, or after it was at a later one; the "
            "observations that most others contradict are discarded",
            "none, or correct the clocks of the source; `data.validation.observation_order=keep` keeps them",
        ),
        "on time to the second, before an earlier stop": Reason(
            "a run of observations equal to the plan that begins before the train was seen at an earlier stop: these "
            "points were not measured, and claim the plan",
            "write null where a point is not measured; `data.validation.observation_order=keep` keeps them",
        ),
    }
)
NOTED: Mapping[str, Reason] = MappingProxyType(
    {
        "timestamps in an hour that daylight saving skips (read as missing)": Reason(
            "a time without a zone does not exist on this date", "write UTC, or times with an offset"
        ),
        "timestamps in an hour that daylight saving repeats": Reason(
            "a time without a zone exists twice. A planned time is the first of both, unless it would be earlier than "
            "the event before. An observed time is the one that is nearer to the planned time",
            "write UTC, or times with an offset",
        ),
        "with a delay_sec other than observed − planned (recomputed)": Reason(
            "the column contradicts the timestamps, and is ignored", "correct the column, or leave it out"
        ),
        "at a point that op_nodes does not know": Reason(
            "the event is used, but its point has no name and no position. Above `data.validation.max_unmatched_share` "
            "the file is refused",
            "add the points to `op_nodes.parquet`",
        ),
        "of a journey that journeys does not have": Reason(
            "the event is used, but its train type is unknown and its number is its `train_id`, so it has no history. "
            "Above `data.validation.max_unmatched_share` the file is refused",
            "write the rows of each new date into `journeys.parquet`, with the same `train_id`",
        ),
        "of a journey with several rows in journeys (the first counts)": Reason(
            "the rows may contradict each other, for example in `train_number`", "keep one row per journey"
        ),
        "cancelled but observed (used as observed)": Reason(
            "the train was seen at an event that is marked as cancelled", "correct the column `cancelled`"
        ),
        "known before it was observed (known when observed)": Reason(
            "`known_ts` is earlier than `observed_ts`", "correct the clocks of the source"
        ),
        "observations out of order (kept, but no input)": Reason(
            "`data.validation.observation_order=keep` is set. Such an observation is a label, but no input", "none"
        ),
    }
)
_KNOWN = {"dropped": DROPPED, "discarded": DISCARDED, "notes": NOTED}


@dataclass
class ReadingReport:
    """Numbers of events that reading kept, dropped and changed. Reports of different files add up.

    `read = kept + dropped` and `kept = cancelled + unobserved + discarded + labels`.
    """

    events: int = 0  # events read
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # events left out, per reason
    cancelled: int = 0
    unobserved: int = 0  # kept events without observation in the file
    discarded: Counter[str] = field(default_factory=Counter)  # observations taken as "not observed", per reason
    labels: int = 0  # events with an observation
    inputs: int = 0  # labels that become inputs once they are known
    notes: Counter[str] = field(default_factory=Counter)  # oddities of events that were kept, per reason

    def count(self, kind: str, reason: str, events: int) -> None:
        """Add events to the reason, without an entry for a reason that never occurred.

        Args:
            kind: `dropped`, `discarded` or `notes`.
        """
        if reason not in _KNOWN[kind]:
            raise ValueError(f"{reason!r} is no reason of {kind}")
        if events:
            getattr(self, kind)[reason] += int(events)

    def add(self, other: ReadingReport) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def adds_up(self) -> bool:
        return (
            self.events == self.kept + self.dropped.total()
            and self.kept == self.cancelled + self.unobserved + self.discarded.total() + self.labels
            and self.inputs <= self.labels
        )

    @classmethod
    def of_dict(cls, found: Mapping[str, Any]) -> Self:
        """Read back what `as_dict` returned."""
        counts: dict[str, Any] = {
            name: Counter(value) if isinstance(value, dict) else value for name, value in found.items()
        }
        return cls(**counts)

    def as_dict(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in found.items()}

    def rows(self) -> Iterator[tuple[str, int]]:
        """The account in the order of the subtraction: what is left, then each reason for the next smaller number."""
        yield "events read", self.events
        yield from ((f"− dropped: {reason}", count) for reason, count in self.dropped.most_common())
        yield "= events kept", self.kept
        if self.cancelled:
            yield "− cancelled", self.cancelled
        yield "− not observed", self.unobserved
        yield from ((f"− observation discarded: {reason}", count) for reason, count in self.discarded.most_common())
        yield "= used as labels", self.labels
        if self.inputs < self.labels:
            yield "− out of order", self.labels - self.inputs
        yield "= used as inputs", self.inputs
        yield from ((f"noted: {reason}", count) for reason, count in self.notes.most_common())

    def lines(self) -> list[str]:
        """The account for the task log, one line per number."""
        rows = list(self.rows())
        width = max(len(f"{count:,}") for _, count in rows)
        return [f"{count:>{width},}  {name}" for name, count in rows]
