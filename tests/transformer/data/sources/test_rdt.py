"""The Dutch archive: zeros that mean "never reported", trains under several numbers, diversions, cancellations."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.transformer.data.sources.layouts import Call, RdtLayout, at, journey
from transformer.data.sources.importing import import_source
from transformer.data.sources.rdt import RijdenDeTreinen
from transformer.data.sources.source import Options
from transformer.data.tables import events_path
from transformer.errors import UserError

MONDAY = date(2025, 1, 6)
LAYOUT = RdtLayout()


def run(folder: Path, *, keep_zeros: bool = False) -> dict[str, int]:
    options = Options(keep_zeros=keep_zeros)
    return import_source(RijdenDeTreinen(), folder / "data", (), folder, options=options, progress=lambda line: None)


def write(folder: Path, *rows: dict[str, str], name: str = "services-2025-01.csv.gz") -> Path:
    """Write rows of the archive, with their stops in this order."""
    numbered = [{"Stop:RDT-ID": str(1_000 + number)} | row for number, row in enumerate(rows)]
    return LAYOUT.write_rows(folder / name, numbered)


def rows_of(calls: list[Call], **changes: str) -> list[dict[str, str]]:
    return [LAYOUT.row(call) | changes for call in calls]


def events(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(events_path(folder / "data", MONDAY))


def numbers(folder: Path) -> list[str]:
    return sorted(pl.read_parquet(folder / "data" / "journeys.parquet")["train_number"])


def on_time(train: int, points: tuple[int, int]) -> list[Call]:
    return [
        Call(MONDAY, points[0], None, at("2025-01-06 10:00"), train),
        Call(MONDAY, points[1], at("2025-01-06 10:10"), None, train),
    ]


def test_zeros_of_a_train_without_other_delays_are_not_observed(tmp_path: Path) -> None:
    calls = [*journey(MONDAY, "2025-01-06 08:00"), *on_time(99, (1, 2))]
    write(tmp_path, *rows_of(calls))
    counts = run(tmp_path)
    assert (counts["events"], counts["observed"], counts["changed_never_reported"]) == (10, 8, 2)
    assert run(tmp_path, keep_zeros=True)["observed"] == 10


def test_zeros_of_a_station_without_other_delays_are_not_observed(tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    calls[4] = Call(MONDAY, 77, at("2025-01-06 08:40"), None)
    write(tmp_path, *rows_of(calls))
    assert run(tmp_path)["changed_never_reported"] == 1
    assert events(tmp_path)["observed_ts"].is_null().to_list() == [False] * 7 + [True]


def test_a_train_that_was_late_on_another_date_is_on_time(tmp_path: Path) -> None:
    tuesday = replace(Call(MONDAY, 1, None, at("2025-01-07 10:00", 4), 99), day=date(2025, 1, 7))
    late_at_2 = Call(MONDAY, 2, None, at("2025-01-06 07:00", 3), 5)
    write(tmp_path, *rows_of([*on_time(99, (1, 2)), tuesday, late_at_2]))
    counts = run(tmp_path)
    assert counts["observed"] == counts["events"] == 4


def test_replacement_buses_are_no_trains(tmp_path: Path) -> None:
    train = rows_of(journey(MONDAY, "2025-01-06 08:00"))
    buses = ("Snelbus ipv trein", "Stopbus i.p.v. trein", "Taxi", "Metro ipv trein")
    write(tmp_path, *train, *(LAYOUT.row(on_time(900_500 + n, (1, 2))[0], kind) for n, kind in enumerate(buses)))
    counts = run(tmp_path)
    assert (counts["dropped_no_train"], counts["journeys"]) == (4, 1)


def test_a_train_under_several_numbers_is_one_train(tmp_path: Path) -> None:
    whole = journey(MONDAY, "2025-01-06 08:00", train=2452)
    part = [replace(call, train=3563) for call in whole[2:]]
    issued_again = [replace(call, train=302452) for call in whole]
    another = [replace(call, train=77) for call in journey(MONDAY, "2025-01-06 08:01")]
    write(tmp_path, *rows_of([*part, *whole, *issued_again, *another]))
    counts = run(tmp_path)
    assert numbers(tmp_path) == ["2452", "77"]
    assert counts["dropped_repeated_service"] == len(part) + len(issued_again)


def test_a_train_that_runs_stays_and_its_cancelled_record_goes(tmp_path: Path) -> None:
    cancelled = [replace(call, train=2452, cancelled=True) for call in journey(MONDAY, "2025-01-06 08:00")]
    runs = journey(MONDAY, "2025-01-06 08:00", train=302452)
    write(tmp_path, *rows_of([*cancelled, *runs]))
    counts = run(tmp_path)
    assert numbers(tmp_path) == ["302452"]
    assert (counts["cancelled"], counts["dropped_repeated_service"]) == (0, 5)


def test_a_diverted_train_is_left_out_whole(tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    appended = Call(MONDAY, 9, at("2025-01-06 08:15"), at("2025-01-06 08:16"))
    other = journey(MONDAY, "2025-01-06 09:00", train=1516)
    write(tmp_path, *rows_of([*calls, appended, *other]))
    counts = run(tmp_path)
    assert (counts["dropped_re_routed"], numbers(tmp_path)) == (6, ["1516"])


def test_a_stop_that_is_listed_twice_is_used_once(tmp_path: Path) -> None:
    rows = rows_of(journey(MONDAY, "2025-01-06 08:00"))
    twice = rows[1] | {"Stop:RDT-ID": "1001"}
    write(tmp_path, *rows, twice)
    counts = run(tmp_path)
    assert (counts["dropped_duplicate"], counts["events"]) == (1, 8)


def test_arrival_and_departure_are_cancelled_apart(tmp_path: Path) -> None:
    rows = rows_of(journey(MONDAY, "2025-01-06 08:00"))
    rows[1] |= {"Stop:Departure cancelled": "true"}
    write(tmp_path, *rows)
    assert run(tmp_path)["cancelled"] == 1
    stop = events(tmp_path).filter(pl.col("seq").is_in([1, 2]))
    assert stop["cancelled"].to_list() == [False, True]
    assert stop["observed_ts"].is_null().to_list() == [False, True]


def test_a_service_that_is_completely_cancelled_has_cancelled_events_only(tmp_path: Path) -> None:
    write(tmp_path, *rows_of(journey(MONDAY, "2025-01-06 08:00"), **{"Service:Completely cancelled": "true"}))
    counts = run(tmp_path)
    assert (counts["cancelled"], counts["observed"]) == (8, 0)


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    rows = rows_of(journey(MONDAY, "2025-01-06 08:00"))
    broken = [
        {"Service:Date": "06-01-2025"},
        {"Stop:Station code": ""},
        {"Stop:Arrival delay": "late"},
        {"Stop:Arrival time": "2031-01-06T10:00:00+01:00"},
        {"Stop:Arrival time": "", "Stop:Departure time": ""},
    ]
    write(tmp_path, *rows, *(rows[1] | change | {"Stop:RDT-ID": f"{2000 + n}"} for n, change in enumerate(broken)))
    counts = run(tmp_path)
    assert {name: count for name, count in counts.items() if name.startswith("dropped")} == {
        "dropped_bad_service_date": 1,
        "dropped_bad_point_number": 1,
        "dropped_bad_time": 2,
        "dropped_no_planned_time": 1,
    }


def test_a_plain_file_of_another_name_is_found_by_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path, *rows_of(journey(MONDAY, "2025-01-06 08:00")), name="january.csv")
    path.write_bytes(path.read_bytes()[:-80])
    [found] = RijdenDeTreinen().find(tmp_path)
    assert (found.first, found.last) == (MONDAY, MONDAY)
    counts = run(tmp_path)
    assert (counts["dropped_truncated_line"], counts["rows"], counts["events"]) == (1, 5, 7)


@pytest.mark.parametrize("keep_zeros", [False, True])
def test_a_gzipped_file_that_is_cut_off_is_one_line(tmp_path: Path, keep_zeros: bool) -> None:
    path = write(tmp_path, *rows_of(journey(MONDAY, "2025-01-06 08:00")))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"services-2025-01\.csv\.gz cannot be read .*download it again"):
        run(tmp_path, keep_zeros=keep_zeros)


def test_the_files_are_monthly_since_2023_and_yearly_before(tmp_path: Path) -> None:
    days = [date(2022, 3, 1), date(2022, 11, 1), date(2023, 2, 1), date(2023, 10, 1)]
    files = RijdenDeTreinen().published(days)
    names = ["stations-2023-09.csv", "services-2022.csv.gz", "services-2023-02.csv.gz", "services-2023-10.csv.gz"]
    assert [file.name for file in files] == names
    assert files[1].url == "https://opendata.rijdendetreinen.nl/public/services/services-2022.csv.gz"
    assert (files[1].first, files[1].last) == (date(2022, 1, 1), date(2022, 12, 31))
    write(tmp_path, *rows_of(journey(date(2022, 3, 7), "2022-03-07 08:00")), name="services-2022.csv.gz")
    assert run(tmp_path)["service_dates"] == 1


def test_stations_have_positions(tmp_path: Path) -> None:
    LAYOUT.write(tmp_path, journey(MONDAY, "2025-01-06 08:00"))
    run(tmp_path)
    points = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet").sort("source_id")
    assert points.select("source_id", "op_name", "lat", "lon").row(0) == ("nl:P1", "POINT 1", 52.01, 5.1)
    assert points["lat"].null_count() == 0
