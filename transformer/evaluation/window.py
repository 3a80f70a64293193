"""Windows of service dates to evaluate a model on, beside the test dates of its training; how results are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

from transformer.errors import UserError
from transformer.protocol import FROM, TO


@dataclass(frozen=True)
class Window:
    """Either the dates from `first` to `last`, both included, or the last `count` of those that have data."""

    first: date | None = None
    last: date | None = None
    count: int | None = None

    @classmethod
    def parse(cls, first: str | None, last: str | None, count: int | None) -> Self | None:
        """A window of command-line options; None when none is given.

        Raises:
            UserError: naming the option and its value.
        """
        if first is None and last is None and count is None:
            return None
        if count is not None:
            if first is not None or last is not None:
                raise UserError(f"--last {count} and --from/--to are two windows; give one of them")
            if count < 1:
                raise UserError(f"--last {count} must be above 0")
            return cls(count=count)
        if first is None or last is None:
            raise UserError("--from and --to go together; give both, or --last N")
        window = cls(_date(FROM, first), _date(TO, last))
        if window.first > window.last:  # type: ignore[operator]
            raise UserError(f"--from {first} is after --to {last}; exchange them")
        return window

    def dates(self, available: Sequence[date], today: date) -> tuple[date, ...]:
        """The dates of this window among those that have data, sorted; the last dates are those before today's.

        Args:
            today: the date that is not over yet, of which the data say little.

        Raises:
            UserError: there is none.
        """
        days = sorted(available)
        if self.count is not None:
            if not (over := [day for day in days if day < today]):
                raise UserError(f"--last {self.count}: no date with events is over; the first of them is {days[0]}")
            return tuple(over[-self.count :])
        assert self.first is not None and self.last is not None
        if not (found := tuple(day for day in days if self.first <= day <= self.last)):
            raise UserError(
                f"no events between --from {self.first} and --to {self.last}; there are dates from {days[0]} "
                f"to {days[-1]}"
            )
        return found


@dataclass(frozen=True)
class Scope:
    """The service dates of an evaluation, and how MLflow and the run folder call it."""

    days: tuple[date, ...]
    name: str
    prefix: str  # of its metrics
    artifacts: str  # folder of its artifacts
    local: str  # folder of the same files in the run folder

    @classmethod
    def of_test(cls, days: tuple[date, ...]) -> Self:
        """Of the test dates of a training."""
        return cls(days, "test", prefix="test", artifacts="evaluation", local="evaluation")

    @classmethod
    def of_dates(cls, days: tuple[date, ...]) -> Self:
        """Of a window's dates, sorted."""
        name = window_name(days)
        return cls(days, name, prefix=f"window/{name}", artifacts=f"evaluation/{name}", local=f"windows/{name}")

    def result_file(self, run_folder: Path) -> Path:
        """The stage's result, beside the folder whose files become artifacts."""
        return run_folder / f"{self.local}.json"


def window_name(days: Sequence[date]) -> str:
    """`2024-12-20..2024-12-21`: how metrics, tags and artifacts call an evaluation on these sorted dates."""
    return f"{days[0]}..{days[-1]}"


def _date(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text!r} is not a date; write 2024-12-21") from None
