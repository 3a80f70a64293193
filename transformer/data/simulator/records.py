"""Records of a simulated service date: rounded times, missing observations, and the event table."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.simulator.railway import Railway
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.simulator.timetable import TRAIN_TYPES, Timetable
from transformer.data.simulator.traffic import Played
from transformer.data.tables import ARRIVAL, DEPARTURE, PASS_THROUGH

Floats = npt.NDArray[np.float64]


def event_table(
    timetable: Timetable,
    played: Played,
    railway: Railway,
    day: date,
    *,
    config: SimulationConfig,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Return the recorded events of a service date, with the columns of EVENT_SCHEMA.

    A stop gives an arrival and a departure, the origin a departure, the terminus an arrival, a pass-through one event.
    """
    visits = np.arange(len(timetable.point))
    origin = timetable.section < 0
    terminus = np.isin(visits, timetable.first[1:] - 1)
    passes = ~timetable.stops
    arrives, departs = np.flatnonzero(~origin & ~passes), np.flatnonzero(~terminus | passes)
    visit = np.concatenate([arrives, departs])
    is_departure = np.repeat([False, True], [len(arrives), len(departs)])
    order = np.lexsort((is_departure, visit))
    visit, is_departure = visit[order], is_departure[order]

    journey = timetable.journey[visit]
    planned = np.where(is_departure, timetable.departure[visit], timetable.arrival[visit])
    actual = np.where(is_departure, played.departure[visit], played.arrival[visit])
    observed = np.round(actual / config.resolution_s) * config.resolution_s
    observed[_unobserved(timetable, visit, terminus[visit], config, rng)] = np.nan
    unrecorded = (rng.random(len(timetable.number)) < config.missing_first_stop_share)[journey] & origin[visit]

    seconds = pl.DataFrame({"planned": planned, "observed": observed}).with_columns(
        pl.all().fill_nan(None).cast(pl.Int64)
    )
    midnight = start_of(day, config.timezone)
    return (
        pl.DataFrame(
            {
                "train_id": train_ids(timetable)[journey],
                "service_date": pl.repeat(day, len(visit), eager=True),
                "op_id": railway.op_ids()[timetable.point[visit]],
                "event_type": np.select([passes[visit], is_departure], [PASS_THROUGH, DEPARTURE], ARRIVAL),
                "planned_ts": midnight + pl.Series(seconds["planned"] * 1_000_000).cast(pl.Duration("us")),
                "observed_ts": midnight + pl.Series(seconds["observed"] * 1_000_000).cast(pl.Duration("us")),
                "delay_sec": seconds["observed"] - seconds["planned"],
            }
        )
        .filter(pl.Series(~unrecorded))
        .with_columns(seq=pl.int_range(pl.len()).over("train_id"))
    )


def start_of(day: date, timezone: str) -> datetime:
    """Return noon minus 12 h: no hour of a service date is missing or double when the clocks change."""
    return datetime.combine(day, time_of_day(12), ZoneInfo(timezone)).astimezone(UTC) - timedelta(hours=12)


def journey_attributes(timetable: Timetable, railway: Railway, day: date) -> pl.DataFrame:
    """Return the attributes of each journey: train number, type, relation and operator."""
    names = np.array(railway.op_names())
    ends = names[timetable.point[timetable.first[:-1]]], names[timetable.point[timetable.first[1:] - 1]]
    return pl.DataFrame(
        {
            "train_id": train_ids(timetable),
            "service_date": pl.repeat(day, len(timetable.number), eager=True),
            "train_number": timetable.number.astype(str),
            "train_type": np.array([kind.name for kind in TRAIN_TYPES])[timetable.kind],
            "train_relation": [f"{start} - {end}" for start, end in zip(*ends, strict=True)],
            "operator": np.array(["Simulated Intercity", "Simulated Regional", "Simulated Freight"])[timetable.kind],
        }
    )


def rotation_table(timetable: Timetable, next_journey: npt.NDArray[np.int64], day: date) -> pl.DataFrame:
    """Return the journey from which the train set of each journey comes, with the columns of the input `rotation`.

    Args:
        next_journey: the next journey of each journey's train set, (T,); −1 = none.
    """
    ids, former = train_ids(timetable), np.flatnonzero(next_journey >= 0)
    dates = pl.repeat(day, len(former), eager=True)
    return pl.DataFrame(
        {
            "train_id": ids[next_journey[former]],
            "service_date": dates,
            "previous_train_id": ids[former],
            "previous_service_date": dates,
        }
    ).sort("train_id")


def train_ids(timetable: Timetable) -> npt.NDArray[np.str_]:
    """Return train ids that are the same on every date. They differ from the public numbers, to reveal mix-ups."""
    return np.char.add("S", timetable.number.astype(str))


def _unobserved(
    timetable: Timetable,
    visit: npt.NDArray[np.int64],
    terminus: npt.NDArray[np.bool_],
    config: SimulationConfig,
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    journeys = len(timetable.number)
    journey = timetable.journey[visit]
    silent = rng.random(journeys) < config.silent_share
    lengths = np.diff(timetable.first)
    silent_from = timetable.first[:-1] + rng.integers(1, np.maximum(2, lengths))
    return np.asarray(
        (terminus & (rng.random(len(visit)) < config.missing_terminus_share))
        | (rng.random(len(visit)) < config.missing_share)
        | (silent[journey] & (visit >= silent_from[journey]))
    )
