"""Cancelled trains at the points ahead, against a loop, and only from when they are known."""

import numpy as np
import polars as pl
import pytest

from tests.support.input_railway import Railway
from transformer.data.event_table import LoadedTable
from transformer.data.tables import events_path
from transformer.errors import UserError

HOUR_S = 3_600


def cancel(railway: Railway) -> None:
    """Cancel the rest of some journeys. Half of these cancellations are known an hour before."""
    g = np.random.default_rng(4)
    for day in railway.days:
        path = events_path(railway.folder, day)
        events = pl.read_parquet(path)
        trains = events["train_id"].unique().sort()
        chosen = trains.filter(pl.Series(g.random(len(trains)) < 0.4)).to_list()
        gone = pl.col("train_id").is_in(chosen) & (pl.col("seq") >= 2)
        first = pl.col("planned_ts").filter(gone).min().over("train_id")
        early = pl.col("train_id").is_in(chosen[::2])
        events.with_columns(
            gone.alias("cancelled"),
            pl.when(gone).then(None).otherwise("observed_ts").alias("observed_ts"),
            pl.when(early).then(first - pl.duration(hours=1)).alias("cancelled_ts"),
        ).drop("delay_sec").write_parquet(path)


def test_same_as_a_loop(railway: Railway) -> None:
    cancel(railway)

    def by_loop(loaded: LoadedTable, journey: int, event: int, t: int) -> tuple[float, ...] | None:
        table = loaded.table
        runs = set(table.running.tolist())
        firsts: dict[int, int] = {}
        for other in np.flatnonzero(table.point == table.point[event]).tolist():
            j = int(table.journey[other])
            if other in runs or j == journey or table.day[j] != table.day[journey] or table.cancellation_known[j] > t:
                continue
            firsts.setdefault(j, int(table.planned[other]) - t)
        ahead = [0 <= planned < HOUR_S for planned in firsts.values()]
        before = [-HOUR_S <= planned < 0 for planned in firsts.values()]
        return float(sum(ahead)), float(sum(before))

    found = railway.assert_same_as("cancellations", by_loop)
    assert (found[:, 0] > 0).any() and (found[:, 1] > 0).any() and (found[:, 2] == 1).all()


def test_a_date_without_the_column_is_refused(railway: Railway) -> None:
    with pytest.raises(UserError, match=r"2025-01-06.parquet has no column 'cancelled', and model.use_inputs.cancell"):
        railway.inputs("cancellations")


def test_a_later_cancellation_changes_nothing(railway: Railway) -> None:
    cancel(railway)
    before = railway.batch("cancellations")
    middle = int(np.median(railway.instants))
    for day in railway.days:  # what is not known by then never happens
        path = events_path(railway.folder, day)
        events = pl.read_parquet(path)
        first = pl.col("planned_ts").filter("cancelled").min().over("train_id")
        known = pl.coalesce("cancelled_ts", first).dt.epoch("s") <= middle
        events.with_columns(pl.col("cancelled") & known.fill_null(False)).write_parquet(path)
    after = railway.batch("cancellations")
    past = before.instant <= middle
    kept = min(before.next_inputs.shape[1], after.next_inputs.shape[1])
    assert before.next_inputs[past, :, :, 0].any()
    np.testing.assert_array_equal(before.next_inputs[past, :kept], after.next_inputs[past, :kept])
