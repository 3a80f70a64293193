"""German trains: three generations of columns, ids, made-up times, the hour of autumn, and recorded XML."""

from __future__ import annotations

import json
import logging
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.transformer.data.sources.layouts import Call, DbLayout, RdtLayout, RideLayout, at, journey
from transformer.data.sources.catalogue import recognised
from transformer.data.sources.db import DeutscheBahn
from transformer.data.sources.importing import import_source
from transformer.data.sources.infrabel import Infrabel
from transformer.data.sources.source import Options
from transformer.data.tables import events_path
from transformer.errors import UserError

MONDAY = date(2025, 1, 6)
LAYOUT = DbLayout()
NAME = "data-2025-01.parquet"


def run(folder: Path, *, keep_zeros: bool = False) -> dict[str, int]:
    options = Options(keep_zeros=keep_zeros)
    return import_source(DeutscheBahn(), folder / "data", (), folder, options=options, progress=lambda line: None)


def events(folder: Path, day: date = MONDAY) -> pl.DataFrame:
    return pl.read_parquet(events_path(folder / "data", day))


def journeys(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "data" / "journeys.parquet")


def frame() -> pl.DataFrame:
    return LAYOUT.frame(journey(MONDAY, "2025-01-06 08:00"))


def test_a_train_whose_changes_all_equal_the_plan_was_not_observed(tmp_path: Path) -> None:
    silent = Call(MONDAY, 1, None, at("2025-01-06 10:00"), 99)
    LAYOUT.write(tmp_path, [*journey(MONDAY, "2025-01-06 08:00"), silent])
    counts = run(tmp_path)
    assert (counts["events"], counts["observed"], counts["changed_never_reported"]) == (9, 8, 1)
    assert run(tmp_path, keep_zeros=True)["observed"] == 9


def test_only_sources_with_such_zeros_have_the_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="infrabel has no option --keep-zeros; leave it out"):
        import_source(
            Infrabel(), tmp_path / "data", (), tmp_path, options=Options(keep_zeros=True), progress=lambda line: None
        )


NEWER = ["is_additional_stop", "is_replacement_train", "replaced_train_type", "replaced_train_number"]
SPLIT = ["train_number", "line_number"]
BOTH = pl.col("departure_is_canceled").fill_null(False).alias("is_canceled")
GENERATIONS = {
    "names and whole stops": frame()
    .with_columns(BOTH, pl.lit("RE 1").alias("train_name"))
    .drop(*NEWER, *SPLIT, "arrival_is_canceled", "departure_is_canceled"),
    "numbers and whole stops": frame().with_columns(BOTH).drop(*NEWER, "arrival_is_canceled", "departure_is_canceled"),
    "sides": frame().drop(NEWER),
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_older_columns_give_the_same_events(tmp_path: Path, generation: str) -> None:
    frame().write_parquet(tmp_path / NAME)
    run(tmp_path)
    expected = events(tmp_path)
    GENERATIONS[generation].write_parquet(tmp_path / NAME)
    run(tmp_path)
    assert events(tmp_path).equals(expected)
    number = "-151500" if generation.startswith("names") else "1515"  # the hash is the same on each date
    assert journeys(tmp_path)["train_number"].to_list() == [number]


def test_a_cancelled_stop_of_older_files_is_cancelled_on_both_sides(tmp_path: Path) -> None:
    old = GENERATIONS["numbers and whole stops"]
    old.with_columns(is_canceled=pl.col("train_line_station_num") == 3).write_parquet(tmp_path / NAME)
    assert run(tmp_path)["cancelled"] == 2
    assert events(tmp_path).filter("cancelled")["observed_ts"].null_count() == 2


def test_rows_in_any_order_are_put_into_that_of_the_positions(tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / NAME)
    run(tmp_path)
    expected = events(tmp_path)
    frame().reverse().write_parquet(tmp_path / NAME)
    run(tmp_path)
    assert events(tmp_path).equals(expected)


def test_added_stops_buses_and_replacement_lines_are_left_out(tmp_path: Path) -> None:
    stop = frame().head(1)
    added = stop.with_columns(pl.lit(True).alias("is_additional_stop"), pl.lit("-151500-2501060900-97").alias("id"))
    buses = [
        stop.with_columns(pl.lit(category).alias("train_type"), pl.lit(line).alias("line_number"))
        for category, line in (("Bus", "RE18"), ("SEV", None), ("VIA", "SEV"), ("VIA", "EV 12"))
    ]
    pl.concat([frame(), added, *buses]).write_parquet(tmp_path / NAME)
    counts = run(tmp_path)
    assert (counts["dropped_additional_stop"], counts["dropped_no_train"], counts["events"]) == (1, 4, 8)


def test_a_train_that_goes_back_in_time_is_left_out_whole(tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    LAYOUT.write(tmp_path, [*calls, calls[1], *journey(MONDAY, "2025-01-06 09:00", train=1516)])
    assert run(tmp_path)["dropped_re_routed"] == 6
    assert journeys(tmp_path)["train_number"].to_list() == ["1516"]


def test_the_order_of_the_stops_tells_the_two_hours_of_autumn_apart(tmp_path: Path) -> None:
    night = date(2025, 10, 25)
    calls = [
        Call(night, 1, None, at("2025-10-26 00:40", 1)),  # 02:40 in summer time
        Call(night, 2, at("2025-10-26 01:10", 2), at("2025-10-26 01:11", 2)),  # 02:10 in winter time
        Call(night, 3, at("2025-10-26 01:50", 20), None),  # 02:50, observed at 03:10
    ]
    LAYOUT.write(tmp_path, [*calls, *journey(night, "2025-10-25 10:00", train=7)])
    run(tmp_path)
    found = events(tmp_path, night).filter(pl.col("train_id").str.starts_with("-151500"))
    assert found["planned_ts"].dt.strftime("%H:%M").to_list() == ["00:40", "01:10", "01:11", "01:50"]
    assert found["delay_sec"].to_list() == [60, 120, 120, 1200]


def test_a_file_of_another_name_is_found_by_its_columns(tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "january.parquet")
    [found] = DeutscheBahn().find(tmp_path)
    assert (found.first, found.last) == (MONDAY, MONDAY)


def test_files_of_other_sources_are_not_taken(tmp_path: Path) -> None:
    for layout in (RideLayout(), RdtLayout()):
        folder = tmp_path / layout.source.about.name
        layout.write(folder, journey(MONDAY, "2025-01-06 08:00"))
        assert DeutscheBahn().find(folder) == []
    assert recognised(tmp_path / "rdt").__class__.__name__ == "RijdenDeTreinen"


def test_times_as_text_are_refused_in_one_line(tmp_path: Path) -> None:
    frame().with_columns(pl.col("arrival_planned_time").cast(pl.String)).write_parquet(tmp_path / NAME)
    with pytest.raises(UserError, match="column 'arrival_planned_time' holds String, not timestamps"):
        run(tmp_path)


def test_positions_come_from_the_newest_answer_that_has_the_station(tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / NAME)
    write_stations(tmp_path / "stada-2025-01.json", {8_000_001: [8.0, 50.0], 8_000_002: [8.2, 50.2]})
    write_stations(tmp_path / "stada-2025-02.json", {8_000_001: [8.1, 50.1], 8_000_003: None})
    run(tmp_path)
    points = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet").select("op_id", "lat", "lon").rows()
    assert points == [
        (8_000_001, 50.1, 8.1),
        (8_000_002, 50.2, 8.2),
        (8_000_003, None, None),
        (8_000_004, None, None),
    ]
    (tmp_path / "stada-2025-02.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"stada-2025-02\.json is no answer of StaDa"):
        run(tmp_path)


def write_stations(path: Path, positions: dict[int, list[float] | None]) -> None:
    numbers = [
        {"number": number} | ({"geographicCoordinates": {"type": "Point", "coordinates": position}} if position else {})
        for number, position in positions.items()
    ]
    stations = [{"name": f"POINT {entry['number']}", "evaNumbers": [entry]} for entry in numbers]
    path.write_text(json.dumps({"total": len(stations), "result": stations}), encoding="utf-8")


# --- recorded XML ----------------------------------------------------------------------------------------------------
ORIGIN = '<s id="-11-2501060800-1"><tl f="N" t="p" o="800318" c="RE" n="18933"/><dp pt="2501060800" l="18"/></s>'
STOP = '<s id="-11-2501060800-2"><tl c="RE" n="18933"/><ar pt="2501060810" l="18"/><dp pt="2501060812" l="18"/></s>'
MESSAGE = '<m id="r1" t="d" c="43" ts="{}"/>'


def record(folder: Path, eva: int, kind: str, stops: str, hour: int = 8, day: str = "2025-01-06") -> Path:
    path = folder / day / f"{eva:08d}_{kind}_{hour:02d}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'<?xml version="1.0" ?><timetable station="POINT {eva}">{stops}</timetable>', encoding="utf-8")
    return path


def change(position: int, sides: str, recorded: str = "2501060830") -> str:
    return f'<s id="-11-2501060800-{position}" eva="1">{MESSAGE.format(recorded)}{sides}</s>'


def delays(folder: Path) -> list[float | None]:
    return [None if delay is None else delay / 60 for delay in events(folder)["delay_sec"]]


def test_a_stop_without_a_change_was_not_observed(tmp_path: Path) -> None:
    record(tmp_path, 1, "plan", ORIGIN)
    record(tmp_path, 2, "plan", STOP)
    record(tmp_path, 2, "fchg", change(2, '<ar ct="2501060815"/>'))
    assert run(tmp_path)["observed"] == 1
    assert delays(tmp_path) == [None, 5, None]
    journey = journeys(tmp_path).row(0, named=True)
    names = ("train_number", "train_type", "train_relation", "operator")
    assert [journey[name] for name in names] == ["18933", "regional", "18", "800318"]
    points = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet").select("op_id", "op_name").rows()
    assert points == [(1, "POINT 1"), (2, "POINT 2")]


def test_a_change_that_was_recorded_before_its_time_is_a_forecast(tmp_path: Path) -> None:
    record(tmp_path, 2, "plan", STOP)
    early = record(tmp_path, 2, "fchg", change(2, '<ar ct="2501060815"/>', recorded="2501060809"), hour=7)
    counts = run(tmp_path)
    assert (counts["observed"], counts["changed_forecast"]) == (0, 1)
    record(tmp_path, 2, "fchg", change(2, '<ar ct="2501060817"/>'))
    counts = run(tmp_path)
    assert delays(tmp_path) == [7, None] and "changed_forecast" not in counts
    early.unlink()


def test_a_change_of_the_next_date_belongs_to_the_stop(tmp_path: Path) -> None:
    record(tmp_path, 2, "plan", STOP)
    record(tmp_path, 2, "fchg", change(2, '<ar ct="2501060815"/>', recorded="2501070005"), day="2025-01-07")
    run(tmp_path)
    assert delays(tmp_path) == [5, None]


def test_cancelled_and_added_sides_of_recordings(tmp_path: Path) -> None:
    added = '<s id="-11-2501060800-97"><tl c="RE" n="18933"/><ar pt="2501060820" cs="a"/></s>'
    record(tmp_path, 2, "plan", STOP)
    record(tmp_path, 2, "fchg", change(2, '<ar ct="2501060815"/><dp cs="c" clt="2501060800"/>') + added)
    counts = run(tmp_path)
    assert (counts["cancelled"], counts["dropped_additional_stop"]) == (1, 1)
    assert events(tmp_path)["cancelled"].to_list() == [False, True]


def test_a_train_that_only_the_changes_know_is_used_on_the_date_of_its_plan(tmp_path: Path) -> None:
    extra = (
        '<s id="22-2501060855-3"><ar pt="2501060913" ct="2501060913"/><tl t="e" c="ICE" n="2956"/>'
        '<ref><tl c="ICE" n="756"/></ref></s>'
    )
    tomorrow = '<s id="23-2501070855-3"><ar pt="2501070913"/><tl t="e" c="ICE" n="1"/></s>'
    without_plan = '<s id="24-2501060855-3"><ar ct="2501060913"/></s>'
    record(tmp_path, 2, "plan", STOP)
    record(tmp_path, 2, "fchg", extra + tomorrow + without_plan + change(2, "", recorded="2501061000"))
    counts = run(tmp_path)
    assert sorted(journeys(tmp_path)["train_number"]) == ["18933", "2956"]
    assert (counts["observed"], counts["dropped_no_planned_time"]) == (1, 1)


def test_a_recording_that_is_broken_leaves_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path, 1, "plan", ORIGIN)
    broken = record(tmp_path, 2, "plan", STOP)
    broken.write_text(broken.read_text(encoding="utf-8")[:80], encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        counts = run(tmp_path)
    assert (counts["dropped_unreadable_file"], counts["events"]) == (1, 1)
    assert broken.name in caplog.text
    (tmp_path / "2025-01-06" / "00000001_plan_08.xml").unlink()
    with pytest.raises(UserError, match=r"00000002_plan_08\.xml: no file of its date can be read"):
        run(tmp_path)


def test_the_date_may_begin_the_name_and_other_xml_is_no_recording(tmp_path: Path) -> None:
    path = record(tmp_path, 1, "plan", ORIGIN)
    path.rename(tmp_path / f"2025-01-06_{path.name}")
    (tmp_path / "notes.xml").write_text("<notes/>", encoding="utf-8")
    record(tmp_path, 1, "plan", ORIGIN, day="yesterday")
    assert run(tmp_path)["events"] == 1
