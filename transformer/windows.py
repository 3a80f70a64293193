"""Windows of service dates to evaluate a model on, beside the test dates of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Self

from transformer.errors import UserError


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
        window = cls(_date("--from", first), _date("--to", last))
        if window.first > window.last:  # type: ignore[operator]
            raise UserError(f"--from {first} is after --to {last}; exchange them")
        return window

    def dates(self, available: Sequence[date]) -> tuple[date, ...]:
        """The dates of this window among those that have data, sorted.

        Raises:
            UserError: there is none.
        """
        days = sorted(available)
        if self.count is not None:
            return tuple(days[-self.count :])
        assert self.first is not None and self.last is not None
        if not (found := tuple(day for day in days if self.first <= day <= self.last)):
            raise UserError(
                f"no events between --from {self.first} and --to {self.last}; there are dates from {days[0]} "
                f"to {days[-1]}"
            )
        return found


def window_name(days: Sequence[date]) -> str:
    """`2024-12-20..2024-12-21`: how metrics, tags and artifacts call an evaluation on these sorted dates."""
    return f"{days[0]}..{days[-1]}"


def _date(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text!r} is not a date; write 2024-12-21") from None
