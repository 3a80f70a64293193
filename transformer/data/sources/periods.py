"""The service dates that an import is asked for."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from datetime import date, timedelta

from transformer.errors import UserError


def dates_of_months(text: str) -> tuple[date, ...]:
    """Return the dates of months such as `2025-01..2025-03`, `2025-01` or a list of both with commas, sorted.

    Raises:
        UserError: a part is not a month, or the last month of a range is before the first.
    """
    months: set[int] = set()
    for part in text.split(","):
        first, separator, last = part.strip().partition("..")
        start = _month_number(first, text)
        end = _month_number(last, text) if separator else start
        if end < start:
            raise UserError(f"months {part.strip()!r} begins after its end; write the earlier month first")
        months.update(range(start, end + 1))
    return tuple(day for number in sorted(months) for day in dates_between(*month_span(number // 12, number % 12 + 1)))


def months_of(days: Iterable[date]) -> list[tuple[int, int]]:
    """The years and months of dates, sorted and without repeats."""
    return sorted({(day.year, day.month) for day in days})


def month_span(year: int, month: int) -> tuple[date, date]:
    """The first and the last date of a month."""
    return date(year, month, 1), date(year, month, calendar.monthrange(year, month)[1])


def dates_between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _month_number(text: str, whole: str) -> int:
    """Return the number of months since year 0."""
    match = re.fullmatch(r"(?!0000)(\d{4})-(0[1-9]|1[0-2])", text.strip())
    if not match:
        raise UserError(f"months {whole!r}: {text.strip()!r} is not a month; write 2025-01 or 2025-01..2025-03")
    return int(match[1]) * 12 + int(match[2]) - 1
