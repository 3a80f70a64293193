"""Events tables to read: rows that are easy to change, and a data folder that holds them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from transformer.data.tables import EVENT_SCHEMA, TIMESTAMP
from transformer.errors import UserError

DAY = date(2024, 12, 13)
NOON = datetime(2024, 12, 13, 12, tzinfo=UTC)


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def rows(*changes: dict[str, Any], schema: dict[str, Any] | None = None) -> pl.DataFrame:
    """One event of journey `a` per dictionary: planned every ten minutes, and three minutes late unless changed."""
    filled = []
    for seq, change in enumerate(changes):
        row = {
            "train_id": "a",
            "service_date": DAY,
            "seq": seq,
            "op_id": 10 + seq,
            "event_type": "A",
            "planned_ts": at(10 * seq),
            "observed_ts": at(10 * seq + 3),
            "delay_sec": 180,
        }
        filled.append(row | change)
    return pl.DataFrame(filled, schema=EVENT_SCHEMA | (schema or {}), orient="row")


def sound(n: int = 3) -> pl.DataFrame:
    return rows(*[{}] * n)


def whole_date(offset: int, hours: range = range(4, 23), per_hour: int = 8) -> pl.DataFrame:
    """The times of a date's events, `offset` days after `DAY`: as many in each of these hours."""
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) + timedelta(days=offset)
    planned = [midnight + timedelta(hours=hour, minutes=minute) for hour in hours for minute in range(per_hour)]
    columns = {"planned_ts": planned, "observed_ts": planned}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, TIMESTAMP))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)
