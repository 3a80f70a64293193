"""Windows of service dates to evaluate a model on, in addition to its test dates, and the names of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

from transformer.errors import UserError
from transformer.protocol import FROM, TO
from transformer.tracking.datasets import EVALUATION, TEST


@dataclass(frozen=True)
class Window:
    """Either the dates from `first` to `last`, both included, or the last `count` dates that have data."""

    first: date | None = None
    last: date | None = None
    count: int | None = None

    @classmethod
    def parse(cls, first: str | None, last: str | None, count: int | None) -> Self | None:
        """The window of the command-line options; None = no option is given.

        Raises:
            UserError: an option is wrong; the error names the option and its value.
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
        """The dates of this window that have data, sorted. The last dates are dates before `today`.

        Args:
            today: the date that is not over yet, so its data are incomplete.

        Raises:
            UserError: there is no such date.
        """
        days = sorted(available)
        if self.count is not None:
            if not (over := [day for day in days if day < today]):
                raise UserError(f"--last {self.count}: no date with events is over; the first date is {days[0]}")
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
    """The service dates of an evaluation, and its names in MLflow and in the run folder."""

    days: tuple[date, ...]
    name: str
    prefix: str  # of the names of its metrics, the same for every window
    context: str  # how the run with the results uses the event tables of these dates
    local: str  # folder of its files in the run folder

    @classmethod
    def of_test(cls, days: tuple[date, ...]) -> Self:
        """The scope of the test dates of a training."""
        return cls(days, "test", prefix="test", context=TEST, local="evaluation")

    @classmethod
    def of_dates(cls, days: tuple[date, ...]) -> Self:
        """The scope of a window's sorted dates."""
        name = window_name(days)
        return cls(days, name, prefix="window", context=EVALUATION, local=f"windows/{name}")

    def result_file(self, run_folder: Path) -> Path:
        """The file of the stage's result, next to the folder whose files become artifacts."""
        return run_folder / f"{self.local}.json"


def window_name(days: Sequence[date]) -> str:
    """`2024-12-20..2024-12-21`: the name of an evaluation on these sorted dates."""
    return f"{days[0]}..{days[-1]}"


def _date(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text!r} is not a date; write 2024-12-21") from None
