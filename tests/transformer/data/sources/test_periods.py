"""Months and dates that an import is asked for."""

import pytest

from transformer.data.sources.periods import dates_of_months
from transformer.errors import UserError


@pytest.mark.parametrize(
    ("text", "months"),
    [
        ("2025-01", ["2025-01"]),
        ("2024-11..2025-02", ["2024-11", "2024-12", "2025-01", "2025-02"]),
        ("2025-03, 2025-01..2025-02,2025-02", ["2025-01", "2025-02", "2025-03"]),
    ],
)
def test_months_are_sorted_and_unique(text: str, months: list[str]) -> None:
    days = dates_of_months(text)
    assert sorted({f"{day:%Y-%m}" for day in days}) == months
    assert list(days) == sorted(set(days))


@pytest.mark.parametrize(
    "text", ["", "2025", "2025-13", "0000-01", "202501", "2025-01..", "2025-1", "2025-03..2025-01", "a,b"]
)
def test_wrong_months_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"months .*; write ") as caught:
        dates_of_months(text)
    assert "\n" not in str(caught.value)
