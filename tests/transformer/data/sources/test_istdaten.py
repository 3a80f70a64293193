"""The Ist-Daten importer: what is measured, broken and mixed files, order, positions."""

from __future__ import annotations

import zipfile
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.transformer.data.sources.layouts import Call, IstDatenLayout, at, journey
from transformer.data.sources.catalogue import recognised
from transformer.data.sources.importing import import_source
from transformer.data.sources.istdaten import IstDaten
from transformer.data.sources.periods import dates_of_months
from transformer.data.tables import events_path
from transformer.errors import UserError

MONDAY, TUESDAY = date(2025, 1, 6), date(2025, 1, 7)
LAYOUT = IstDatenLayout()
Row = dict[str, str]


def rows_of(day: date = MONDAY) -> list[Row]:
    return [LAYOUT.row(call) for call in journey(day, f"{day} 08:00")]


def import_rows(folder: Path, rows: list[Row]) -> dict[str, int]:
    LAYOUT.write_rows(LAYOUT.path(folder / "raw", MONDAY), rows)
    return imported(folder)


def imported(folder: Path, *lines: list[str]) -> dict[str, int]:
    said = lines[0] if lines else list[str]()
    return import_source(IstDaten(), folder / "data", folder=folder / "raw", progress=said.append)


def events(folder: Path, day: date = MONDAY) -> pl.DataFrame:
    return pl.read_parquet(events_path(folder / "data", day))


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def day_file(folder: Path, day: date) -> bytes:
    LAYOUT.write_rows(folder / "day.csv", rows_of(day))
    return (folder / "day.csv").read_bytes()


@pytest.mark.parametrize(
    ("status", "time", "observed"),
    [
        ("REAL", "06.01.2025 09:12:31", True),
        ("GESCHAETZT", "06.01.2025 09:12:31", True),
        ("PROGNOSE", "06.01.2025 09:12:31", False),
        ("PROGNOSE", "", False),
        ("UNBEKANNT", "", False),
        ("REAL", "", False),
        ("", "06.01.2025 09:12:31", False),
    ],
)
def test_only_measured_times_are_observed(tmp_path: Path, status: str, time: str, observed: bool) -> None:
    rows = rows_of()
    rows[1] |= {"AN_PROGNOSE_STATUS": status, "AN_PROGNOSE": time}
    counts = import_rows(tmp_path, rows)
    assert events(tmp_path)["observed_ts"].null_count() == 1 - observed
    assert counts.get("changed_forecast", 0) == (time != "" and not observed)


def test_a_cancelled_row_has_no_observation(tmp_path: Path) -> None:
    rows = rows_of()
    rows[4] |= {"FAELLT_AUS_TF": "true"}
    counts = import_rows(tmp_path, rows)
    assert (counts["cancelled"], counts["observed"]) == (1, 7)


def test_other_modes_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = rows_of()
    others = [row | {"PRODUKT_ID": mode, "BPUIC": "857279002"} for row in rows for mode in ("Bus", "BUS", "Tram", "")]
    counts = import_rows(tmp_path, [row | {"PRODUKT_ID": "ZUG"} for row in rows] + others)
    assert counts["rows"] == 25
    assert (counts["dropped_no_train"], counts["dropped_unknown_mode"], counts["events"]) == (15, 5, 8)


def test_origin_and_terminus_at_the_minute_of_their_neighbours_stay_at_the_ends(tmp_path: Path) -> None:
    calls = [
        Call(MONDAY, 1, None, at("2025-01-06 08:00")),
        Call(MONDAY, 2, at("2025-01-06 08:00"), at("2025-01-06 08:00")),
        Call(MONDAY, 3, at("2025-01-06 08:00"), None),
    ]
    import_rows(tmp_path, [LAYOUT.row(call) for call in reversed(calls)])
    assert (events(tmp_path)["op_id"] - 8500000).to_list() == [1, 2, 2, 3]


def test_a_number_with_nine_digits_is_that_of_its_station(tmp_path: Path) -> None:
    rows = rows_of()
    rows[4]["BPUIC"] = "850000402"
    rows[3]["BPUIC"] = "85"
    assert import_rows(tmp_path, rows)["dropped_bad_point_number"] == 1
    assert events(tmp_path)["op_id"][-1] == 8500004


def test_lines_that_are_cut_inside_the_file_are_counted(tmp_path: Path) -> None:
    import_rows(tmp_path, rows_of())
    path = LAYOUT.path(tmp_path / "raw", MONDAY)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][: lines[2].index(";REAL")]
    lines[3] = lines[3][:20]
    path.write_text("\n".join(lines), encoding="utf-8")
    counts = imported(tmp_path)
    assert (counts["dropped_truncated_line"], counts["events"], counts["rows"]) == (2, 4, 5)


def test_a_quote_in_a_name_swallows_no_line(tmp_path: Path) -> None:
    rows = rows_of()
    rows[1]["HALTESTELLEN_NAME"] = "Zum"
    import_rows(tmp_path, rows)
    path = LAYOUT.path(tmp_path / "raw", MONDAY)
    path.write_text(path.read_text(encoding="utf-8").replace(";Zum;", ';"Zum;'), encoding="utf-8")
    assert imported(tmp_path)["events"] == 8


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_encodings_differ_from_file_to_file(tmp_path: Path, encoding: str) -> None:
    rows = [row | {"HALTESTELLEN_NAME": "Zürich HB"} for row in rows_of()]
    import_rows(tmp_path, rows)
    path = LAYOUT.path(tmp_path / "raw", MONDAY)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    other = tmp_path / "other"
    import_source(IstDaten(), other, folder=tmp_path / "raw", progress=lambda line: None)
    assert set(pl.read_parquet(other / "op_nodes.parquet")["op_name"]) == {"Zürich HB"}


# --- Monthly zips ----------------------------------------------------------------------------------------------------
def test_a_broken_member_of_a_month_is_named_and_the_others_are_imported(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "ist-daten-2025-01.zip"
    broken = date(2025, 1, 8)
    write_zip(
        path,
        {
            "25_01/2025-01-06_istdaten.csv": day_file(tmp_path, MONDAY),
            "2025-01-07_istdaten.csv": day_file(tmp_path, TUESDAY),
            "2025-01-08_istdaten.csv": day_file(tmp_path, broken),
            "2025-01-09_istdaten.csv": b"",
            "__MACOSX/25_01/._2025-01-06_istdaten.csv": b"\x00\x05\x16\x07",
            "readme.txt": b"junk",
        },
    )
    content = bytearray(path.read_bytes())
    at_name = content.index(b"08.01.2025;")
    content[at_name : at_name + 2] = b"XX"
    path.write_bytes(bytes(content))
    lines: list[str] = []
    counts = imported(tmp_path, lines)
    assert (counts["service_dates"], counts["events"], counts["dropped_unreadable_file"]) == (2, 16, 2)
    assert any("2025-01-08_istdaten.csv" in line for line in lines)
    assert any("2025-01-09_istdaten.csv" in line for line in lines)
    assert not events_path(tmp_path / "data", broken).exists()


@pytest.mark.parametrize("name", ["18_01.zip", "ist-daten-2025-01.zip", "ist-daten-v2-2025-07.zip"])
def test_a_zip_without_its_directory_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "raw" / name
    write_zip(path, {"2025-01-06_istdaten.csv": day_file(tmp_path, MONDAY)})
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=f"{name} is no complete zip") as caught:
        imported(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_archive_has_three_ways_to_name_a_month() -> None:
    days = dates_of_months("2018-01,2021-05..2021-06,2025-06..2025-07")
    addresses = [file.url for file in IstDaten().published(days)]
    assert [address.partition("/istdaten/")[2] for address in addresses] == [
        "2018/18_01.zip",
        "2021/21_05.zip",
        "2021/ist-daten-2021-06.zip",
        "2025/ist-daten-2025-06.zip",
        "2025/ist-daten-v2-2025-07.zip",
    ]
    with pytest.raises(UserError, match="2018-01"):
        IstDaten().published(dates_of_months("2017-12"))


def test_a_table_with_another_name_is_recognised_by_its_columns(tmp_path: Path) -> None:
    write_zip(tmp_path / "raw" / "19_03.zip", {"stops.txt": b"stop_id\n"})
    (tmp_path / "raw" / "notes.csv").write_text("a;b\n1;2\n", encoding="utf-8")
    assert recognised(tmp_path / "raw") is None
    LAYOUT.write_rows(tmp_path / "raw" / "part.csv", rows_of(), [*LAYOUT.columns, "_src"])
    [file] = IstDaten().find(tmp_path)
    assert (file.name, file.first, file.last) == ("part.csv", MONDAY, MONDAY)


# --- Positions -------------------------------------------------------------------------------------------------------
STOPS = """stop_id,stop_name,stop_lat,stop_lon,location_type,parent_station
8500001,"One, main",46.1234567,8.5,,
8500001:0:1,One,40.0,8.0,,Parent8500001
Parent8500002,Two,46.2,8.5,1,
8500002:0:1,Two,40.0,8.0,,Parent8500002
8500003:0:1,Three,46.3,8.1,,
8500003:0:2,Three,46.4,8.3,,
8500004P,Four,46.5,8.5,1,
8500004:0:1,Four,40.0,8.0,,
85000051,Five,40.0,8.0,,
"""


@pytest.mark.parametrize("way", ["table", "zip", "--points"])
def test_positions_are_those_of_the_station_or_the_mean_of_its_platforms(tmp_path: Path, way: str) -> None:
    LAYOUT.write_rows(LAYOUT.path(tmp_path / "raw", MONDAY), rows_of())
    points = None
    if way == "table":
        (tmp_path / "raw" / "stops.txt").write_text(STOPS, encoding="utf-8-sig")
    else:
        path = tmp_path / ("raw" if way == "zip" else "") / "gtfs_fp2025.zip"
        write_zip(path, {"stops.txt": STOPS.encode()})
        points = path if way == "--points" else None
    import_source(IstDaten(), tmp_path / "data", folder=tmp_path / "raw", points=points, progress=lambda line: None)
    nodes = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet").sort("op_id")
    assert nodes.select("op_name", "lat", "lon").rows() == [
        ("One, main", 46.12346, 8.5),
        ("Two", 46.2, 8.5),
        ("Three", 46.35, 8.2),
        ("Four", 46.5, 8.5),
    ]


def test_points_that_are_no_stops_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "gtfs.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="no table of stops"):
        IstDaten().points(tmp_path)
