"""Tables of optional inputs: bad rows are counted or refused, and a changed table is noticed."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from transformer.config import DataConfig, UseInputsConfig
from transformer.data.content import changed_tables
from transformer.data.input_tables import input_content, input_lines, read_input_table, used_tables
from transformer.errors import UserError

DAY = date(2025, 1, 6)
NOON = datetime(2025, 1, 6, 12, tzinfo=UTC)
WEATHER = UseInputsConfig(weather=True)
SCHEMA = {"op_id": pl.Int64, "ts": pl.Datetime("us", "UTC"), "temperature_c": pl.Float64, "wind_m_s": pl.Float64}


def write(folder: Path, rows: list[tuple[int | None, datetime | None, float | None, float | None]]) -> DataConfig:
    pl.DataFrame(rows, SCHEMA, orient="row").write_parquet(folder / "weather.parquet")
    return DataConfig(local_folder=str(folder))


def many(count: int = 200) -> list[tuple[int | None, datetime | None, float | None, float | None]]:
    return [(op_id, NOON, 1.0, 2.0) for op_id in range(count)]


def test_rows_have_every_column_of_the_table(tmp_path: Path) -> None:
    found = read_input_table("weather", write(tmp_path, many(3)), [DAY])
    assert found.lines == ()
    assert found.rows.columns == ["op_id", "ts", "temperature_c", "precipitation_mm", "snowfall_cm", "wind_m_s"]
    assert found.rows["snowfall_cm"].null_count() == 3
    assert found.rows.schema["op_id"] == pl.Int32


def test_bad_rows_are_counted(tmp_path: Path) -> None:
    rows = [*many(), (None, NOON, 1.0, 1.0), (1, NOON, 5.0, 5.0), (900, NOON, -9999.0, 3.0)]
    found = read_input_table("weather", write(tmp_path, rows), [DAY])
    assert found.lines == (
        "weather.parquet: 1 of 203 rows without op_id or ts (dropped)",
        "weather.parquet: 1 of 203 rows with the op_id and ts of another row (dropped)",
        "weather.parquet: 1 of 203 values of temperature_c outside of -90 to 60 (read as missing)",
    )
    assert found.rows.height == 201
    assert found.rows.filter(op_id=1)["temperature_c"].to_list() == [1.0]  # the first one counts
    assert found.rows.filter(op_id=900)["temperature_c"].to_list() == [None]


def test_only_rows_near_the_dates_are_kept(tmp_path: Path) -> None:
    data = write(tmp_path, [(1, NOON + timedelta(days=shift), 1.0, 1.0) for shift in range(-5, 6)])
    assert read_input_table("weather", data, [DAY]).rows.height == 4
    far = read_input_table("weather", data, [date(2025, 3, 1)])
    assert far.lines == ("weather.parquet: no row of these dates, so the input is unknown everywhere",)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    data = DataConfig(local_folder=str(tmp_path))
    for use in (lambda: read_input_table("weather", data, [DAY]), lambda: input_content(data, [DAY], WEATHER)):
        with pytest.raises(UserError, match=r"weather.parquet does not exist, and model.use_inputs.weather=true reads"):
            use()
    table = pl.DataFrame(many(3), SCHEMA, orient="row")
    for frame, line in (
        (table.drop("ts"), r"weather.parquet: column 'ts' is missing; it has op_id, temperature_c, wind_m_s"),
        (
            table.select("op_id", "ts"),
            r"has none of the columns 'temperature_c', .*; add one .* or set .*=false",
        ),
        (table.with_columns(ts=pl.lit("noon")), r"column 'ts' has type String, not timestamps"),
        (table.clear(), r"weather.parquet has no rows; fill it or set model.use_inputs.weather=false"),
        (table.with_columns(op_id=pl.lit(7)), r"67% of its rows are unusable; mend the file or raise data.validation"),
    ):
        frame.write_parquet(tmp_path / "weather.parquet")
        with pytest.raises(UserError, match=line) as caught:
            read_input_table("weather", data, [DAY])
        assert "\n" not in str(caught.value)
    (tmp_path / "weather.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="truncated or not Parquet"):
        read_input_table("weather", data, [DAY])


def test_a_changed_date_is_noticed_and_a_further_date_is_not(tmp_path: Path) -> None:
    rows = many(5)
    data = write(tmp_path, rows)
    before = input_content(data, [DAY, DAY + timedelta(days=1)], WEATHER)
    assert list(before) == ["weather.parquet (2025-01-06)", "weather.parquet (2025-01-07)"]
    write(tmp_path, [*reversed(rows), (1, NOON + timedelta(days=3), 1.0, 1.0)])
    assert input_content(data, [DAY, DAY + timedelta(days=1)], WEATHER) == before
    write(tmp_path, [(1, NOON, 1.5, 1.0), *rows[1:]])
    assert changed_tables(before, input_content(data, [DAY], WEATHER)) == ["weather.parquet (2025-01-06)"]


def test_a_table_without_dates_has_one_digest(tmp_path: Path) -> None:
    links = pl.DataFrame({"u_node_id": [1, 1], "v_node_id": [2, 2], "nb_tracks": [1, 2]})
    links.write_parquet(tmp_path / "node_links.parquet")
    data, use = DataConfig(local_folder=str(tmp_path)), UseInputsConfig(links=True)
    found = read_input_table("links", data, [DAY])
    assert found.rows["nb_tracks"].to_list() == [1, 2]  # repetitions have a meaning
    before = input_content(data, [DAY], use)
    assert list(before) == ["node_links.parquet"]
    links.head(1).write_parquet(tmp_path / "node_links.parquet")
    assert changed_tables(before, input_content(data, [DAY], use)) == ["node_links.parquet"]


def test_no_table_is_read_by_default(tmp_path: Path) -> None:
    data = DataConfig(local_folder=str(tmp_path))
    assert used_tables(UseInputsConfig()) == {}
    assert input_content(data, [DAY], UseInputsConfig()) == {}
    assert input_lines(data, [DAY], UseInputsConfig()) == []


def test_the_account_names_the_rows(tmp_path: Path) -> None:
    assert input_lines(write(tmp_path, many(3)), [DAY], WEATHER) == ["weather.parquet: 3 rows of these dates"]
