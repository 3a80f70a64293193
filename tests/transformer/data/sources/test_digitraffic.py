"""The Digitraffic importer: ways to pack trains, what counts as observed, passing, categories, keys, downloads."""

from __future__ import annotations

import gzip
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.transformer.data.sources.layouts import Call, DigitrafficLayout, at, journey
from transformer.data.sources import digitraffic
from transformer.data.sources.catalogue import recognised
from transformer.data.sources.digitraffic import Digitraffic
from transformer.data.sources.importing import import_source
from transformer.data.sources.periods import dates_of_months
from transformer.data.tables import events_path
from transformer.errors import UserError

MONDAY = date(2025, 1, 6)
Train = dict[str, Any]


def train(number: int = 27, calls: list[Call] | None = None, **fields: object) -> Train:
    found = calls or journey(MONDAY, "2025-01-06 08:00", number)
    return DigitrafficLayout.train(found) | {"trainNumber": number} | fields


def import_trains(folder: Path, *trains: Train) -> dict[str, int]:
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / f"{MONDAY}_trains.json").write_text(json.dumps(trains), encoding="utf-8")
    return imported(folder)


def imported(folder: Path) -> dict[str, int]:
    return import_source(Digitraffic(), folder / "data", folder=folder / "raw", progress=lambda line: None)


def events(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(events_path(folder / "data", MONDAY))


def array(trains: list[Train]) -> bytes:
    return json.dumps(trains, indent=2).encode()


def lines(trains: list[Train]) -> bytes:
    return "\n".join(json.dumps(train, sort_keys=True) for train in trains).encode()


def zipped(trains: list[Train], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("2025-01-06_trains.json", array(trains))
        archive.writestr("2025-01-07_trains.json", b"[]")


PACKED: dict[str, Callable[[list[Train], Path], object]] = {
    "2025-01-06_trains.json": lambda trains, path: path.write_bytes(array(trains)),
    "2025-01-06_trains.json.gz": lambda trains, path: path.write_bytes(gzip.compress(array(trains))),
    "any_name.json": lambda trains, path: path.write_bytes(array(trains)),
    "packed_with_a_plain_name.json": lambda trains, path: path.write_bytes(gzip.compress(array(trains))),
    "part-00000.ndjson": lambda trains, path: path.write_bytes(lines(trains)),
    "digitraffic-rata-trains-2025-01-01.zip": zipped,
    "any_name.zip": zipped,
}


@pytest.mark.parametrize("name", PACKED)
def test_every_way_to_pack_trains_gives_the_same_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(digitraffic, "CHUNK", 1_000)
    monkeypatch.setattr(digitraffic, "TRAINS_AT_ONCE", 2)
    trains = [train(number) for number in (27, 28, 29)]
    (tmp_path / "raw").mkdir()
    PACKED[name](trains, tmp_path / "raw" / name)
    assert recognised(tmp_path / "raw") is not None
    counts = imported(tmp_path)
    assert (counts["events"], counts["journeys"], counts["rows"]) == (24, 3, 15)


def test_a_single_train_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "single.json").write_text(json.dumps(train(), indent=2), encoding="utf-8")
    assert imported(tmp_path)["events"] == 8


def test_two_files_of_a_date_are_both_read(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number, day in ((26, MONDAY - timedelta(days=1)), (27, MONDAY), (28, MONDAY)):
        found = train(number, departureDate=f"{day}")
        (tmp_path / "raw" / f"train_{number}.json").write_text(json.dumps(found), encoding="utf-8")
    assert imported(tmp_path)["journeys"] == 3


def test_other_json_files_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "stations.json").write_text('[{"stationUICCode": 1}]', encoding="utf-8")
    (tmp_path / "feed.json").write_text('{"entity": []}', encoding="utf-8")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    (tmp_path / "broken.json.gz").write_bytes(b"\x1f\x8b")
    assert Digitraffic().find(tmp_path) == []


def test_only_passenger_trains_are_kept(tmp_path: Path) -> None:
    others = [train(2, trainCategory="Cargo"), train(3, trainCategory="Locomotive"), train(4, trainCategory=None)]
    counts = import_trains(tmp_path, train(1), train(5, trainCategory="Long-distance", commuterLineID=""), *others)
    assert (counts["dropped_no_train"], counts["dropped_unknown_mode"], counts["rows"]) == (10, 5, 25)
    journeys = pl.read_parquet(tmp_path / "data" / "journeys.parquet")
    assert journeys.select("train_id", "train_type", "train_relation").rows() == [
        ("1", "regional", "L"),
        ("5", "long_distance", "HL"),
    ]


def test_a_cancelled_train_cancels_its_rows(tmp_path: Path) -> None:
    counts = import_trains(tmp_path, train(1), train(2, cancelled=True))
    assert (counts["cancelled"], counts["observed"]) == (8, 8)


def test_the_time_of_a_pass_is_that_of_its_departure(tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    calls[2] = Call(MONDAY, 3, at("2025-01-06 08:20", 3), at("2025-01-06 08:20", 4), passes=True)
    import_trains(tmp_path, train(1515, calls))
    passed = events(tmp_path).filter(pl.col("event_type") == "P")
    assert passed["delay_sec"].to_list() == [240]


def test_stations_of_two_countries_with_one_number_differ(tmp_path: Path) -> None:
    found = train()
    found["timeTableRows"][-1] |= {"countryCode": "RU", "stationUICCode": 1}
    import_trains(tmp_path, found)
    nodes = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet")
    assert {"fi:FI:1", "fi:RU:1"} <= set(nodes["source_id"])
    assert nodes["op_id"].n_unique() == 4


def test_the_newest_version_of_a_train_counts(tmp_path: Path) -> None:
    late = journey(MONDAY, "2025-01-06 09:00", 27)
    counts = import_trains(tmp_path, train(version=1), train(27, late, version=3), train(version=2))
    assert counts["events"] == 8 and counts["dropped_duplicate"] == 16
    assert f"{events(tmp_path)['planned_ts'][0]:%H:%M}" == "09:00"


def test_bad_times_are_counted(tmp_path: Path) -> None:
    found = train()
    rows = found["timeTableRows"]
    rows[1]["actualTime"], rows[3]["scheduledTime"], rows[5]["scheduledTime"] = "soon", "2099-01-06T08:00:00.000Z", None
    del rows[-1]["scheduledTime"]
    counts = import_trains(tmp_path, found)
    assert (counts["dropped_bad_time"], counts["dropped_no_planned_time"]) == (2, 1)


# --- Damaged files ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_trains_before_a_cut_are_used(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = pack(array([train(number) for number in range(40)]))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "2025-01-06_trains.json").write_bytes(content[: len(content) // 2])
    counts = imported(tmp_path)
    assert counts["dropped_truncated_line"] == 1
    assert 0 < counts["journeys"] < 40


def test_a_list_that_ends_after_a_whole_train_is_cut(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "2025-01-06_trains.json").write_bytes(array([train()]).rstrip(b"]\n"))
    assert imported(tmp_path)["dropped_truncated_line"] == 1


@pytest.mark.parametrize("fault", [b"<html>Bad gateway</html>", b'[{"a": }', b'{"trainNumber": 1}', b"\x1f\x8bcut"])
def test_a_file_of_something_else_is_one_line(tmp_path: Path, fault: bytes) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "2025-01-06_trains.json").write_bytes(fault)
    with pytest.raises(UserError, match="2025-01-06_trains") as caught:
        imported(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_train_inside_a_file_is_refused(tmp_path: Path) -> None:
    content = array([train(number) for number in range(5)]).replace(b'"trainNumber": 1,', b'"trainNumber": ,')
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "2025-01-06_trains.json").write_bytes(content)
    with pytest.raises(UserError, match="a train is no JSON"):
        imported(tmp_path)


# --- Downloads -------------------------------------------------------------------------------------------------------
def test_whole_months_are_zips_and_other_dates_are_files_of_a_day() -> None:
    days = [*dates_of_months("2025-02"), date(2025, 3, 2)]
    files = Digitraffic().published(days)
    api = "https://rata.digitraffic.fi/api/v1/"
    assert [file.url for file in files] == [
        f"{api}metadata/stations",
        f"{api}trains/dumps/digitraffic-rata-trains-2025-02-01.zip",
        f"{api}trains/2025-03-02",
    ]
    assert all(file.headers["Digitraffic-User"] for file in files)
    assert Digitraffic().published([]) == []


class _Api(BaseHTTPRequestHandler):
    """Answers as the API does: gzip for those who accept it and name themselves, and an error for others."""

    def do_GET(self) -> None:
        if self.headers["Accept-Encoding"] != "gzip" or not self.headers["Digitraffic-User"]:
            self.send_error(406)
            return
        trains = [train()] if "/trains/" in self.path else []
        body = gzip.compress(json.dumps(trains).encode())
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(digitraffic, "API", f"http://127.0.0.1:{server.server_port}/")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("api")
def test_a_packed_answer_is_stored_unpacked(tmp_path: Path) -> None:
    counts = import_source(Digitraffic(), tmp_path, [MONDAY], progress=lambda line: None)
    assert counts["events"] == 8
    assert json.loads((tmp_path / "raw" / "2025-01-06_trains.json").read_text(encoding="utf-8"))
    assert (tmp_path / "raw" / "stations.json").is_file()
