"""Transfers between trains: the probability that a connection holds.

A transfer goes from a train that arrives at an operational point to another train that departs there. It holds if the
departure is at least the given minutes after the arrival. Its probability is the share of all pairs of sampled journeys
of the two trains in which it holds, since trains are independent of each other, given their snapshot. No train waits
for another in this probability, unless the predicted delays say so.

Only events that are predicted have transfers: the next `data.snapshot.n_foll` events of the trains in the snapshot. A
train enters the snapshot `data.snapshot.lead_s` before its first event.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.tables import JOURNEY
from transformer.errors import UserError

WITHIN_MIN = 60.0  # planned minutes between arrival and departure; a later train is no connection, but the next one
_PAIRS_AT_A_TIME = 2_000  # their journeys, 100 × 100 each, take 20 MB

FloatArray = npt.NDArray[np.floating[Any]]


def check_minutes(minutes: float, option: str) -> None:
    """Refuse a transfer time that no transfer within an hour can have.

    Raises:
        UserError: it is negative, not a number, or longer than an hour.
    """
    if not 0 <= minutes <= WITHIN_MIN or math.isnan(minutes):
        raise UserError(f"{option} {minutes:g} must be a number of minutes from 0 to {WITHIN_MIN:g}")


def transfers_path(predictions: Path) -> Path:
    """The file of the transfers next to that of the predictions: `delays_transfers.csv` for `delays.csv`."""
    return predictions.with_stem(f"{predictions.stem}_transfers")


def planned_transfers(rows: pl.DataFrame, minutes: float) -> pl.DataFrame:
    """All transfers that the timetable allows within an hour, in each snapshot.

    Args:
        rows: predicted events; columns snapshot_ts, JOURNEY, op_id, event_type, planned_ts.
        minutes: least time between the planned arrival and the planned departure.

    Returns:
        Columns `arrival` and `departure`: positions in `rows`, ascending.
    """
    events = rows.select("snapshot_ts", *JOURNEY, "op_id", "event_type", "planned_ts").with_row_index("row")
    arrivals, departures = (events.filter(event_type=kind).drop("event_type") for kind in ("A", "D"))
    gap = pl.col("planned_ts_departure") - pl.col("planned_ts")
    other_train = pl.any_horizontal(pl.col(name) != pl.col(f"{name}_departure") for name in JOURNEY)
    return (
        arrivals.join(departures, on=["snapshot_ts", "op_id"], suffix="_departure")
        .filter(gap.dt.total_seconds().is_between(60 * minutes, 60 * WITHIN_MIN), other_train)
        .select(pl.col("row").alias("arrival"), pl.col("row_departure").alias("departure"))
        .sort("arrival", "departure")
    )


def probabilities(transfers: pl.DataFrame, times: FloatArray, minutes: float) -> npt.NDArray[np.float64]:
    """The probability of each transfer.

    Args:
        transfers: see `planned_transfers`.
        times: [R, K] of sampled journeys, see `journeys.sample_times`.
        minutes: time that a transfer needs.
    """
    arrival, departure = (transfers[name].to_numpy() for name in ("arrival", "departure"))
    found = np.empty(transfers.height)
    for begin in range(0, transfers.height, _PAIRS_AT_A_TIME):
        part = slice(begin, begin + _PAIRS_AT_A_TIME)
        ready = times[arrival[part]] + 60 * minutes
        found[part] = (times[departure[part]][:, None, :] >= ready[:, :, None]).mean(axis=(1, 2))
    return found
