"""GTFS-Realtime: what counts as observed, the many layouts of recordings, and the oddities of feeds."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.transformer.data.sources.layouts import Call, GtfsRtLayout, at, journey
from transformer.data.sources.gtfs_rt import GtfsRt
from transformer.data.sources.gtfs_static import route_types
from transformer.data.sources.importing import import_source
from transformer.data.sources.ride import Ride
from transformer.data.sources.source import Options
from transformer.data.tables import events_path
from transformer.errors import UserError

MONDAY = date(2025, 1, 6)
LAYOUT = GtfsRtLayout()
TRIP = LAYOUT.trip_id(MONDAY, 1515)
Update = dict[str, Any]


def instant(clock: str) -> int:
    return int(datetime.fromisoformat(f"2025-01-06 {clock}").replace(tzinfo=UTC).timestamp())


def stop(number: int, point: int | str, **sides: Any) -> Update:
    """A stop update. A side is a predicted time such as `08:12`, or a delay in seconds."""
    events = {
        side: {"delay": value} if isinstance(value, int) else {"time": instant(value)} for side, value in sides.items()
    }
    return {"stop_sequence": number, "stop_id": f"S{point}"} | events


def entity(stops: Sequence[Update] | Update, trip: str = TRIP, **fields: Any) -> Update:
    named = {"trip_id": trip, "start_date": "20250106"} | fields
    named = {name: value for name, value in named.items() if value is not None}
    return {"id": trip, "trip_update": {"trip": named, "stop_time_update": stops}}


def write_feed(folder: Path, calls: Sequence[Call] | None = None) -> None:
    """The timetable of the five calls of `journey` at 08:00, without any snapshot."""
    LAYOUT.write(folder, calls or journey(MONDAY, "2025-01-06 08:00"))
    for path in folder.glob("*.json"):
        path.unlink()


def snapshot(folder: Path, clock: str, *entities: Update) -> Path:
    return LAYOUT.snapshot(folder, datetime.fromtimestamp(instant(clock), UTC), entities)


def run(folder: Path, target: Path, types: str = "") -> dict[str, int]:
    options = Options(route_types=types)
    return import_source(GtfsRt(), target, (), folder, options=options, progress=lambda line: None)


def observed(target: Path, day: date = MONDAY) -> list[str | None]:
    """`08:12` or null for each event: D 1, A 2, D 2, A 3, D 3, A 2, D 2, A 4 of `journey`."""
    events = pl.read_parquet(events_path(target, day))
    return events["observed_ts"].dt.strftime("%H:%M").to_list()


def imported(tmp_path: Path, *snapshots: tuple[str, Sequence[Update]]) -> list[str | None]:
    write_feed(tmp_path / "raw")
    for clock, entities in snapshots:
        snapshot(tmp_path / "raw", clock, *entities)
    run(tmp_path / "raw", tmp_path / "data")
    return observed(tmp_path / "data")


NOTHING = [None] * 8


def test_a_prediction_is_no_observation_before_its_time(tmp_path: Path) -> None:
    found = imported(tmp_path, ("08:05", [entity([stop(1, 1, departure="08:01"), stop(2, 2, arrival="08:13")])]))
    assert found == ["08:01", *NOTHING[1:]]


def test_a_stop_that_has_gone_while_the_trip_stayed_was_reached(tmp_path: Path) -> None:
    found = imported(
        tmp_path,
        ("08:12", [entity([stop(2, 2, arrival="08:13", departure="08:14"), stop(3, 3, arrival="08:24")])]),
        ("08:16", [entity([stop(3, 3, arrival="08:25")])]),
    )
    assert found == [None, "08:13", "08:14", *NOTHING[3:]]


@pytest.mark.parametrize(
    ("first", "last"),
    [("08:12", "08:12"), ("08:12", "08:13"), ("07:50", "08:30")],
    ids=["the trip has gone, too", "the trip was not seen after that time", "the prediction is old"],
)
def test_a_stop_that_has_gone_may_not_have_been_reached(tmp_path: Path, first: str, last: str) -> None:
    listed = entity([stop(2, 2, arrival="08:14")])
    later = [] if first == last else [entity([stop(4, 2, departure="09:00")])]
    assert imported(tmp_path, (first, [listed]), *([(last, later)] if later else []))[1] is None


def test_an_arrival_and_a_departure_may_come_in_different_snapshots(tmp_path: Path) -> None:
    """Feeds that list one event only, as a single object, with decimals; no other event gets its delay."""
    arrival, departure = stop(2, 2, arrival="08:13"), stop(2, 2, departure="08:15")
    arrival["arrival"]["time"] += 0.4
    found = imported(tmp_path, ("08:14", [entity(arrival)]), ("08:16", [entity(departure)]))
    assert found == [None, "08:13", "08:15", *NOTHING[3:]]


def test_delays_are_enough(tmp_path: Path) -> None:
    found = imported(tmp_path, ("08:30", [entity([stop(2, 2, arrival=180, departure=-60)])]))
    assert found == [None, "08:13", "08:11", *NOTHING[3:]]


def test_a_delay_that_is_wrong_by_a_day_is_put_right_and_counted(tmp_path: Path) -> None:
    write_feed(tmp_path / "raw")
    snapshot(tmp_path / "raw", "08:30", entity([stop(2, 2, arrival=180 - 86_400)]))
    counts = run(tmp_path / "raw", tmp_path / "data")
    assert observed(tmp_path / "data")[1] == "08:13"
    assert counts["changed_whole_day"] == 1


def test_without_a_start_date_the_timetable_tells_the_service_date(tmp_path: Path) -> None:
    """A trip that leaves before midnight, seen after it. The feed gives times of one stop, delays of another."""
    write_feed(tmp_path / "raw", journey(MONDAY, "2025-01-06 22:45"))
    updates = [stop(3, 3, arrival="23:08", departure="23:09"), stop(4, 2, arrival=120)]
    snapshot(tmp_path / "raw", "12:00", entity([], start_date=None))  # so that the recording has that date
    snapshot(tmp_path / "raw", "23:30", entity(updates, start_date=None))
    import_source(GtfsRt(), tmp_path / "data", [MONDAY], tmp_path / "raw", progress=lambda line: None)
    assert observed(tmp_path / "data") == [None, None, None, "23:08", "23:09", "23:17", None, None]


def test_a_cancelled_trip_keeps_what_was_observed_before(tmp_path: Path) -> None:
    write_feed(tmp_path / "raw")
    snapshot(tmp_path / "raw", "08:05", entity([stop(1, 1, departure="08:01")]))
    snapshot(tmp_path / "raw", "08:06", entity([], schedule_relationship="CANCELED"))
    counts = run(tmp_path / "raw", tmp_path / "data")
    events = pl.read_parquet(events_path(tmp_path / "data", MONDAY))
    assert events["cancelled"].to_list() == [False] + [True] * 7
    assert (counts["observed"], counts["cancelled"]) == (1, 7)


def test_a_stop_that_has_gone_from_a_cancelled_trip_was_not_reached(tmp_path: Path) -> None:
    before, after = entity(stop(2, 2, arrival="08:14")), entity([], schedule_relationship="CANCELED")
    assert imported(tmp_path, ("08:12", [before]), ("08:16", [after])) == NOTHING


def test_a_time_that_is_days_off_is_no_observation(tmp_path: Path) -> None:
    write_feed(tmp_path / "raw")
    update = stop(2, 2) | {"arrival": {"time": instant("08:13") - 5 * 86_400}}
    snapshot(tmp_path / "raw", "08:30", entity(update))
    counts = run(tmp_path / "raw", tmp_path / "data")
    assert (counts["changed_far_time"], counts["observed"]) == (1, 0)


def test_a_trip_that_does_not_change_is_seen_until_its_last_snapshot(tmp_path: Path) -> None:
    same = [entity([stop(1, 1, departure="08:01"), stop(2, 2, arrival="08:13")])]
    found = imported(tmp_path, *((clock, same) for clock in ("08:00", "08:05", "08:13")))
    assert found == ["08:01", "08:13", *NOTHING[2:]]


def test_a_call_that_is_not_skipped_any_more_is_not_cancelled(tmp_path: Path) -> None:
    skipped = stop(2, 2) | {"schedule_relationship": 1}
    found = imported(tmp_path, ("08:00", [entity(skipped)]), ("08:15", [entity(stop(2, 2, arrival="08:13"))]))
    assert found[1] == "08:13"
    events = pl.read_parquet(events_path(tmp_path / "data", MONDAY))
    assert not events["cancelled"].any()


def test_no_data_is_no_observation(tmp_path: Path) -> None:
    silent = stop(2, 2) | {"schedule_relationship": "NO_DATA"}
    first = entity(stop(2, 2, arrival="08:13"))
    assert imported(tmp_path, ("08:12", [first]), ("08:20", [entity(silent)])) == NOTHING


@pytest.mark.parametrize("changed", ["P2", "S2_7", "Other"])
def test_another_platform_of_the_station_is_the_same_call(tmp_path: Path, changed: str) -> None:
    update = stop(2, 2, arrival="08:13") | {"stop_id": changed}
    assert imported(tmp_path, ("08:30", [entity(update)]))[1] == "08:13"


def test_stops_without_numbers_or_with_other_numbers_are_found_by_station(tmp_path: Path) -> None:
    """The train visits station 2 twice. The feed has dropped its first stops, or counts from zero."""
    updates = [stop(2, 3, arrival="08:24"), stop(3, 2, arrival="08:36"), stop(4, 4, arrival="08:47")]
    bare = [{name: value for name, value in update.items() if name != "stop_sequence"} for update in updates]
    expected = [None, None, None, "08:24", None, "08:36", None, "08:47"]
    assert imported(tmp_path / "numbers", ("08:50", [entity(updates)])) == expected
    assert imported(tmp_path / "bare", ("08:50", [entity(bare)])) == expected


def test_trips_without_a_timetable_are_used_if_the_feed_has_their_plan(tmp_path: Path) -> None:
    """The plan is the predicted time minus the delay, if the route is one of trains; else they are counted."""
    write_feed(tmp_path / "raw")
    planned = {"stop_id": "S2", "departure": {"time": instant("08:13"), "delay": 180 - 86_400}}
    added = {"schedule_relationship": "ADDED"}
    snapshot(
        tmp_path / "raw",
        "08:30",
        entity(planned, trip="plan", route_id="R", **added),
        entity(stop(2, 2, arrival="08:13"), trip="times only", route_id="R", **added),
        entity(planned, trip="unknown route", route_id="X", **added),
        entity(planned, schedule_relationship="DUPLICATED"),
    )
    counts = run(tmp_path / "raw", tmp_path / "data")
    events = pl.read_parquet(events_path(tmp_path / "data", MONDAY)).filter(pl.col("train_id") == "plan")
    assert events.select("event_type", "delay_sec").rows() == [("D", 180)]
    assert (counts["dropped_no_planned_time"], counts["dropped_no_timetable"]) == (1, 1)


def test_only_trains_are_imported_unless_route_types_are_named(tmp_path: Path) -> None:
    write_feed(tmp_path / "raw")
    routes = tmp_path / "raw" / "routes.txt"
    routes.write_text(routes.read_text() + "B,1,12,3\n")
    (tmp_path / "raw" / "trips.txt").write_text(
        f"route_id,service_id,trip_id\nR,2025-01-06,{TRIP}\nB,2025-01-06,bus\n", encoding="utf-8-sig"
    )
    update = stop(2, 2, arrival="08:13")
    snapshot(tmp_path / "raw", "08:30", entity(update), entity(update, trip="bus"))
    assert run(tmp_path / "raw", tmp_path / "data")["dropped_no_train"] == 1
    routes.write_text("route_id,route_type\nR,3\nB,3\n")
    with pytest.raises(
        UserError, match=r"no route of the types to import, but of 3; name the types with --route-types"
    ):
        run(tmp_path / "raw", tmp_path / "data")
    assert run(tmp_path / "raw", tmp_path / "data", "3")["observed"] == 1


def test_route_types_are_numbers_and_ranges() -> None:
    assert route_types("2, 100-102") == (2, 100, 101, 102)
    with pytest.raises(UserError, match=r"'rail' is no route type"):
        route_types("rail")
    with pytest.raises(UserError, match=r"ride has no option --route-types"):
        Ride().with_options(Options(route_types="2"))


def test_without_a_timetable_the_plan_is_what_the_feed_says(tmp_path: Path) -> None:
    passed = {"stop_id": "3", "schedule_relationship": "SKIPPED", "arrival": {"time": instant("08:20"), "delay": 0}}
    stops = [{"stop_id": "1", "departure": {"time": instant("08:01"), "delay": 60}}, passed]
    snapshot(tmp_path, "08:30", entity(stops))
    counts = run(tmp_path, tmp_path / "data")
    assert observed(tmp_path / "data") == ["08:01"]
    assert counts["dropped_skipped_unplanned"] == 1
    assert pl.read_parquet(tmp_path / "data" / "op_nodes.parquet")["source_id"].to_list() == ["gtfs:feed:1"]


def test_a_point_is_a_station_with_its_name_and_position(tmp_path: Path) -> None:
    imported(tmp_path, ("08:30", [entity(stop(1, 1, departure="08:01"))]))
    points = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet").sort("source_id")
    assert points.select("source_id", "op_name", "lat", "lon").row(0) == (
        "gtfs:some-railway:P1", "POINT 1", 50.01, 4.0)  # fmt: skip
    sources = json.loads((tmp_path / "data" / "sources.json").read_text())
    assert sources["gtfs-rt"]["timezone"] == "Europe/Brussels"
    journeys = pl.read_parquet(tmp_path / "data" / "journeys.parquet")
    attributes = journeys.select("train_number", "train_type", "train_relation", "operator").row(0)
    assert attributes == ("1515", "long_distance", "IC 1", "Some Railway")


# --- Layouts of recordings --------------------------------------------------------------------------------------------
def as_protobuf(folder: Path, paths: Sequence[Path]) -> None:
    from google.protobuf.json_format import ParseDict
    from google.transit.gtfs_realtime_pb2 import FeedMessage

    for path in paths:
        content = json.loads(path.read_text())
        path.with_suffix(".pb").write_bytes(ParseDict(content, FeedMessage()).SerializeToString())


def as_tar(folder: Path, paths: Sequence[Path]) -> None:
    with tarfile.open(folder / "recording.tar.xz", "w:xz") as archive:
        for path in paths:
            archive.add(path, f"akl/{path.name}")


def as_zip(folder: Path, paths: Sequence[Path]) -> None:
    with zipfile.ZipFile(folder / "recording.zip", "w") as archive:
        for path in paths:
            archive.writestr(f"{path.name}.gz", gzip.compress(path.read_bytes()))


def as_gzip(folder: Path, paths: Sequence[Path]) -> None:
    for path in paths:
        path.with_suffix(".json.gz").write_bytes(gzip.compress(path.read_bytes()))


def as_wrapped_camel_case(folder: Path, paths: Sequence[Path]) -> None:
    """The header stands behind a long list, names are those of protobuf libraries, numbers are text."""
    for path in paths:
        text = path.read_text().replace("stop_time_update", "stopTimeUpdate").replace("trip_update", "tripUpdate")
        content = json.loads(text.replace("stop_id", "stopId").replace("trip_id", "tripId"))
        header = content["header"] | {"timestamp": str(content["header"]["timestamp"])}
        filler = [{"id": str(number), "alert": {"text": "x" * 100}} for number in range(100)]
        wrapped = {"response": {"entity": [*filler, *content["entity"]], "header": header}}
        path.with_name(f"wrapped_{path.name}").write_text(json.dumps(wrapped))


def updates(paths: Sequence[Path]) -> list[tuple[int, Mapping[str, Any], list[Update]]]:
    contents = [json.loads(path.read_text()) for path in paths]
    return [
        (content["header"]["timestamp"], one["trip_update"]["trip"], one["trip_update"]["stop_time_update"])
        for content in contents
        for one in content["entity"]
    ]


def as_lamp(folder: Path, paths: Sequence[Path]) -> None:
    rows = [
        {
            "feed_timestamp": seen,
            "trip_update.trip.trip_id": trip["trip_id"],
            "trip_update.trip.start_date": trip["start_date"],
            "trip_update.stop_time_update.stop_sequence": one["stop_sequence"],
            "trip_update.stop_time_update.stop_id": one["stop_id"],
            "trip_update.stop_time_update.arrival.time": one.get("arrival", {}).get("time"),
            "trip_update.stop_time_update.departure.time": one.get("departure", {}).get("time"),
        }
        for seen, trip, stops in updates(paths)
        for one in stops
    ]
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "hour.parquet")


def as_aggregator(folder: Path, paths: Sequence[Path]) -> None:
    event = pl.Struct({"delay": pl.Int32, "time": pl.Int64})
    one = {"stopSequence": pl.Int64, "stopId": pl.String, "arrival": event, "departure": event}
    schema = {"trip_tripId": pl.String, "trip_startDate": pl.String}
    schema |= {"stopTimeUpdate": pl.List(pl.Struct(one | {"scheduleRelationship": pl.String}))}
    rows = [
        {
            "fetchTime": datetime.fromtimestamp(seen, UTC),
            "trip_tripId": trip["trip_id"],
            "trip_startDate": trip["start_date"],
            "stopTimeUpdate": [
                {"stopSequence": given["stop_sequence"], "stopId": given["stop_id"]}
                | {side: given.get(side) for side in ("arrival", "departure")}
                for given in stops
            ],
        }
        for seen, trip, stops in updates(paths)
    ]
    pl.DataFrame(rows, schema_overrides=schema).write_parquet(folder / "day.parquet")


@pytest.mark.parametrize(
    "rewrite", [as_protobuf, as_tar, as_zip, as_gzip, as_wrapped_camel_case, as_lamp, as_aggregator]
)
def test_all_layouts_of_a_recording_give_the_same_events(
    tmp_path: Path, rewrite: Callable[[Path, Sequence[Path]], None]
) -> None:
    folder = tmp_path / "raw"
    write_feed(folder)
    paths = [
        snapshot(
            folder, "08:12", entity([stop(2, 2, arrival="08:11", departure="08:14"), stop(3, 3, arrival="08:25")])
        ),
        snapshot(folder, "08:30", entity([stop(3, 3, arrival="08:24", departure="08:25")])),
    ]
    run(folder, tmp_path / "loose")
    rewrite(folder, paths)
    for path in paths:
        path.unlink()
    run(folder, tmp_path / "data")
    assert observed(tmp_path / "data") == [None, "08:11", "08:14", "08:24", "08:25", None, None, None]
    read = [pl.read_parquet(events_path(tmp_path / name, MONDAY)) for name in ("loose", "data")]
    assert read[0].equals(read[1])


def test_a_timetable_in_a_zip_is_the_same(tmp_path: Path) -> None:
    expected = imported(tmp_path, ("08:30", [entity(stop(2, 2, arrival="08:13"))]))
    with zipfile.ZipFile(tmp_path / "raw" / "gtfs.zip", "w") as archive:
        for path in (tmp_path / "raw").glob("*.txt"):
            archive.writestr(f"feed/{path.name}", b"\xef\xbb\xbf" + path.read_bytes())
            path.unlink()
    run(tmp_path / "raw", tmp_path / "data")
    assert observed(tmp_path / "data") == expected


def test_a_date_takes_the_last_timetable_that_has_begun(tmp_path: Path) -> None:
    later = [Call(MONDAY, 1, None, at("2025-01-06 09:00")), Call(MONDAY, 2, at("2025-01-06 09:10"), None)]
    for name, calls, starts in (("a", later, "20250106"), ("b", journey(MONDAY, "2025-01-06 08:00"), "20250107")):
        write_feed(tmp_path / "raw" / name, calls)
        (tmp_path / "raw" / name / "calendar_dates.txt").write_text(f"service_id,date,exception_type\n1,{starts},1\n")
    snapshot(tmp_path / "raw", "09:30", entity([stop(1, 1, departure="09:02")]))
    run(tmp_path / "raw", tmp_path / "data")
    assert observed(tmp_path / "data") == ["09:02", None]


def test_a_snapshot_that_is_cut_off_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    write_feed(tmp_path / "raw")
    snapshot(tmp_path / "raw", "08:30", entity(stop(2, 2, arrival="08:13")))
    cut = snapshot(tmp_path / "raw", "08:31", entity(stop(2, 2, arrival="08:14")))
    cut.write_bytes(cut.read_bytes()[:-20])
    counts = run(tmp_path / "raw", tmp_path / "data")
    assert (counts["dropped_unreadable_file"], counts["observed"]) == (1, 1)


def test_an_archive_that_is_cut_off_gives_its_sound_snapshots(tmp_path: Path) -> None:
    write_feed(tmp_path / "raw")
    paths = [snapshot(tmp_path / "raw", f"08:3{n}", entity(stop(2, 2, arrival="08:13"))) for n in range(3)]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in paths:
            archive.add(path, path.name)
            path.unlink()
    (tmp_path / "raw" / "recording.tar").write_bytes(content.getvalue()[: 3 * 512])
    counts = run(tmp_path / "raw", tmp_path / "data")
    assert (counts["dropped_unreadable_file"], counts["observed"]) == (1, 1)


def test_files_of_others_are_no_recordings(tmp_path: Path) -> None:
    write_feed(tmp_path)
    (tmp_path / "train.json").write_text('{"trainNumber": 1, "header": 2}')
    (tmp_path / "trains.json").write_text("[]")
    (tmp_path / "empty.pb").write_bytes(b"")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with zipfile.ZipFile(tmp_path / "month.zip", "w") as archive:
        archive.writestr("2025-01-06.csv", "a;b\n")
    assert GtfsRt().find(tmp_path) == []


def test_a_recording_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no archive of its own; record a feed"):
        import_source(GtfsRt(), tmp_path, [MONDAY], progress=lambda line: None)


def test_a_train_past_midnight_is_read_from_the_snapshots_of_the_next_day(tmp_path: Path) -> None:
    [first, _] = LAYOUT.write(tmp_path / "raw", journey(MONDAY, "2025-01-06 22:45"))
    LAYOUT.snapshot(tmp_path / "raw", datetime(2025, 1, 8, 8, tzinfo=UTC), [])  # of a date that nobody asks for
    counts = import_source(GtfsRt(), tmp_path / "data", [MONDAY], tmp_path / "raw", progress=lambda line: None)
    assert (counts["observed"], counts["service_dates"]) == (8, 1)
    first.unlink()
    with pytest.raises(UserError, match="no usable row"):  # the recording has begun after that service date
        run(tmp_path / "raw", tmp_path / "data")
    assert len(observed(tmp_path / "data")) == 8
