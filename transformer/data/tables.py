"""The three tables every source writes and every stage reads: RIDE "Silver" events, points and journeys.

Layout of a data folder (arXiv 2606.05070): `events/events_YYYY-MM-DD.parquet` one per service date,
`op_nodes.parquet`, `journeys.parquet`. A journey is keyed by `(train_id, service_date)`.
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
    "train_id": Column(pl.String(), "of one journey a date; the key of all tables together with the date"),
    "service_date": Column(pl.Date(), "of the timetable: unchanged past midnight; that of the file's name"),
    "seq": Column(pl.Int16(), "order in the journey, from 0"),
    "op_id": Column(pl.Int32(), "operational point: station, junction or signal point"),
    "event_type": Column(pl.String(), "A arrival, D departure, P pass-through"),
    "planned_ts": Column(TIMESTAMP, "by the timetable; never earlier than that of the event before"),
    "observed_ts": Column(TIMESTAMP, 'null = not observed, never "on time"'),
    "delay_sec": Column(pl.Int32(), "observed - planned, null where not observed"),
}
OP_NODE_COLUMNS: dict[str, Column] = {
    "op_id": Column(pl.Int32(), "one row each"),
    "op_name": Column(pl.String(), "for reports and predictions"),
    "lat": Column(pl.Float64(), "degrees WGS 84; null where unknown"),
    "lon": Column(pl.Float64(), "likewise"),
}
JOURNEY_COLUMNS: dict[str, Column] = {
    "train_id": Column(pl.String(), "as in the events"),
    "service_date": Column(pl.Date(), "as in the events"),
    "train_number": Column(pl.String(), "the public number, stable from day to day; null = train_id"),
    "train_type": Column(pl.String(), 'such as long_distance or regional; null = "unknown"'),
    "train_relation": Column(pl.String(), "for people; no stage reads it, nor what follows"),
    "operator": Column(pl.String(), "railway undertaking"),
    "start_op_id": Column(pl.Int32(), "point of the first event"),
    "end_op_id": Column(pl.Int32(), "point of the last event"),
    "start_planned_ts": Column(TIMESTAMP, "planned time of the first event"),
    "end_planned_ts": Column(TIMESTAMP, "planned time of the last event"),
    "events_count": Column(pl.Int64(), "planned events"),
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
    """Write one service date's events, columns as in EVENT_SCHEMA, sorted by journey and order, atomically."""
    frame = events.select([pl.col(name).cast(dtype) for name, dtype in EVENT_SCHEMA.items()])
    write_parquet(events_path(folder, day), frame.sort("train_id", "seq"))


def write_op_nodes(folder: Path, op_nodes: pl.DataFrame) -> None:
    frame = op_nodes.select([pl.col(name).cast(dtype) for name, dtype in OP_NODE_SCHEMA.items()])
    write_parquet(op_nodes_path(folder), frame.sort("op_id"))


def write_journeys(folder: Path, journeys: pl.DataFrame) -> None:
    frame = journeys.select([pl.col(name).cast(dtype) for name, dtype in JOURNEY_SCHEMA.items()])
    write_parquet(journeys_path(folder), frame.sort("service_date", "train_id"))  # dates together


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
