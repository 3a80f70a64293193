"""The content of event tables: what changes it, and what may change meanwhile."""

import shutil
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from transformer.config import DataConfig
from transformer.data.content import changed_tables, content_digest, listed, tables_content

DAYS = [date(2025, 1, 6), date(2025, 1, 7)]


@pytest.fixture
def data(sample_folder: Path, tmp_path: Path) -> DataConfig:
    shutil.copytree(sample_folder, tmp_path / "data")
    return DataConfig(local_folder=str(tmp_path / "data"))


def rewrite(data: DataConfig, table: str, change) -> None:
    path = Path(data.local_folder) / table
    frame = change(pl.read_parquet(path))
    path.unlink()
    frame.write_parquet(path)


def changed(data: DataConfig, table: str, change) -> list[str]:
    before = tables_content(data, DAYS)
    rewrite(data, table, change)
    return changed_tables(before, tables_content(data, DAYS))


def test_the_content_names_each_table_of_the_dates(data: DataConfig):
    assert sorted(tables_content(data, DAYS)) == [
        "events/events_2025-01-06.parquet",
        "events/events_2025-01-07.parquet",
        "journeys.parquet (2025-01-06)",
        "journeys.parquet (2025-01-07)",
        "op_nodes.parquet",
    ]


def test_the_digest_of_some_dates_follows_their_tables_alone(data: DataConfig):
    before = tables_content(data, DAYS)
    rewrite(data, "events/events_2025-01-07.parquet", lambda frame: frame.head(-1))
    after = tables_content(data, DAYS)
    assert content_digest(before, DAYS[:1]) == content_digest(after, DAYS[:1])
    assert content_digest(before, DAYS[1:]) != content_digest(after, DAYS[1:])
    assert content_digest(before, DAYS[:1]) == content_digest(tables_content(data, DAYS[:1]), DAYS[:1])
    assert content_digest(before, DAYS[:1]) != content_digest(before, DAYS[1:])


def test_other_events_and_one_point_more_are_named(data: DataConfig):
    events = "events/events_2025-01-07.parquet"
    assert changed(data, events, lambda frame: frame.head(-1)) == [events]
    point = pl.DataFrame({"op_id": [9_999]}, schema={"op_id": pl.Int32})
    assert changed(data, "op_nodes.parquet", lambda frame: pl.concat([frame, point], how="diagonal")) == [
        "op_nodes.parquet"
    ]


def test_journeys_count_by_the_rows_of_the_dates(data: DataConfig):
    """The table grows with each new date, and its rows may be in another order."""

    def grown(frame: pl.DataFrame) -> pl.DataFrame:
        later = frame.filter(pl.col("service_date") == DAYS[1]).with_columns(service_date=date(2026, 1, 1))
        return pl.concat([frame, later]).reverse()

    def renumbered(frame: pl.DataFrame) -> pl.DataFrame:
        other = pl.when(pl.col("service_date") == DAYS[1]).then(pl.lit("x")).otherwise("train_number")
        return frame.with_columns(train_number=other)

    assert changed(data, "journeys.parquet", grown) == []
    assert changed(data, "journeys.parquet", renumbered) == ["journeys.parquet (2025-01-07)"]
    assert changed(data, "journeys.parquet", lambda frame: frame.filter(pl.col("service_date") != DAYS[0])) == [
        "journeys.parquet (2025-01-06)"
    ]


def test_only_tables_that_both_have_are_compared():
    assert changed_tables({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ["b"]
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
