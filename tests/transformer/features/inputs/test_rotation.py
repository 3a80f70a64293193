"""Rotation: the vehicle's former journey against a loop, and no effect of the future or of another service date."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from tests.support.input_railway import Railway
from transformer.data.event_table import LoadedTable
from transformer.data.tables import JOURNEY, events_path, journeys_path

FAR_S = 7_200


def rotations(railway: Railway) -> pl.DataFrame:
    """Each journey comes from a random one that ends in the two hours before it; some come from the day before."""
    g = np.random.default_rng(3)
    journeys = pl.read_parquet(journeys_path(railway.folder))
    rows = []
    for train_id, day, start in journeys.select("train_id", "service_date", "start_planned_ts").iter_rows():
        near = journeys.filter(
            pl.col("service_date") == day,
            pl.col("end_planned_ts").is_between(start - timedelta(hours=2), start),
        )["train_id"].to_list()
        if near and g.random() < 0.9:
            rows.append((train_id, day, str(g.choice(near)), day))
        else:
            rows.append((train_id, day, train_id, day - timedelta(days=1)))
    columns = ("train_id", "service_date", "previous_train_id", "previous_service_date")
    return pl.DataFrame(rows, dict(zip(columns, (pl.String, pl.Date, pl.String, pl.Date), strict=True)), orient="row")


def cancel_stops(railway: Railway) -> None:
    """Cancel a fifth of the stops between the ends of journeys, an hour before each journey."""
    g = np.random.default_rng(4)
    for day in railway.days:
        events = pl.read_parquet(events_path(railway.folder, day))
        seq = pl.col("seq")
        inner = (seq > seq.min().over(JOURNEY)) & (seq < seq.max().over(JOURNEY))
        lost = inner & pl.Series(g.random(events.height) < 0.2)
        early = pl.col("planned_ts").min().over(JOURNEY) - pl.duration(hours=1)
        events.with_columns(
            pl.when(~lost).then(pl.col("observed_ts", "delay_sec")),
            cancelled=lost,
            cancelled_ts=pl.when(lost).then(early),
        ).write_parquet(events_path(railway.folder, day))


@pytest.mark.parametrize("cancelled", [False, True], ids=["all stops", "cancelled stops"])
def test_same_as_a_loop(railway: Railway, cancelled: bool) -> None:
    if cancelled:
        cancel_stops(railway)
    table = rotations(railway)
    table.write_parquet(railway.folder / "rotations.parquet")
    came = {(train, day): (previous, before) for train, day, previous, before in table.iter_rows()}

    def by_loop(loaded: LoadedTable, journey: int, event: int, t: int) -> tuple[float, ...] | None:
        events, runs = loaded.table, set(loaded.table.running.tolist())
        keys = [(row["train_id"], row["service_date"]) for row in loaded.journeys.to_dicts()]
        previous = came.get(keys[journey])
        if previous is None or previous[1] != keys[journey][1] or previous not in keys:
            return None
        if any(events.reported[e] <= t for e in range(events.start[journey], events.end[journey])):
            return None  # departed
        p = keys.index(previous)
        ahead = list(range(events.start[p], events.end[p]))
        if events.cancellation_known[p] <= t:
            ahead = [e for e in ahead if e in runs or events.reported[e] <= t]
        delay = 0
        while known := [e for e in ahead if events.reported[e] <= t]:
            delay = int(events.reported[known[-1]] - events.planned[known[-1]])
            ahead = [e for e in ahead if e > known[-1]]
        if len(ahead) > 1:
            delay = max(delay, t - int(events.planned[ahead[0]]))
        end = int(events.planned[events.end[p] - 1])
        turn = int(events.planned[events.start[journey]]) - end
        due = end + delay - t if ahead else 0
        return float(not ahead), delay, np.clip(due, -FAR_S, FAR_S), np.clip(delay - turn, -FAR_S, FAR_S)

    found = railway.assert_same_as("rotation", by_loop)
    known = found[:, -1] == 1
    assert known.sum() > 20 and not known.all()
    assert (found[known, 3] > 0).any() or (found[known, 3] < 0).any()


def test_a_vehicle_of_another_train_or_time_is_unknown(railway: Railway) -> None:
    day = railway.days[0]
    journeys = pl.read_parquet(journeys_path(railway.folder)).filter(service_date=day)
    last = journeys.sort("end_planned_ts")["train_id"][-1]
    own = journeys.select("train_id", "service_date", previous_service_date="service_date")
    for previous in (pl.lit("nobody"), pl.lit(last), pl.col("train_id")):  # absent, ends too late, itself
        own.with_columns(previous_train_id=previous).write_parquet(railway.folder / "rotations.parquet")
        assert not railway.batch("rotation").next_inputs.any()


def test_the_future_changes_nothing(railway: Railway) -> None:
    rotations(railway).write_parquet(railway.folder / "rotations.parquet")
    railway.assert_blind_to_the_future("rotation")
