"""RIDE Silver as it is released: dates as text, naive times, whole months, no order column."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import huggingface_hub
import polars as pl
import pytest

from tests.transformer.data.sources.layouts import Call, RideLayout, at
from transformer.config import DataConfig, UseInputsConfig
from transformer.data.fetch import local_dates
from transformer.data.input_tables import input_lines, read_input_table
from transformer.data.sources.importing import import_source
from transformer.data.sources.ride import Ride
from transformer.data.tables import events_path
from transformer.errors import ServiceError, UserError

MONDAY = date(2025, 1, 6)


def run(folder: Path, target: Path, *days: date) -> dict[str, int]:
    return import_source(Ride(), target, days, folder, progress=lambda line: None)


def write(folder: Path, *calls: Call) -> Path:
    [path] = RideLayout().write(folder, calls)
    return path


def test_a_journey_has_its_relation_type_number_and_operator(tmp_path: Path) -> None:
    write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00"), train=10))
    run(tmp_path, tmp_path / "data")
    journey = pl.read_parquet(tmp_path / "data" / "journeys.parquet").row(0, named=True)
    attributes = ("train_id", "train_number", "train_type", "train_relation", "operator")
    assert [journey[name] for name in attributes] == ["10", "10", "long_distance", "IC 15", "SNCB/NMBS"]


def test_without_its_file_of_journeys_a_month_is_imported_and_types_are_unknown(tmp_path: Path) -> None:
    write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00")))
    (tmp_path / "journeys" / "journeys_202501.parquet").unlink()
    assert run(tmp_path, tmp_path / "data")["events"] == 1
    assert pl.read_parquet(tmp_path / "data" / "journeys.parquet")["train_type"].to_list() == [None]


def test_points_keep_their_numbers_and_positions(tmp_path: Path) -> None:
    write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00")), Call(MONDAY, 7, at("2025-01-06 08:10"), None))
    run(tmp_path, tmp_path / "data")
    points = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet")
    assert points.rows() == [(7, "POINT 7", 50.07, 4.0), (825, "POINT 825", 58.25, 4.0)]


def test_the_order_of_the_rows_tells_the_two_hours_of_autumn_apart(tmp_path: Path) -> None:
    night = date(2025, 10, 25)
    calls = [
        Call(night, 1, None, at("2025-10-26 00:40", 1)),  # 02:40 in summer time
        Call(night, 2, at("2025-10-26 01:10", 2), None),  # 02:10 in winter time
    ]
    write(tmp_path, *calls)
    run(tmp_path, tmp_path / "data", night)
    events = pl.read_parquet(events_path(tmp_path / "data", night))
    assert events["planned_ts"].to_list() == [
        datetime(2025, 10, 26, 0, 40, tzinfo=UTC),
        datetime(2025, 10, 26, 1, 10, tzinfo=UTC),
    ]
    assert events["delay_sec"].to_list() == [60, 120]


def test_rows_that_no_event_can_be_made_of_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, *(Call(MONDAY, point, None, at(f"2025-01-06 08:0{point}")) for point in range(1, 6)))
    frame = pl.read_parquet(path)
    nulls = {"service_date": 0, "train_id": 1, "op_id": 2, "planned_ts": 3}
    rows = pl.int_range(pl.len())
    frame.with_columns(
        pl.when(rows != row).then(pl.col(name)).alias(name) for name, row in nulls.items()
    ).write_parquet(path)
    counts = run(tmp_path, tmp_path / "data")
    reasons = ("bad_service_date", "bad_train_number", "bad_point_number", "no_planned_time")
    assert [counts[f"dropped_{reason}"] for reason in reasons] == [1, 1, 1, 1]
    assert counts["events"] == 1


def test_the_tables_of_weather_and_links_become_those_of_the_optional_inputs(tmp_path: Path) -> None:
    """The row of 08:00 in Brussels is known at 07:00 UTC, which is the end of its hour."""
    write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00")))
    static = tmp_path / "static"
    weather = {
        "op_id": [825], "time": [datetime(2025, 1, 6, 8)], "temperature_2m": [-1.5], "rain": [0.5], "snowfall": [0.7],
        "relative_humidity_2m": [90], "wind_speed_10m": [36.0],
    }  # fmt: skip
    pl.DataFrame(weather).write_parquet(static / "weather.parquet")
    links = {
        "link_id": [1, 2],
        "u_node_id": [825, 1],
        "v_node_id": [1, 2],
        "distance_m": [900.0, 50.0],
        "line_section_id": [7, 8],
    }
    pl.DataFrame(links).write_parquet(static / "node_links.parquet")
    pl.DataFrame({"line_section_id": [7, 7], "nb_tracks": [2, 2]}).write_parquet(static / "line_sections.parquet")
    data = tmp_path / "data"
    run(tmp_path, data)
    assert pl.read_parquet(data / "ride" / "weather.parquet").to_dict(as_series=False) == weather
    use = UseInputsConfig(weather=True, links=True)
    config = DataConfig(local_folder=str(data), timezone="Europe/Brussels")
    (row,) = read_input_table("weather", config, [MONDAY]).rows.rows(named=True)
    assert row["ts"] == datetime(2025, 1, 6, 6, tzinfo=UTC)
    assert (row["op_id"], row["temperature_c"], row["wind_m_s"]) == (825, -1.5, 10.0)
    assert row["precipitation_mm"] == pytest.approx(1.5)
    assert row["snowfall_cm"] == pytest.approx(0.7)
    found = read_input_table("links", config, [MONDAY]).rows
    assert found.sort("distance_m").select("u_node_id", "v_node_id", "distance_m", "nb_tracks").rows() == [
        (1, 2, 50.0, None),
        (825, 1, 900.0, 2.0),
    ]
    assert len(input_lines(config, [MONDAY], use))


def test_a_table_of_another_layout_is_kept_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00")))
    pl.DataFrame({"temperature": [3.5]}).write_parquet(tmp_path / "static" / "weather.parquet")
    run(tmp_path, tmp_path / "data")
    assert pl.read_parquet(tmp_path / "data" / "ride" / "weather.parquet").rows() == [(3.5,)]
    assert not (tmp_path / "data" / "weather.parquet").exists()
    (line,) = [message for message in caplog.messages if "weather.parquet is not made" in message]
    assert '"op_id"' in line and "\n" not in line


@pytest.mark.parametrize("damage", [b"PAR1", b""])
def test_a_damaged_month_is_one_line(tmp_path: Path, damage: bytes) -> None:
    path = write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00")))
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"events_202501\.parquet: truncated or not Parquet .*; download it again"):
        run(tmp_path, tmp_path / "data")


def test_times_that_are_no_timestamps_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00")))
    pl.read_parquet(path).with_columns(pl.col("planned_ts").cast(pl.Int64)).write_parquet(path)
    with pytest.raises(UserError, match=r"'planned_ts' holds Int64, not timestamps"):
        run(tmp_path, tmp_path / "data")


def test_a_folder_of_raw_files_names_the_command(tmp_path: Path) -> None:
    """As `fetch-files` meets it, if somebody names the downloaded folder as data."""
    write(tmp_path, Call(MONDAY, 825, None, at("2025-01-06 08:00")))
    with pytest.raises(UserError) as caught:
        local_dates(tmp_path)
    assert f"python -m transformer import ride --from {tmp_path} --to data/ride" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_download_that_fails_is_one_line_with_the_way_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*names: object, **settings: object) -> None:
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ServiceError, match=r"orailix/ride-silver failed \(Name .*known\).* with --from") as caught:
        import_source(Ride(), tmp_path / "data", [MONDAY], progress=lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_month_is_downloaded_and_a_missing_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def released(repository: str, *, repo_type: str, allow_patterns: list[str], local_dir: Path) -> None:
        assert (repository, repo_type) == ("orailix/ride-silver", "dataset")
        assert allow_patterns[1].startswith("events/events_2025")
        write(local_dir, Call(MONDAY, 825, None, at("2025-01-06 08:00")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", released)
    assert import_source(Ride(), tmp_path / "data", [MONDAY], progress=lambda line: None)["events"] == 1
    with pytest.raises(UserError, match=r"does not have events/events_202502\.parquet; choose months from 2023-01"):
        import_source(Ride(), tmp_path / "data", [date(2025, 2, 3)], progress=lambda line: None)


def test_every_month_is_two_files_and_the_points_one() -> None:
    names = [file.name for file in Ride().published([date(2024, 1, 31), date(2024, 2, 1)])]
    assert names == [
        "static/op_nodes.parquet",
        "events/events_202401.parquet",
        "journeys/journeys_202401.parquet",
        "events/events_202402.parquet",
        "journeys/journeys_202402.parquet",
    ]
