"""The Infrabel importer: events by hand, clock changes, broken files, interrupted downloads."""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from tenacity import wait_none

from transformer.data.sources import download, infrabel
from transformer.data.sources.download import Progress, PublishedFile
from transformer.data.sources.importing import import_source
from transformer.data.sources.infrabel import Infrabel, raw_file_name
from transformer.data.sources.periods import dates_of_months, month_span
from transformer.data.tables import EVENT_SCHEMA, JOURNEY_SCHEMA, OP_NODE_SCHEMA, events_path
from transformer.errors import ServiceError, UserError

FIXTURES = Path(__file__).parent / "fixtures"
PUNCTUALITY = FIXTURES / "punctuality.csv"
OPERATIONAL_POINTS = FIXTURES / "operational_points.csv"

UNTIL_2025_07 = PUNCTUALITY.read_text(encoding="utf-8").splitlines()[0].split(",")
FROM_2025_08 = ["DATDEP", "CIRC_TYP", *(name for name in reversed(UNTIL_2025_07) if name not in ("DATDEP", "CIRC_TYP"))]
FROM_2025_09 = [*FROM_2025_08[:5], "OP1_COD", *FROM_2025_08[5:]]
OLDER = [name for name in UNTIL_2025_07 if name not in ("THOP1_COD", "CIRC_TYP")]
LAYOUTS = {"until 2025-07": UNTIL_2025_07, "2025-08": FROM_2025_08, "2025-09": FROM_2025_09, "older": OLDER}

Row = dict[str, str]


def quiet(line: str) -> None:
    pass


def import_infrabel(
    months: list[str],
    target: Path,
    source: Path | None = None,
    operational_points: Path | None = None,
    progress: Progress = quiet,
) -> dict[str, int]:
    days = dates_of_months(",".join(months))
    counts = import_source(Infrabel(), target, days, source, points=operational_points, progress=progress)
    return {name: count for name, count in counts.items() if name not in ("observed", "cancelled", "positions")}


def download_month(month: str, folder: Path, url: str, progress: Progress = quiet) -> Path:
    name = raw_file_name(month)
    file = PublishedFile(name, url + name, *month_span(int(month[:4]), int(month[5:])))
    download.download(file, folder / name, progress)
    return folder / name


def fixture_rows() -> list[Row]:
    with PUNCTUALITY.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_month(folder: Path, month: str, rows: list[Row], columns: list[str] = UNTIL_2025_07) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / raw_file_name(month)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(
    arrival: tuple[str, str] | None,
    departure: tuple[str, str] | None,
    *,
    service_date: str = "02JAN2025",
    day: str | None = None,
    point: int = 215,
    code: str = "=",
    train: str = "1515",
    relation: str = "IC 15",
) -> Row:
    """One row; `arrival` and `departure` are (planned, real) wall-clock times on `day`."""
    values = {
        "DATDEP": service_date,
        "TRAIN_NO": train,
        "RELATION": relation,
        "TRAIN_SERV": "SNCB/NMBS",
        "PTCAR_NO": str(point),
        "PTCAR_LG_NM_NL": f"POINT {point}",
        "THOP1_COD": code,
    }
    for side, times in (("ARR", arrival), ("DEP", departure)):
        for kind, clock in zip(("PLANNED", "REAL"), times or ("", ""), strict=True):
            values[f"{kind}_TIME_{side}"] = clock
            values[f"{kind}_DATE_{side}"] = (day or service_date) if clock else ""
    return values


def read_events(target: Path, day: str) -> pl.DataFrame:
    return pl.read_parquet(events_path(target, date.fromisoformat(day)))


def described(events: pl.DataFrame) -> list[tuple[str, int, int, str, str, str | None, int | None]]:
    """(train, seq, point, type, planned, observed, delay) with UTC times as text."""
    text = "%Y-%m-%d %H:%M:%S"
    columns = ["train_id", "seq", "op_id", "event_type", "planned_ts", "observed_ts", "delay_sec"]
    return events.select(columns).with_columns(pl.col("planned_ts", "observed_ts").dt.strftime(text)).rows()


def import_rows(folder: Path, month: str, rows: list[Row], columns: list[str] = UNTIL_2025_07) -> dict[str, int]:
    write_month(folder / "source", month, rows, columns)
    return import_infrabel([month], folder / "target", source=folder / "source")


# --- Tables ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_header_layout_gives_the_events_computed_by_hand(tmp_path: Path, layout: str) -> None:
    # OP1_COD is the opposite of THOP1_COD, to show that the importer does not read it.
    rows = [values | {"OP1_COD": "P" if values["THOP1_COD"] == "=" else "="} for values in fixture_rows()]
    counts = import_rows(tmp_path, "2025-01", rows, LAYOUTS[layout])

    # Brussels is one hour ahead of UTC in January; the train runs past midnight under its service date.
    crossing = read_events(tmp_path / "target", "2025-01-31")
    assert described(crossing) == [
        ("1515", 0, 220, "D", "2025-01-31 22:40:00", "2025-01-31 22:41:30", 90),
        ("1515", 1, 215, "A", "2025-01-31 22:44:00", "2025-01-31 22:45:10", 70),
        ("1515", 2, 215, "D", "2025-01-31 22:45:00", "2025-01-31 22:46:20", 80),
        ("1515", 3, 217, "P", "2025-01-31 22:50:00", "2025-01-31 22:51:05", 65),
        ("1515", 4, 221, "A", "2025-01-31 22:58:00", "2025-01-31 22:59:50", 110),
        ("1515", 5, 221, "D", "2025-01-31 22:58:00", "2025-01-31 23:00:40", 160),
        ("1515", 6, 9500, "A", "2025-01-31 23:10:00", "2025-01-31 23:09:30", -30),
    ]
    assert described(read_events(tmp_path / "target", "2025-01-02")) == [
        ("3117", 0, 215, "D", "2025-01-02 04:00:00", "2025-01-02 04:00:00", 0),
        ("3117", 1, 217, "P", "2025-01-02 04:04:00", "2025-01-02 04:04:10", 10),
        ("3117", 2, 220, "A", "2025-01-02 04:08:00", "2025-01-02 04:09:00", 60),
    ]
    assert crossing.schema == pl.Schema(EVENT_SCHEMA)
    assert crossing["service_date"].unique().to_list() == [date(2025, 1, 31)]
    assert not events_path(tmp_path / "target", date(2025, 2, 1)).exists()
    assert counts == {"rows": 8, "events": 10, "journeys": 2, "service_dates": 2, "op_nodes": 5}


def test_journeys_hold_number_relation_operator_type_and_span(tmp_path: Path) -> None:
    import_rows(tmp_path, "2025-01", fixture_rows())
    journeys = pl.read_parquet(tmp_path / "target" / "journeys.parquet")
    assert journeys.schema == pl.Schema(JOURNEY_SCHEMA)
    assert journeys.filter(train_id="1515").row(0, named=True) == {
        "train_id": "1515",
        "service_date": date(2025, 1, 31),
        "train_number": "1515",
        "train_type": "long_distance",
        "train_relation": "IC 15",
        "operator": "SNCB/NMBS",
        "start_op_id": 220,
        "end_op_id": 9500,
        "start_planned_ts": datetime(2025, 1, 31, 22, 40, tzinfo=UTC),
        "end_planned_ts": datetime(2025, 1, 31, 23, 10, tzinfo=UTC),
        "events_count": 7,
    }


def test_train_type_comes_from_the_relation(tmp_path: Path) -> None:
    expected = {
        "IC 03": "long_distance",
        "ICE": "long_distance",
        "EURST": "long_distance",
        "THAL": "long_distance",
        "S61-1": "regional",
        "L B1-1": "regional",
        "P": "regional",
        "EXTRA": "other",
        "LR_HKV": "other",
        "": "other",
    }
    rows = [
        row(None, ("08:00:00", "08:00:00"), train=str(number), relation=relation)
        for number, relation in enumerate(expected)
    ]
    import_rows(tmp_path, "2025-01", rows)
    journeys = pl.read_parquet(tmp_path / "target" / "journeys.parquet").sort("train_id")
    assert journeys["train_type"].to_list() == list(expected.values())
    assert journeys["train_relation"].to_list() == [*list(expected)[:-1], None]


def test_points_take_positions_from_the_list_and_unlisted_ones_keep_their_name(tmp_path: Path) -> None:
    write_month(tmp_path, "2025-01", fixture_rows())
    import_infrabel(["2025-01"], tmp_path / "target", source=tmp_path, operational_points=OPERATIONAL_POINTS)
    points = pl.read_parquet(tmp_path / "target" / "op_nodes.parquet")
    assert points.schema == pl.Schema(OP_NODE_SCHEMA)
    listed = [
        (215, "Bravo", 50.75, 4.5),
        (217, "Charlie", 51.0, 4.75),
        (220, "Alfa", 50.5, 4.25),
        (221, "Delta", 51.25, 5.0),
        (9500, "ECHO GRENS", None, None),
    ]
    assert points.rows() == listed

    import_infrabel(["2025-01"], tmp_path / "target", source=tmp_path)
    assert pl.read_parquet(tmp_path / "target" / "op_nodes.parquet").rows() == listed


def test_points_without_a_list_have_names_and_no_positions(tmp_path: Path) -> None:
    import_rows(tmp_path, "2025-01", fixture_rows())
    points = pl.read_parquet(tmp_path / "target" / "op_nodes.parquet")
    assert points.row(0) == (215, "BRAVO", None, None)
    assert points["lat"].null_count() == points.height == 5


# --- Stop or pass-through --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "arrival", "departure", "expected"),
    [
        ("=", ("08:00:00", "08:01:00"), ("08:00:00", "08:01:00"), [("A", 60), ("D", 60)]),
        ("D", ("08:00:00", "08:01:00"), ("08:00:00", "08:01:00"), [("P", 60)]),
        ("P", ("08:00:00", "08:01:00"), ("08:00:00", "08:03:00"), [("P", 180)]),  # held at a signal
        ("D", ("08:00:00", "08:01:00"), ("08:02:00", "08:03:00"), [("A", 60), ("D", 60)]),
        ("", ("08:00:00", "08:01:00"), ("08:00:00", "08:01:00"), [("P", 60)]),
        ("", ("08:00:00", "08:01:00"), ("08:00:00", "08:01:30"), [("A", 60), ("D", 90)]),
        ("", ("08:00:00", "08:01:00"), ("08:01:00", "08:01:00"), [("A", 60), ("D", 0)]),
        ("=", ("08:00:00", ""), ("08:01:00", "08:01:00"), [("A", None), ("D", 0)]),  # not observed
        (">", ("08:00:00", "08:00:00"), ("08:09:00", "08:09:00"), [("A", 0), ("D", 0)]),
    ],
)
def test_stops_and_pass_throughs(
    tmp_path: Path,
    code: str,
    arrival: tuple[str, str],
    departure: tuple[str, str],
    expected: list[tuple[str, int | None]],
) -> None:
    import_rows(tmp_path, "2025-01", [row(arrival, departure, code=code)])
    events = read_events(tmp_path / "target", "2025-01-02")
    assert events.select("event_type", "delay_sec").rows() == expected


def test_points_planned_in_the_same_second_keep_arrival_and_departure_together(tmp_path: Path) -> None:
    rows = [
        row(("08:00:00", "08:02:00"), ("08:00:00", "08:02:30"), point=1),
        row(("08:00:00", "08:01:00"), ("08:00:00", "08:01:30"), point=2),
    ]
    import_rows(tmp_path, "2025-01", rows)
    events = read_events(tmp_path / "target", "2025-01-02")
    assert events.select("seq", "op_id", "event_type").rows() == [(0, 1, "A"), (1, 1, "D"), (2, 2, "A"), (3, 2, "D")]


# --- Clock changes ---------------------------------------------------------------------------------------------------
def test_times_the_spring_change_skips_are_read_at_the_offset_before_it(tmp_path: Path) -> None:
    rows = [
        row(None, ("01:50:00", "01:55:00"), service_date="30MAR2025", point=1),  # 00:50 UTC
        row(("02:10:00", "03:12:00"), ("02:20:00", "03:20:00"), service_date="30MAR2025", point=2),
        row(("03:40:00", "03:39:00"), None, service_date="30MAR2025", point=3),
    ]
    import_rows(tmp_path, "2025-03", rows)
    assert described(read_events(tmp_path / "target", "2025-03-30")) == [
        ("1515", 0, 1, "D", "2025-03-30 00:50:00", "2025-03-30 00:55:00", 300),
        ("1515", 1, 2, "A", "2025-03-30 01:10:00", "2025-03-30 01:12:00", 120),
        ("1515", 2, 2, "D", "2025-03-30 01:20:00", "2025-03-30 01:20:00", 0),
        ("1515", 3, 3, "A", "2025-03-30 01:40:00", "2025-03-30 01:39:00", -60),
    ]


def test_in_the_hour_autumn_repeats_real_times_are_the_ones_near_the_plan(tmp_path: Path) -> None:
    rows = [
        row(None, ("01:55:00", "02:05:00"), service_date="25OCT2025", day="26OCT2025", point=1),
        row(("02:50:00", "02:10:00"), None, service_date="25OCT2025", day="26OCT2025", point=2),  # the second 02:10
        row(None, ("03:05:00", "02:58:00"), service_date="26OCT2025", point=3, train="9"),  # the second 02:58
    ]
    import_rows(tmp_path, "2025-10", rows)
    assert described(read_events(tmp_path / "target", "2025-10-25")) == [
        ("1515", 0, 1, "D", "2025-10-25 23:55:00", "2025-10-26 00:05:00", 600),
        ("1515", 1, 2, "A", "2025-10-26 00:50:00", "2025-10-26 01:10:00", 1200),
    ]
    assert described(read_events(tmp_path / "target", "2025-10-26")) == [
        ("9", 0, 3, "D", "2025-10-26 02:05:00", "2025-10-26 01:58:00", -420),
    ]


# --- Rows and files that are wrong -----------------------------------------------------------------------------------
def test_unusable_rows_are_dropped_and_counted_by_reason(tmp_path: Path) -> None:
    good = row(None, ("08:00:00", "08:00:00"))
    rows = [
        good,
        good | {"REAL_TIME_DEP": "08:09:00"},
        good | {"DATDEP": "2025-01-02"},
        good | {"DATDEP": "02JAN202"},
        good | {"TRAIN_NO": "IC15"},
        good | {"PTCAR_NO": ""},
        good | {"PLANNED_TIME_DEP": "8h00"},
        good | {"REAL_DATE_DEP": "02JAN202"},
        good | {"REAL_DATE_DEP": "31DEC9999"},
        good | {"PLANNED_TIME_DEP": ""},
        good | {"DATDEP": "31DEC2024"},
    ]
    assert import_rows(tmp_path, "2025-01", rows) == {
        "rows": 11,
        "events": 1,
        "journeys": 1,
        "service_dates": 1,
        "op_nodes": 1,
        "dropped_duplicate": 1,
        "dropped_bad_service_date": 2,
        "dropped_bad_train_number": 1,
        "dropped_bad_point_number": 1,
        "dropped_bad_time": 3,
        "dropped_no_planned_time": 1,
        "dropped_outside_dates": 1,
    }
    assert read_events(tmp_path / "target", "2025-01-02")["delay_sec"].to_list() == [0]


def test_a_file_with_another_name_is_known_by_its_columns(tmp_path: Path) -> None:
    write_month(tmp_path / "source", "2025-01", fixture_rows()).rename(tmp_path / "source" / "my copy.CSV")
    (tmp_path / "source" / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "source" / "empty.csv").touch()
    counts = import_source(Infrabel(), tmp_path / "target", folder=tmp_path / "source", progress=quiet)
    assert (counts["events"], counts["service_dates"]) == (10, 2)


def test_a_truncated_last_line_is_counted(tmp_path: Path) -> None:
    path = write_month(tmp_path, "2025-01", fixture_rows())
    text = path.read_text(encoding="utf-8").rstrip("\n")
    path.write_text(text[: text.rindex("ALFA,0") + 6], encoding="utf-8")
    counts = import_infrabel(["2025-01"], tmp_path / "target", source=tmp_path)
    assert counts["dropped_truncated_line"] == 1
    assert (counts["rows"], counts["events"]) == (8, 9)


def test_names_in_latin_1_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = write_month(tmp_path, "2025-01", [row(None, ("08:00:00", "08:00:00"))])
    text = path.read_text(encoding="utf-8").replace("POINT 215", "LIÈGE")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode("latin-1"))
    assert import_infrabel(["2025-01"], tmp_path / "target", source=tmp_path)["events"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<!DOCTYPE html>\n<html>moved</html>\n", r"202501\.csv .*HTML.*; remove it .*opendata\.infrabel\.be"),
        ("", r"202501\.csv .* DATDEP, TRAIN_NO.*; remove it .*opendata\.infrabel\.be"),
        (",".join(UNTIL_2025_07).replace("PTCAR_NO", "X"), r"202501\.csv .* columns PTCAR_NO; remove it"),
        (",".join(UNTIL_2025_07) + "\n", r"202501\.csv: no row .*usable; download it again"),
        (
            ",".join(UNTIL_2025_07) + '\n1,"2\n3,4\n',
            r"202501\.csv cannot be read \(.*\); remove it and download it again",
        ),
    ],
)
def test_a_file_that_is_not_this_csv_is_refused_and_the_target_stays(
    tmp_path: Path, content: str, message: str
) -> None:
    import_rows(tmp_path, "2025-01", fixture_rows())
    before = {path: path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file()}
    (tmp_path / "source" / raw_file_name("2025-01")).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        import_infrabel(["2025-01"], tmp_path / "target", source=tmp_path / "source")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file()} == before


def test_a_missing_file_and_a_wrong_list_of_points_are_refused(tmp_path: Path) -> None:
    write_month(tmp_path, "2025-01", fixture_rows())
    with pytest.raises(
        UserError, match=r"no Data_raw_punctuality_YYYYMM\.csv of 2025-02-01\.\.2025-02-28.*; name another"
    ):
        import_infrabel(["2025-01", "2025-02"], tmp_path / "target", source=tmp_path)
    with pytest.raises(UserError, match=r"punctuality\.csv .* ID, Geo Point, Nom NL complet; remove it"):
        import_infrabel(["2025-01"], tmp_path / "target", source=tmp_path, operational_points=PUNCTUALITY)


# --- Several months and again ----------------------------------------------------------------------------------------
def test_rows_of_one_service_date_in_two_files_end_in_one_events_file(tmp_path: Path) -> None:
    late = row(("23:50:00", "23:51:00"), None, service_date="31JAN2025", point=7)
    write_month(tmp_path, "2025-01", [row(None, ("23:40:00", "23:40:00"), service_date="31JAN2025"), late])
    after_midnight = row(("00:05:00", "00:06:00"), None, service_date="31JAN2025", day="01FEB2025", point=8)
    february = row(None, ("08:00:00", "08:00:00"), service_date="01FEB2025")
    write_month(tmp_path, "2025-02", [after_midnight, late, february])
    counts = import_infrabel(["2025-01", "2025-02"], tmp_path / "target", source=tmp_path)
    assert read_events(tmp_path / "target", "2025-01-31")["op_id"].to_list() == [215, 7, 8]
    assert counts["dropped_duplicate"] == 1
    assert counts["service_dates"] == 2

    import_infrabel(["2025-02"], tmp_path / "target", source=tmp_path)
    assert read_events(tmp_path / "target", "2025-01-31").height == 3


@pytest.mark.parametrize("name", ["journeys.parquet", "op_nodes.parquet"])
def test_an_earlier_import_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    import_rows(tmp_path, "2025-01", fixture_rows())
    for damage in (lambda path: path.write_bytes(b"PAR1"), pl.DataFrame({"a": [1]}).write_parquet):
        damage(tmp_path / "target" / name)
        with pytest.raises(UserError, match=rf"{name}.*; remove it .*import again$") as caught:
            import_rows(tmp_path, "2025-02", [row(None, ("08:00:00", "08:00:00"), service_date="01FEB2025")])
        assert "\n" not in str(caught.value)


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    def snapshot() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file()}

    counts = import_rows(tmp_path, "2025-01", fixture_rows())
    before = snapshot()
    assert import_rows(tmp_path, "2025-01", fixture_rows()) == counts
    assert snapshot() == before


def test_importing_a_month_again_replaces_its_dates_and_keeps_the_others(tmp_path: Path) -> None:
    import_rows(tmp_path, "2025-01", fixture_rows())
    import_rows(tmp_path, "2025-02", [row(None, ("08:00:00", "08:00:00"), service_date="01FEB2025", point=8)])
    import_rows(tmp_path, "2025-01", [row(None, ("09:00:00", "09:00:00"), service_date="03JAN2025", train="77")])
    target = tmp_path / "target"
    assert sorted(path.name for path in (target / "events").iterdir()) == [
        "events_2025-01-03.parquet",
        "events_2025-02-01.parquet",
    ]
    assert pl.read_parquet(target / "journeys.parquet").select("train_id", "service_date").rows() == [
        ("77", date(2025, 1, 3)),
        ("1515", date(2025, 2, 1)),
    ]
    assert {8, 215} <= set(pl.read_parquet(target / "op_nodes.parquet")["op_id"])


# --- Download --------------------------------------------------------------------------------------------------------
@dataclass
class FileServer:
    """An HTTP server of one file, which understands Range and If-Range and can break connections."""

    content: bytes
    etag: str | None = '"one"'
    cuts: list[int] = field(default_factory=list)  # body bytes after which each next connection ends
    heeds_if_range: bool = True
    statuses: list[int] = field(default_factory=list)  # answers before the file is served
    requests: list[tuple[str | None, int]] = field(default_factory=list)  # (Range header, status)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        same = not self.heeds_if_range or handler.headers.get("If-Range") in (self.etag, LAST_MODIFIED)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and same else 0
        if self.statuses:
            status = self.statuses.pop(0)
        elif not handler.path.endswith(raw_file_name("2025-01")):
            status = 404
        elif start and start >= len(self.content):
            status = 416
        else:
            status = 206 if start else 200
        self.requests.append((wanted, status))
        body = self.content[start:] if status < 300 else b""
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Last-Modified", LAST_MODIFIED)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if status in (206, 416):
            sent = f"{start}-{len(self.content) - 1}" if status == 206 else "*"
            handler.send_header("Content-Range", f"bytes {sent}/{len(self.content)}")
        handler.end_headers()
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


LAST_MODIFIED = "Mon, 03 Feb 2025 06:00:00 GMT"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FileServer]]:
    monkeypatch.setattr(download, "RETRY_WAIT", wait_none())
    running: list[ThreadingHTTPServer] = []

    def start(content: bytes, **options: object) -> FileServer:
        files = FileServer(content, **options)  # type: ignore[arg-type]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                files.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        files.url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(infrabel, "PUNCTUALITY_URL", files.url)
        return files

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def some_bytes(size: int, seed: int = 0) -> bytes:
    return bytes((seed + 31 * index) % 251 for index in range(size))


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
def test_a_cut_connection_is_resumed_where_it_ended(
    tmp_path: Path, serve: Callable[..., FileServer], etag: str | None
) -> None:
    content = some_bytes(400_000)
    server = serve(content, etag=etag, cuts=[200_000, 100_000])
    lines: list[str] = []
    path = download_month("2025-01", tmp_path, server.url, lines.append)
    assert path.read_bytes() == content
    assert [status for _, status in server.requests] == [200, 206, 206]
    offsets = [int(re.findall(r"\d+", wanted)[0]) for wanted, _ in server.requests if wanted]
    assert 0 < offsets[0] <= 200_000 < offsets[1] <= 300_000
    assert [file.name for file in tmp_path.iterdir()] == [raw_file_name("2025-01")]
    assert re.fullmatch(r"Data_raw_punctuality_202501\.csv: 0\.4 of 0\.4 MB \(100 %\), \d+\.\d\d MB/s", lines[-1])


def test_a_later_call_resumes_and_a_complete_file_is_not_fetched_again(
    tmp_path: Path, serve: Callable[..., FileServer]
) -> None:
    content = some_bytes(400_000)
    server = serve(content, cuts=[100_000] + [0] * (download.ATTEMPTS - 1))
    with pytest.raises(ServiceError, match=rf"202501\.csv: .*{server.url}.*; run the command again") as caught:
        download_month("2025-01", tmp_path, server.url)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / raw_file_name("2025-01")).exists()
    path = download_month("2025-01", tmp_path, server.url)
    assert path.read_bytes() == content
    assert server.requests[-1][1] == 206
    fetched = len(server.requests)
    assert download_month("2025-01", tmp_path, server.url) == path
    assert len(server.requests) == fetched


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_changed_on_the_server_starts_over(
    tmp_path: Path, serve: Callable[..., FileServer], heeds_if_range: bool
) -> None:
    server = serve(some_bytes(400_000), cuts=[150_000] + [0] * (download.ATTEMPTS - 1), heeds_if_range=heeds_if_range)
    with pytest.raises(ServiceError):
        download_month("2025-01", tmp_path, server.url)
    server.content, server.etag = some_bytes(300_000, seed=7), '"two"'
    assert download_month("2025-01", tmp_path, server.url).read_bytes() == server.content


@pytest.mark.parametrize("size", [400_000, 500_000])
def test_a_part_as_long_as_the_file_is_complete_and_a_longer_one_starts_over(
    tmp_path: Path, serve: Callable[..., FileServer], size: int
) -> None:
    content = some_bytes(400_000)
    server = serve(content)
    part = tmp_path / f"{raw_file_name('2025-01')}.part"
    part.write_bytes(some_bytes(size))
    part.with_name(f"{part.name}.validator").write_text('"one"', encoding="utf-8")
    assert download_month("2025-01", tmp_path, server.url).read_bytes() == content
    assert server.requests[0] == (f"bytes={size}-", 416)


def test_a_busy_server_is_asked_again(tmp_path: Path, serve: Callable[..., FileServer]) -> None:
    server = serve(some_bytes(1_000), statuses=[503, 429])
    assert download_month("2025-01", tmp_path, server.url).stat().st_size == 1_000


def test_a_month_the_server_lacks_is_named_in_one_line(tmp_path: Path, serve: Callable[..., FileServer]) -> None:
    server = serve(b"")
    with pytest.raises(
        UserError, match=r"2031-07-01 to 2031-07-31: .*203107\.csv .*404 Not Found; choose dates"
    ) as caught:
        import_infrabel(["2031-07"], tmp_path / "target")
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


def test_import_downloads_into_raw_and_reads_from_there(tmp_path: Path, serve: Callable[..., FileServer]) -> None:
    serve(PUNCTUALITY.read_bytes())
    lines: list[str] = []
    counts = import_infrabel(["2025-01"], tmp_path, progress=lines.append)
    assert counts["events"] == 10
    assert (tmp_path / "raw" / raw_file_name("2025-01")).read_bytes() == PUNCTUALITY.read_bytes()
    tables = {"events", "journeys.parquet", "op_nodes.parquet", "sources.json"}
    assert {path.name for path in tmp_path.iterdir()} == {*tables, "raw"}
    assert lines[-1].endswith("10 events of 2 journeys so far")
