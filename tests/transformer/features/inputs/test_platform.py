"""Trains at the planned platform, against a loop over trains, and no effect of the future."""

import numpy as np
import polars as pl
import pytest

from tests.support.input_railway import Railway
from transformer.data.event_table import LoadedTable
from transformer.data.tables import events_path
from transformer.errors import UserError

FAR_S, OLD_S = 7_200, 14_400


def assign(railway: Railway) -> None:
    """Two platforms at each point, the same for arrival and departure of a train; some are unknown or blank."""
    g = np.random.default_rng(6)
    for day in railway.days:
        path = events_path(railway.folder, day)
        events = pl.read_parquet(path)
        stops = events.select("train_id", "op_id").unique().sort("train_id", "op_id")
        platforms = pl.Series(g.choice(["1", "2b", " ", ""], stops.height, p=[0.45, 0.4, 0.05, 0.1]))
        stops = stops.with_columns(planned_platform=pl.when(platforms != "").then(platforms))
        events.join(stops, on=["train_id", "op_id"], maintain_order="left").write_parquet(path)


def test_same_as_a_loop(railway: Railway) -> None:
    assign(railway)
    names = {
        (row["train_id"], row["service_date"], row["op_id"]): (row["planned_platform"] or "").strip()
        for day in railway.days
        for row in pl.read_parquet(events_path(railway.folder, day)).to_dicts()
    }
    op_ids = railway.statistics.vocabulary.op_ids
    platforms: list[tuple[object, ...]] = []

    def by_loop(loaded: LoadedTable, journey: int, event: int, t: int) -> tuple[float, ...] | None:
        table = loaded.table
        if not platforms:
            keys = loaded.journeys.select("train_id", "service_date").rows()
            for e in range(table.n_events):
                train, day = keys[table.journey[e]]
                op_id = int(op_ids[table.point[e] - 1])
                platforms.append((day, op_id, names[train, day, op_id]))
        if not platforms[event][2]:
            return None
        there = [e for e, platform in enumerate(platforms) if platform == platforms[event]]
        known = [e for e in there if table.heard[e] and t - OLD_S < table.reported[e] <= t]
        newest = max(known, key=lambda e: (table.reported[e], e), default=None)
        delay, age = (
            (0, OLD_S)
            if newest is None
            else (int(table.reported[newest] - table.planned[newest]), t - int(table.reported[newest]))
        )
        ordered = sorted(there, key=lambda e: (table.planned[e], e))
        earlier = [e for e in ordered[: ordered.index(event)] if table.journey[e] != journey]
        gap = FAR_S
        if earlier:
            last, late, over = state(loaded, int(table.journey[earlier[-1]]), t)
            final = earlier[-1] + 1 == table.end[table.journey[earlier[-1]]]
            late = over if last < earlier[-1] and not final else late
            own = state(loaded, journey, t)[2]
            gap = int(table.planned[event]) + own - int(table.planned[earlier[-1]]) - late
        return delay, age, np.clip(gap, -FAR_S, FAR_S)

    found = railway.assert_same_as("platform", by_loop)
    assert 0.5 < found[:, -1].mean() < 1
    assert (found[:, 1] < OLD_S).any() and (found[:, 2] < 0).any() and (found[:, 2] == FAR_S).any()


def state(loaded: LoadedTable, journey: int, t: int) -> tuple[int, int, int]:
    """The last known event of a journey, its delay, and the translation."""
    table = loaded.table
    first, end = int(table.start[journey]), int(table.end[journey])
    known = [e for e in range(first, end) if table.reported[e] <= t]
    last = max(known, default=first - 1)
    late = int(table.reported[last] - table.planned[last]) if known else 0
    return last, late, max(late, t - int(table.planned[last + 1])) if last + 1 < end else late


def test_without_any_platform_everything_is_unknown(railway: Railway) -> None:
    for day in railway.days:
        path = events_path(railway.folder, day)
        pl.read_parquet(path).with_columns(planned_platform=pl.lit(None, pl.String)).write_parquet(path)
    assert not railway.batch("platform").next_inputs.any()


def test_a_date_without_the_column_is_refused(railway: Railway) -> None:
    with pytest.raises(UserError, match=r"2025-01-06.parquet has no column 'planned_platform', and model.use_inputs"):
        railway.inputs("platform")


def test_the_future_changes_nothing(railway: Railway) -> None:
    assign(railway)
    railway.assert_blind_to_the_future("platform")
