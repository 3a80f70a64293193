"""The three tables that every source writes and every stage reads: RIDE "Silver" events, points and journeys.

A data folder (arXiv 2606.05070) has one `events/events_YYYY-MM-DD.parquet` per service date, `op_nodes.parquet` and
`journeys.parquet`. The key of a journey is `(train_id, service_date)`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import NamedTuple

import polars as pl

from transformer.parquet import write_parquet

ARRIVAL, DEPARTURE, PASS_THROUGH = "A", "D", "P"
EVENT_TYPES = (ARRIVAL, DEPARTURE, PASS_THROUGH)

JOURNEY = ["train_id", "service_date"]  # key of a journey, in every table
TIMESTAMP = pl.Datetime("us", "UTC")


class Column(NamedTuple):
    """Type and meaning of a column; the documentation site shows both."""

    dtype: pl.DataType
    meaning: str


EVENT_COLUMNS: dict[str, Column] = {
    "train_id": Column(pl.String(), "train; with the service date it is the key of a journey in all tables"),
    "service_date": Column(pl.Date(), "day in the timetable, as in the file's name; it does not change at midnight"),
    "seq": Column(pl.Int16(), "order in the journey, from 0"),
    "op_id": Column(pl.Int32(), "operational point: station, junction or signal point"),
    "event_type": Column(pl.String(), "A arrival, D departure, P pass-through"),
    "planned_ts": Column(TIMESTAMP, "time in the timetable; never earlier than that of the previous event"),
    "observed_ts": Column(TIMESTAMP, 'observed time; null = not observed, which does not mean "on time"'),
    "delay_sec": Column(pl.Int32(), "observed - planned, null where not observed"),
}
OP_NODE_COLUMNS: dict[str, Column] = {
    "op_id": Column(pl.Int32(), "operational point; one row per point"),
    "op_name": Column(pl.String(), "name in reports and predictions"),
    "lat": Column(pl.Float64(), "latitude, degrees WGS 84; null = unknown"),
    "lon": Column(pl.Float64(), "longitude, likewise"),
}
JOURNEY_COLUMNS: dict[str, Column] = {
    "train_id": Column(pl.String(), "as in the events"),
    "service_date": Column(pl.Date(), "as in the events"),
    "train_number": Column(pl.String(), "the public number, stable from day to day; null = train_id"),
    "train_type": Column(pl.String(), 'such as long_distance or regional; null = "unknown"'),
    "train_relation": Column(pl.String(), "for people, such as the line; no stage reads this or the following columns"),
    "operator": Column(pl.String(), "railway undertaking"),
    "start_op_id": Column(pl.Int32(), "point of the first event"),
    "end_op_id": Column(pl.Int32(), "point of the last event"),
    "start_planned_ts": Column(TIMESTAMP, "planned time of the first event"),
    "end_planned_ts": Column(TIMESTAMP, "planned time of the last event"),
    "events_count": Column(pl.Int64(), "planned events"),
}
OPTIONAL_EVENT_COLUMNS: dict[str, Column] = {
    "cancelled": Column(pl.Boolean(), "true = the train will not be here; null or no column = nothing is known"),
    "cancelled_ts": Column(
        TIMESTAMP,
        "time from which the cancellation is known; null or no column = the planned time of the journey's first "
        "cancelled event",
    ),
    "known_ts": Column(
        TIMESTAMP,
        "time at which the message with observed_ts arrived; null or no column = data.reporting_delay_s after it",
    ),
    "planned_platform": Column(
        pl.String(), "platform in the timetable, unique within its point; null or no column = unknown"
    ),
}
OPTIONAL_OP_NODE_COLUMNS: dict[str, Column] = {
    "source_id": Column(
        pl.String(), "id at the source, such as `fi:1000`, of a point that got its op_id at the import"
    ),
}
EVENT_SCHEMA = {name: column.dtype for name, column in EVENT_COLUMNS.items()}
OP_NODE_SCHEMA = {name: column.dtype for name, column in OP_NODE_COLUMNS.items()}
JOURNEY_SCHEMA = {name: column.dtype for name, column in JOURNEY_COLUMNS.items()}


def events_path(folder: Path, day: date) -> Path:
    return folder / "events" / f"events_{day.isoformat()}.parquet"


def op_nodes_path(folder: Path) -> Path:
    return folder / "op_nodes.parquet"


def journeys_path(folder: Path) -> Path:
    return folder / "journeys.parquet"


def write_events(folder: Path, day: date, events: pl.DataFrame) -> None:
    """Write the events of one service date atomically, sorted by train and `seq`.

    The columns are those of EVENT_SCHEMA, and the optional ones that `events` has.
    """
    optional = {name: column.dtype for name, column in OPTIONAL_EVENT_COLUMNS.items() if name in events.columns}
    frame = events.select([pl.col(name).cast(dtype) for name, dtype in {**EVENT_SCHEMA, **optional}.items()])
    write_parquet(events_path(folder, day), frame.sort("train_id", "seq"))


def write_op_nodes(folder: Path, op_nodes: pl.DataFrame) -> None:
    """Write the points atomically, with the columns of OP_NODE_SCHEMA and the optional ones that `op_nodes` has."""
    optional = {name: column.dtype for name, column in OPTIONAL_OP_NODE_COLUMNS.items() if name in op_nodes.columns}
    frame = op_nodes.select([pl.col(name).cast(dtype) for name, dtype in {**OP_NODE_SCHEMA, **optional}.items()])
    write_parquet(op_nodes_path(folder), frame.sort("op_id"))


def write_journeys(folder: Path, journeys: pl.DataFrame) -> None:
    frame = journeys.select([pl.col(name).cast(dtype) for name, dtype in JOURNEY_SCHEMA.items()])
    write_parquet(journeys_path(folder), frame.sort("service_date", "train_id"))  # a date's rows are adjacent


def journeys_from_events(events: pl.DataFrame, attributes: pl.DataFrame) -> pl.DataFrame:
    """Derive the journeys table from events.

    `attributes` holds `train_id, service_date, train_number, train_type, train_relation, operator` per journey.
    """
    spans = (
        events.sort(*JOURNEY, "seq")
        .group_by(JOURNEY, maintain_order=True)
        .agg(
            pl.col("op_id").first().alias("start_op_id"),
            pl.col("op_id").last().alias("end_op_id"),
            pl.col("planned_ts").first().alias("start_planned_ts"),
            pl.col("planned_ts").last().alias("end_planned_ts"),
            pl.len().cast(pl.Int64).alias("events_count"),
        )
    )
    return spans.join(attributes, on=JOURNEY, how="left").select(list(JOURNEY_SCHEMA))
