"""Evaluation rows in files are the same rows, by service date, and few of them are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from transformer.prediction import row_files
from transformer.prediction.columns import ROW_SCHEMA
from transformer.prediction.row_files import RowFiles, collect_parts, in_common, parts_of, write_rows

START = datetime(2024, 12, 20, 22, tzinfo=UTC)


@pytest.fixture
def rows() -> pl.DataFrame:
    """Six snapshots, from 22:00 on, of trains of two dates, with values that a coarser type would change."""
    n = 60
    snapshot = [START + timedelta(hours=k // 10) for k in range(n)]
    return pl.DataFrame(
        {
            "snapshot_ts": snapshot,
            "service_date": [date(2024, 12, 21 - (k % 10 < 5)) for k in range(n)],
            "train_id": [f"t{k % 10}" for k in range(n)],
            "train_number": [None if k % 3 else "7" for k in range(n)],
            "train_type": "regional",
            "op_id": list(range(n)),
            "event_type": "A",
            "rank": 200,
            "planned_ts": snapshot,
            "horizon_s": 0.1,
            "departed": [k % 2 == 0 for k in range(n)],
            "last_delay_s": 0.0,
            "observed_delay_s": [k / 7 for k in range(n)],
            "translation_delay_s": 1e-9,
            "predicted_delay_s": -1e9,
            "q05_delay_s": [k / 9 for k in range(n)],
        },
        schema={**ROW_SCHEMA, "q05_delay_s": pl.Float64()},
    )


@pytest.mark.parametrize("rows_at_a_time", [1, 17, 1_000])
def test_the_parts_are_the_rows_of_each_date_in_their_order(
    rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_a_time: int
) -> None:
    monkeypatch.setattr(row_files, "ROWS_AT_A_TIME", rows_at_a_time)
    written = write_rows(rows.iter_slices(10), tmp_path)
    assert (written.height, written.columns, written.schema) == (60, rows.columns, rows.schema)
    parts = {day: part.collect() for day, part in parts_of(written).items()}
    assert list(parts) == [date(2024, 12, 20), date(2024, 12, 21)]
    for day, part in parts_of(rows).items():
        assert_frame_equal(parts[day], part.collect(), check_exact=True)
        assert_frame_equal(parts[day], rows.filter(service_date=day), check_exact=True)


def test_rows_are_written_while_they_are_made(
    rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "ROWS_AT_A_TIME", 20)
    in_memory = []

    def made() -> Iterator[pl.DataFrame]:
        for index, frame in enumerate(rows.iter_slices(10)):
            written = sum(pl.read_parquet(path).height for path in tmp_path.rglob("*.parquet"))
            in_memory.append(10 * index - written)
            yield frame

    assert write_rows(made(), tmp_path).height == 60
    assert in_memory == [0, 10, 0, 10, 0, 10]


def test_without_a_row_there_is_no_part(rows: pl.DataFrame, tmp_path: Path) -> None:
    written = write_rows([rows.clear(), rows.clear()], tmp_path)
    assert (written.height, written.schema, parts_of(written)) == (0, rows.schema, {})
    counted = collect_parts(written, lambda part: part.select(pl.len()))
    assert counted.sum().item() == 0


def test_parts_are_collected_one_below_the_other(rows: pl.DataFrame, tmp_path: Path) -> None:
    written = write_rows(rows.iter_slices(10), tmp_path)
    found = collect_parts(written, lambda part: part.group_by("service_date").agg(pl.len()))
    assert found.rows() == [(date(2024, 12, 20), 30), (date(2024, 12, 21), 30)]


def test_rows_in_common_are_written_only_if_there_are_fewer(rows: pl.DataFrame, tmp_path: Path) -> None:
    written = write_rows([rows], tmp_path / "rows")
    same = write_rows([rows.reverse().with_columns(predicted_delay_s=5.0)], tmp_path / "same")
    assert in_common(written, same) is written
    assert in_common(rows, rows.reverse()) is rows
    for fewer in (rows.slice(7), rows.filter(service_date=date(2024, 12, 21)), rows.clear()):
        other = write_rows([fewer.with_columns(predicted_delay_s=5.0)], tmp_path / f"other {fewer.height}")
        found = in_common(write_rows([rows], tmp_path / f"rows {fewer.height}"), other)
        assert isinstance(found, RowFiles)
        kept = collect_parts(found, lambda part: part)
        assert_frame_equal(kept, fewer, check_row_order=False, check_exact=True)
        assert_frame_equal(in_common(rows, fewer), fewer, check_row_order=False, check_exact=True)
