"""Trains at points, and the files of every source as their publisher writes them.

A new source adds a `Layout` to LAYOUTS. `test_conformance.py` then runs all its tests on it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

import polars as pl

from transformer.data.sources.db import DeutscheBahn
from transformer.data.sources.digitraffic import Digitraffic
from transformer.data.sources.gtfs_rt import GtfsRt
from transformer.data.sources.infrabel import Infrabel, raw_file_name
from transformer.data.sources.istdaten import IstDaten
from transformer.data.sources.rdt import RijdenDeTreinen
from transformer.data.sources.ride import Ride
from transformer.data.sources.source import Source

Times = tuple[datetime, datetime | None]  # planned and observed, UTC


@dataclass(frozen=True)
class Call:
    """A train at a point. The points are named `POINT 1` and so on."""

    day: date
    point: int
    arrival: Times | None
    departure: Times | None
    train: int = 1515
    passes: bool = False
    cancelled: bool = False


class Layout(ABC):
    """Writes calls in the exact layout of a source.

    Attributes:
        marks_unobserved: the source can say that an event was not observed.
        marks_cancelled: the source lists cancelled calls.
        passes: the source lists points that a train passes.
        ordered: the order of the rows, or a column, is the order of the calls.
        tells_repeated_hours: times have an offset or are UTC, so the two hours that autumn repeats differ.
        required: a column or field that the source cannot do without; empty = the format has none.
    """

    source: Source
    marks_unobserved = True
    marks_cancelled = True
    passes = True
    ordered = True
    tells_repeated_hours = True
    required = ""

    @abstractmethod
    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        """Write the raw files of the calls, in the order of the calls, and the files that the source needs with them.

        Args:
            extra: add a column or field that nobody knows.
            missing: leave this column or field out.

        Returns:
            The files of train data that were written.
        """

    @abstractmethod
    def write_empty(self, folder: Path, day: date) -> None:
        """Write the file of a service date, or of its month, without any train."""

    def local(self, instant: datetime) -> datetime:
        return instant.astimezone(ZoneInfo(self.source.about.timezone)).replace(tzinfo=None)


def by_month(calls: Sequence[Call]) -> dict[str, list[Call]]:
    months: dict[str, list[Call]] = {}
    for call in calls:
        months.setdefault(f"{call.day:%Y-%m}", []).append(call)
    return months


class InfrabelLayout(Layout):
    source = Infrabel()
    marks_unobserved = marks_cancelled = tells_repeated_hours = False
    ordered = False  # by planned time
    required = "PTCAR_NO"
    columns = (
        *("DATDEP", "TRAIN_NO", "RELATION", "TRAIN_SERV", "PTCAR_NO", "THOP1_COD", "LINE_NO_DEP"),
        *("REAL_TIME_ARR", "REAL_TIME_DEP", "PLANNED_TIME_ARR", "PLANNED_TIME_DEP", "DELAY_ARR", "DELAY_DEP"),
        *("CIRC_TYP", "RELATION_DIRECTION", "PTCAR_LG_NM_NL", "LINE_NO_ARR"),
        *("PLANNED_DATE_ARR", "PLANNED_DATE_DEP", "REAL_DATE_ARR", "REAL_DATE_DEP"),
    )

    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        columns = [name for name in self.columns if name != missing] + ["NEW_COLUMN"] * extra
        written = []
        for month, of_month in by_month(calls).items():
            written.append(folder / raw_file_name(month))
            with written[-1].open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(map(self._row, of_month))
        return written

    def _row(self, call: Call) -> dict[str, str]:
        row = {
            "DATDEP": f"{call.day:%d%b%Y}".upper(),
            "TRAIN_NO": str(call.train),
            "RELATION": "IC 15",
            "TRAIN_SERV": "SNCB/NMBS",
            "PTCAR_NO": str(call.point),
            "PTCAR_LG_NM_NL": f"POINT {call.point}",
            "THOP1_COD": "D" if call.passes else "=",
        }
        for side, times in (("ARR", call.arrival), ("DEP", call.departure)):
            for kind, instant in zip(("PLANNED", "REAL"), times or (None, None), strict=True):
                if instant:
                    local = self.local(instant)
                    row[f"{kind}_DATE_{side}"] = f"{local:%d%b%Y}".upper()
                    row[f"{kind}_TIME_{side}"] = f"{local.hour}:{local:%M:%S}"  # hours are not padded
        return row

    def write_empty(self, folder: Path, day: date) -> None:
        (folder / raw_file_name(f"{day:%Y-%m}")).write_text(",".join(self.columns) + "\n", encoding="utf-8")


class RideLayout(Layout):
    source = Ride()
    marks_unobserved = marks_cancelled = tells_repeated_hours = False
    required = "op_id"

    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        written = []
        for month, of_month in by_month(calls).items():
            rows = [row for call in of_month for row in self._rows(call)]
            frame = pl.DataFrame(rows, schema=self._schema(), orient="row")
            if extra:
                frame = frame.with_columns(pl.lit("new").alias("new_column"))
            written.append(self._path(folder, "events", month))
            frame.drop([missing] if missing else []).write_parquet(written[-1])
            journeys = frame.unique(["train_id", "service_date"], maintain_order=True).select(
                "train_id",
                "service_date",
                pl.lit("IC 15").alias("train_relation"),
                pl.lit("SNCB/NMBS").alias("operator"),
                pl.lit("IC 15: A -> B").alias("relation_direction"),
            )
            journeys.write_parquet(self._path(folder, "journeys", month))
        points = sorted({call.point for call in calls})
        nodes = {"op_id": points, "op_name": [f"POINT {point}" for point in points], "op_type": "Station"}
        positions = {"lat": [50.0 + 0.01 * point for point in points], "lon": 4.0}
        pl.DataFrame(nodes | positions).write_parquet(self._path(folder, "static", ""))
        return written

    @staticmethod
    def _schema() -> dict[str, pl.DataType | type[pl.DataType]]:
        return {
            "train_id": pl.String,
            "service_date": pl.String,
            "op_id": pl.Int64,
            "event_type": pl.String,
            "arr_line_id": pl.String,
            "dep_line_id": pl.String,
            "planned_ts": pl.Datetime("us"),
            "observed_ts": pl.Datetime("us"),
            "delay_sec": pl.Float64,
        }

    def _rows(self, call: Call) -> list[tuple[object, ...]]:
        sides = [("A", call.arrival), ("D", call.departure)]
        if call.passes:
            sides = [("P", call.departure or call.arrival)]
        found = []
        for kind, times in sides:
            if times:
                planned, observed = times
                assert observed
                delay = (observed - planned).total_seconds()
                clocks = (self.local(planned), self.local(observed))
                day = f"{call.day:%d%b%Y}".upper()
                found.append((str(call.train), day, call.point, kind, "37", "37", *clocks, delay))
        return found

    @staticmethod
    def _path(folder: Path, table: str, month: str) -> Path:
        name = f"{table}_{month.replace('-', '')}.parquet" if month else "op_nodes.parquet"
        (folder / table).mkdir(parents=True, exist_ok=True)
        return folder / table / name

    def write_empty(self, folder: Path, day: date) -> None:
        pl.DataFrame(schema=self._schema()).write_parquet(self._path(folder, "events", f"{day:%Y-%m}"))


class RdtLayout(Layout):
    source = RijdenDeTreinen()
    marks_unobserved = passes = False
    required = "Stop:Station code"
    columns = (
        *("Service:RDT-ID", "Service:Date", "Service:Type", "Service:Company", "Service:Train number"),
        *("Service:Completely cancelled", "Service:Partly cancelled", "Service:Maximum delay"),
        *("Stop:RDT-ID", "Stop:Station code", "Stop:Station name"),
        *("Stop:Arrival time", "Stop:Arrival delay", "Stop:Arrival cancelled"),
        *("Stop:Departure time", "Stop:Departure delay", "Stop:Departure cancelled"),
        *("Stop:Platform change", "Stop:Planned platform", "Stop:Actual platform"),
    )

    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        written = []
        for month, of_month in by_month(calls).items():
            rows = [self.row(call) | {"Stop:RDT-ID": str(158_393_385 + n)} for n, call in enumerate(of_month)]
            columns = [name for name in self.columns if name != missing] + ["New column"] * extra
            written.append(self.write_rows(folder / f"services-{month}.csv.gz", rows, columns))
        points = sorted({call.point for call in calls})
        stations = [f"{n},P{n},{8400000 + n},POINT {n},{52 + n / 100},5.1" for n in points]
        lines = ["id,code,uic,name_long,geo_lat,geo_lng", *stations]
        (folder / "stations-2023-09.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return written

    def write_rows(self, path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str] = columns) -> Path:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = text.getvalue().encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    def row(self, call: Call, kind: str = "Intercity") -> dict[str, str]:
        row = {
            "Service:RDT-ID": str(call.day.toordinal() * 100_000 + call.train),
            "Service:Date": f"{call.day}",
            "Service:Type": kind,
            "Service:Company": "NS",
            "Service:Train number": str(call.train),
            "Service:Completely cancelled": "false",
            "Service:Partly cancelled": "true" if call.cancelled else "false",
            "Service:Maximum delay": "0",
            "Stop:Station code": f"P{call.point}",
            "Stop:Station name": f"POINT {call.point}",
            "Stop:Platform change": "false",
        }
        for side, times in (("Arrival", call.arrival), ("Departure", call.departure)):
            if times:
                planned, observed = times
                row[f"Stop:{side} time"] = planned.astimezone(ZoneInfo(self.source.about.timezone)).isoformat()
                row[f"Stop:{side} delay"] = "" if observed is None else str(int((observed - planned).seconds / 60))
                row[f"Stop:{side} cancelled"] = "true" if call.cancelled else "false"
        return row

    def write_empty(self, folder: Path, day: date) -> None:
        self.write_rows(folder / f"services-{day:%Y-%m}.csv.gz", [])


class DbLayout(Layout):
    source = DeutscheBahn()
    marks_unobserved = passes = tells_repeated_hours = False
    required = "eva"
    schema: ClassVar[dict[str, pl.DataType | type[pl.DataType]]] = {
        **dict.fromkeys(["station_name", "xml_station_name", "eva", "train_number", "line_number"], pl.String),
        **dict.fromkeys(["train_type", "final_destination_station"], pl.String),
        "delay_in_min": pl.Int32,
        "time": pl.Datetime("ns"),
        **dict.fromkeys(["arrival_is_canceled", "departure_is_canceled"], pl.Boolean),
        "train_line_ride_id": pl.String,
        "train_line_station_num": pl.Int32,
        **dict.fromkeys(["arrival_planned_time", "arrival_change_time"], pl.Datetime("ns")),
        **dict.fromkeys(["departure_planned_time", "departure_change_time"], pl.Datetime("ns")),
        "id": pl.String,
        **dict.fromkeys(["is_additional_stop", "is_replacement_train"], pl.Boolean),
        **dict.fromkeys(["replaced_train_type", "replaced_train_number"], pl.String),
        "has_plan_record": pl.Boolean,
    }

    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for month, of_month in by_month(calls).items():
            frame = self.frame(of_month)
            if extra:
                frame = frame.with_columns(pl.lit("new").alias("new_column"))
            written.append(folder / f"data-{month}.parquet")
            frame.drop([missing] if missing else []).write_parquet(written[-1])
        return written

    def frame(self, calls: Sequence[Call]) -> pl.DataFrame:
        trains: dict[tuple[date, int], list[Call]] = {}
        for call in calls:
            trains.setdefault((call.day, call.train), []).append(call)
        rows = [self._row(call, n, stops[0]) for stops in trains.values() for n, call in enumerate(stops, start=1)]
        return pl.DataFrame(rows, schema=self.schema)

    def _row(self, call: Call, position: int, origin: Call) -> dict[str, object]:
        begin = origin.departure or origin.arrival
        assert begin
        row: dict[str, object] = {
            "station_name": f"POINT {call.point}",
            "eva": f"{8_000_000 + call.point:08d}",
            "train_number": str(call.train),
            "line_number": "RE1",
            "train_type": "RE",
            "train_line_station_num": position,
            "id": f"-{call.train}00-{call.day:%y%m%d}{self.local(begin[0]):%H%M}-{position}",
            "is_additional_stop": False,
            "is_replacement_train": False,
            "has_plan_record": True,
        }
        for side, times in (("arrival", call.arrival), ("departure", call.departure)):
            row[f"{side}_is_canceled"] = call.cancelled and times is not None
            if times:
                planned, observed = times
                row[f"{side}_planned_time"] = self.local(planned)
                row[f"{side}_change_time"] = self.local(observed or planned)  # without a message it is the planned one
        return row

    def write_empty(self, folder: Path, day: date) -> None:
        pl.DataFrame(schema=self.schema).write_parquet(folder / f"data-{day:%Y-%m}.parquet")


class GtfsRtLayout(Layout):
    """A static feed, and two JSON snapshots of all calls of a service date: one at noon, one after the last call."""

    source = GtfsRt()
    passes = False
    required = "arrival_time"
    zone = ZoneInfo("Europe/Brussels")

    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        trips: dict[tuple[date, int], list[Call]] = {}
        for call in calls:
            trips.setdefault((call.day, call.train), []).append(call)
        self._write_feed(folder, trips, missing)
        written = []
        for day in sorted({call.day for call in calls}):
            times = [time for call in calls if call.day == day for side in (call.arrival, call.departure) if side
                     for time in side if time]  # fmt: skip
            entities = [self._entity(key, of_trip, extra) for key, of_trip in trips.items() if key[0] == day]
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=self.zone)
            written += [self.snapshot(folder, at, entities) for at in (noon, max(times) + timedelta(minutes=1))]
        return written

    @staticmethod
    def snapshot(folder: Path, taken: datetime, entities: Sequence[object]) -> Path:
        seconds = int(taken.timestamp())
        header = {"gtfs_realtime_version": "2.0", "incrementality": "FULL_DATASET", "timestamp": seconds}
        path = folder / f"trip_updates_{seconds}.json"
        path.write_text(json.dumps({"header": header, "entity": list(entities)}), encoding="utf-8")
        return path

    def _entity(self, key: tuple[date, int], calls: Sequence[Call], extra: bool) -> dict[str, object]:
        updates: list[dict[str, object]] = []
        for number, call in enumerate(calls, start=1):
            update: dict[str, object] = {"stop_sequence": number, "stop_id": f"S{call.point}"}
            update |= {"schedule_relationship": "SKIPPED"} if call.cancelled else {}
            for side, times in (("arrival", call.arrival), ("departure", call.departure)):
                if times and times[1]:
                    update[side] = {"time": int(times[1].timestamp())}
            updates.append(update | ({"new_field": 1} if extra else {}))
        trip = {"trip_id": self.trip_id(*key), "start_date": f"{key[0]:%Y%m%d}"}
        return {"id": trip["trip_id"], "trip_update": {"trip": trip, "stop_time_update": updates}}

    @staticmethod
    def trip_id(day: date, train: int) -> str:
        return f"trip {train} of {day}"

    def _write_feed(self, folder: Path, trips: Mapping[tuple[date, int], Sequence[Call]], missing: str) -> None:
        points = sorted({call.point for calls in trips.values() for call in calls})
        stops = [[f"S{point}", "", "", "", f"P{point}"] for point in points]
        stops += [[f"P{point}", f"POINT {point}", str(50 + 0.01 * point), "4.0", ""] for point in points]
        times = []
        for key, calls in trips.items():
            for number, call in enumerate(calls, start=1):
                arrival, departure = (self._clock(key[0], side or other) for side, other in (
                    (call.arrival, call.departure), (call.departure, call.arrival)))  # fmt: skip
                times.append([self.trip_id(*key), arrival, departure, f"S{call.point}", str(number)])
        tables = {
            "agency": ("agency_id,agency_name,agency_timezone", [["1", "Some Railway", str(self.zone)]]),
            "stops": ("stop_id,stop_name,stop_lat,stop_lon,parent_station", stops),
            "routes": ("route_id,agency_id,route_short_name,route_type", [["R", "1", "IC 1", "2"]]),
            "trips": (
                "route_id,service_id,trip_id,trip_short_name",
                [["R", f"{key[0]}", self.trip_id(*key), str(key[1])] for key in trips],
            ),
            "stop_times": ("trip_id,arrival_time,departure_time,stop_id,stop_sequence", times),
            "calendar_dates": (
                "service_id,date,exception_type",
                [[f"{day}", f"{day:%Y%m%d}", "1"] for day in sorted({key[0] for key in trips})],
            ),
        }
        for name, (header, rows) in tables.items():
            columns = header.split(",")
            with (folder / f"{name}.txt").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, [name for name in columns if name != missing], extrasaction="ignore")
                writer.writeheader()
                writer.writerows(dict(zip(columns, row, strict=True)) for row in rows)

    def _clock(self, day: date, times: Times | None) -> str:
        """Hours, minutes and seconds since noon minus 12 h."""
        assert times
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=self.zone)
        seconds = int(times[0].timestamp() - noon.timestamp()) + 12 * 3600
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def write_empty(self, folder: Path, day: date) -> None:
        for path in folder.glob("trip_updates_*.json"):
            path.unlink()
        self.snapshot(folder, datetime(day.year, day.month, day.day, 12, tzinfo=UTC), [])


class IstDatenLayout(Layout):
    source = IstDaten()
    ordered = tells_repeated_hours = False
    required = "BPUIC"
    columns = (
        *("BETRIEBSTAG", "FAHRT_BEZEICHNER", "BETREIBER_ID", "BETREIBER_ABK", "BETREIBER_NAME", "PRODUKT_ID"),
        *("LINIEN_ID", "LINIEN_TEXT", "UMLAUF_ID", "VERKEHRSMITTEL_TEXT", "ZUSATZFAHRT_TF", "FAELLT_AUS_TF", "BPUIC"),
        *("HALTESTELLEN_NAME", "ANKUNFTSZEIT", "AN_PROGNOSE", "AN_PROGNOSE_STATUS"),
        *("ABFAHRTSZEIT", "AB_PROGNOSE", "AB_PROGNOSE_STATUS", "DURCHFAHRT_TF"),
    )

    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        columns = [name for name in self.columns if name != missing] + ["SLOID"] * extra
        days = sorted({call.day for call in calls})
        for day in days:
            self.write_rows(self.path(folder, day), [self.row(call) for call in calls if call.day == day], columns)
        stops = [f'"{8500000 + point}","POINT {point}","{46 + 0.01 * point}","8"' for point in range(1, 6)]
        (folder / "stops.txt").write_text("\n".join(["stop_id,stop_name,stop_lat,stop_lon", *stops]), encoding="utf-8")
        return [self.path(folder, day) for day in days]

    @staticmethod
    def path(folder: Path, day: date) -> Path:
        return folder / f"{day}_istdaten.csv"

    @staticmethod
    def write_rows(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str] = columns) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, columns, restval="", extrasaction="ignore", delimiter=";", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)

    def row(self, call: Call) -> dict[str, str]:
        row = {
            "BETRIEBSTAG": f"{call.day:%d.%m.%Y}",
            "FAHRT_BEZEICHNER": f"85:11:{call.train}:001",
            "BETREIBER_ID": "85:11",
            "BETREIBER_ABK": "SBB",
            "BETREIBER_NAME": "Schweizerische Bundesbahnen SBB",
            "PRODUKT_ID": "Zug",
            "LINIEN_ID": str(call.train),
            "LINIEN_TEXT": "S16",
            "VERKEHRSMITTEL_TEXT": "S",
            "ZUSATZFAHRT_TF": "false",
            "FAELLT_AUS_TF": str(call.cancelled).lower(),
            "BPUIC": str(8500000 + call.point),
            "HALTESTELLEN_NAME": f"POINT {call.point}",
            "AN_PROGNOSE_STATUS": "PROGNOSE",
            "AB_PROGNOSE_STATUS": "UNBEKANNT",
            "DURCHFAHRT_TF": str(call.passes).lower(),
        }
        for name, side, times in (("ANKUNFTSZEIT", "AN", call.arrival), ("ABFAHRTSZEIT", "AB", call.departure)):
            if times:
                planned, observed = times
                row[name] = f"{self.local(planned):%d.%m.%Y %H:%M}"
                # An event that was not observed has a forecast.
                row[f"{side}_PROGNOSE"] = f"{self.local(observed or planned):%d.%m.%Y %H:%M:%S}"
                row[f"{side}_PROGNOSE_STATUS"] = "REAL" if observed else "PROGNOSE"
        return row

    def write_empty(self, folder: Path, day: date) -> None:
        self.write_rows(self.path(folder, day), [])


class DigitrafficLayout(Layout):
    source = Digitraffic()
    required = "timeTableRows"

    def write(self, folder: Path, calls: Sequence[Call], *, extra: bool = False, missing: str = "") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        days: dict[date, dict[int, list[Call]]] = {}
        for call in calls:
            days.setdefault(call.day, {}).setdefault(call.train, []).append(call)
        written = []
        for day, trains in days.items():
            found = [
                self.train(of_train) | {"newField": 1} if extra else self.train(of_train)
                for of_train in trains.values()
            ]
            for train in found:
                train.pop(missing, None)
            written.append(folder / f"{day}_trains.json")
            written[-1].write_text(json.dumps(found), encoding="utf-8")
        stations = [
            {
                "passengerTraffic": True,
                "type": "STATION",
                "stationName": f"POINT {point}",
                "stationShortCode": f"P{point}",
                "stationUICCode": point,
                "countryCode": "FI",
                "longitude": 25.0,
                "latitude": 60 + 0.01 * point,
            }
            for point in range(1, 6)
        ]
        (folder / "stations.json").write_text(json.dumps(stations), encoding="utf-8")
        return written

    @staticmethod
    def train(calls: Sequence[Call]) -> dict[str, object]:
        rows = []
        for call in calls:
            for kind, times in (("ARRIVAL", call.arrival), ("DEPARTURE", call.departure)):
                if not times:
                    continue
                planned, observed = times
                row: dict[str, object] = {
                    "stationShortCode": f"P{call.point}",
                    "stationUICCode": call.point,
                    "countryCode": "FI",
                    "type": kind,
                    "trainStopping": not call.passes,
                    "commercialTrack": "1",
                    "cancelled": call.cancelled,
                    "scheduledTime": f"{planned:%Y-%m-%dT%H:%M:%S}.000Z",
                    "causes": [],
                }
                if observed:
                    row |= {"actualTime": f"{observed:%Y-%m-%dT%H:%M:%S}.000Z", "differenceInMinutes": 0}
                else:  # a forecast, which gives a difference, too
                    row |= {"liveEstimateTime": f"{planned:%Y-%m-%dT%H:%M:%S}.000Z", "differenceInMinutes": 3}
                rows.append(row)
        return {
            "trainNumber": calls[0].train,
            "departureDate": f"{calls[0].day}",
            "operatorUICCode": 10,
            "operatorShortCode": "vr",
            "trainType": "HL",
            "trainCategory": "Commuter",
            "commuterLineID": "L",
            "runningCurrently": False,
            "cancelled": False,
            "version": 263600307480,
            "timetableType": "REGULAR",
            "timeTableRows": rows,
        }

    def write_empty(self, folder: Path, day: date) -> None:
        (folder / f"{day}_trains.json").write_text("[]", encoding="utf-8")


LAYOUTS: tuple[Layout, ...] = (
    InfrabelLayout(),
    RideLayout(),
    IstDatenLayout(),
    DigitrafficLayout(),
    RdtLayout(),
    DbLayout(),
    GtfsRtLayout(),
)


def at(text: str, delay_min: int | None = 0) -> Times:
    """Planned and observed time of an event, from a UTC time such as `2025-01-06 08:00`."""
    planned = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return planned, None if delay_min is None else planned + timedelta(minutes=delay_min)


def journey(day: date, start: str, train: int = 1515) -> list[Call]:
    """Five calls: an origin, two stops, a second visit of the first of them, and a terminus."""
    first = datetime.fromisoformat(start).replace(tzinfo=UTC)

    def times(minutes: int, delay: int) -> tuple[datetime, datetime]:
        planned = first + timedelta(minutes=minutes)
        return planned, planned + timedelta(minutes=delay)

    return [
        Call(day, 1, None, times(0, 1), train),
        Call(day, 2, times(10, 2), times(12, 3), train),
        Call(day, 3, times(20, 3), times(21, 4), train),
        Call(day, 2, times(30, 5), times(32, 5), train),
        Call(day, 4, times(40, 6), None, train),
    ]
