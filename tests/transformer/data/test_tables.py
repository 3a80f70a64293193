"""The three tables: their types, order and place, and journeys derived from events."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.exceptions import PolarsError

from transformer.config import ValidationConfig
from transformer.data.events import read_events, read_journeys
from transformer.data.points import read_op_nodes
from transformer.data.tables import (
    EVENT_SCHEMA,
    JOURNEY_SCHEMA,
    OP_NODE_SCHEMA,
    events_path,
    journeys_from_events,
    journeys_path,
    op_nodes_path,
    write_events,
    write_journeys,
    write_op_nodes,
)

DAY = date(2024, 12, 13)
NOON = datetime(2024, 12, 13, 12, tzinfo=UTC)


@pytest.fixture
def events() -> pl.DataFrame:
    """Journey `b` then `a`, two and three stops, out of order, in wider types than the schema's."""
    minutes = [("b", 1, 7, 20), ("b", 0, 8, 10), ("a", 2, 3, 30), ("a", 0, 1, 0), ("a", 1, 2, 15)]
    return pl.DataFrame(
        {
            "train_id": [train for train, *_ in minutes],
            "service_date": [DAY] * 5,
            "seq": [seq for _, seq, *_ in minutes],
            "op_id": [op_id for *_, op_id, _ in minutes],
            "event_type": ["A"] * 5,
            "planned_ts": [NOON + timedelta(minutes=minute) for *_, minute in minutes],
            "observed_ts": [NOON + timedelta(minutes=minute + 1) for *_, minute in minutes],
            "delay_sec": [60] * 5,
            "comment": ["not part of the table"] * 5,
        }
    )


@pytest.fixture
def attributes() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "train_id": ["a"],
            "service_date": [DAY],
            "train_number": ["100"],
            "train_type": ["regional"],
            "train_relation": ["x – y"],
            "operator": ["railway"],
        }
    )


def test_the_layout_of_a_data_folder(tmp_path: Path) -> None:
    assert events_path(tmp_path, DAY) == tmp_path / "events" / "events_2024-12-13.parquet"
    assert op_nodes_path(tmp_path) == tmp_path / "op_nodes.parquet"
    assert journeys_path(tmp_path) == tmp_path / "journeys.parquet"


def test_events_are_written_typed_and_sorted_and_read_back(tmp_path: Path, events: pl.DataFrame) -> None:
    write_events(tmp_path, DAY, events)
    written = pl.read_parquet(events_path(tmp_path, DAY))
    assert dict(written.schema) == EVENT_SCHEMA
    assert written.select("train_id", "seq").rows() == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    read, report = read_events(tmp_path, DAY, "UTC", ValidationConfig())
    assert read.drop("reported_ts", "known_ts", "cancelled_ts", "planned_platform").equals(written)
    assert report.kept == report.events == 5


def test_points_are_written_typed_and_sorted_and_read_back(tmp_path: Path) -> None:
    points = pl.DataFrame({"op_id": [2, 1], "op_name": ["b", "a"], "lat": [50, None], "lon": [4, None]})
    write_op_nodes(tmp_path, points)
    read = read_op_nodes(tmp_path)
    assert dict(read.schema) == OP_NODE_SCHEMA
    assert read.equals(pl.read_parquet(op_nodes_path(tmp_path)))
    assert read.rows() == [(1, "a", None, None), (2, "b", 50.0, 4.0)]


def test_journeys_are_derived_from_events(tmp_path: Path, events: pl.DataFrame, attributes: pl.DataFrame) -> None:
    journeys = journeys_from_events(events, attributes)
    write_journeys(tmp_path, journeys)
    written = pl.read_parquet(journeys_path(tmp_path))
    assert dict(written.schema) == JOURNEY_SCHEMA
    assert written.rows() == [
        (
            *("a", DAY, "100", "regional", "x – y", "railway"),
            *(1, 3, NOON, NOON + timedelta(minutes=30), 3),
        ),
        (
            *("b", DAY, None, None, None, None),  # nothing is known of it but its events
            *(8, 7, NOON + timedelta(minutes=10), NOON + timedelta(minutes=20), 2),
        ),
    ]
    read = read_journeys(tmp_path, [DAY], "UTC")
    assert read.rows() == [("a", DAY, "100", "regional"), ("b", DAY, "b", "unknown")]


def test_a_journey_is_keyed_by_its_service_date_too(events: pl.DataFrame, attributes: pl.DataFrame) -> None:
    tomorrow = events.with_columns(pl.col("service_date").dt.offset_by("1d"))
    journeys = journeys_from_events(pl.concat([events, tomorrow]), attributes)
    assert journeys.select("train_id", "service_date", "events_count").rows() == [
        ("a", DAY, 3),
        ("a", DAY + timedelta(days=1), 3),
        ("b", DAY, 2),
        ("b", DAY + timedelta(days=1), 2),
    ]


def test_a_value_that_does_not_fit_leaves_no_file(tmp_path: Path, events: pl.DataFrame) -> None:
    with pytest.raises(PolarsError):
        write_events(tmp_path, DAY, events.with_columns(pl.lit(40_000).alias("seq")))
    assert list(tmp_path.iterdir()) == []
