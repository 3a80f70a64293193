"""Recorded answers of Deutsche Bahn's timetable service IRIS, in XML.

A station has one file of its planned stops an hour, `EVA_plan_HH.xml`, and files of all its known changes,
`EVA_fchg_HH.xml`. The date is the name of their folder, or begins the name of the file. A changed time is a forecast
until the train is due. It counts as observed if the file was recorded after it. The newest message of a file shows when
it was recorded. A stop without such a time was not observed, which the monthly Parquet files cannot say.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import polars as pl

from transformer.data.sources.source import RawFile
from transformer.errors import UserError
from transformer.text import one_line

log = logging.getLogger(__name__)

STOPS_AT_ONCE = 200_000
_NAME = re.compile(r"(?:(?P<day>\d{4}-\d{2}-\d{2})_)?(?P<eva>\d{7,8})_(?P<kind>plan|fchg)_\d{2}\w*\.xml")
_TRAIN = {"c": "train_type", "n": "train_number", "o": "operator"}
_SIDES = {"ar": "arrival", "dp": "departure"}
_TIME = "%y%m%d%H%M"
# Columns of a stop, as text: its train, and on each side the planned and the changed time, when that was recorded, and
# the state.
_SCHEMA = dict.fromkeys(
    ["id", "eva", "station_name", "line_number", *_TRAIN.values()]
    + [f"{side}_{part}" for side in _SIDES for part in ("pt", "ct", "recorded", "cs")],
    pl.String,
)
_Stop = dict[str, str]


def is_recording(path: Path) -> bool:
    return path.suffix == ".xml"


def find(folder: Path) -> list[RawFile]:
    """The recordings of each date that has planned stops, with the changes of that date and of the next one."""
    found: dict[date, dict[str, list[Path]]] = {}
    for path in sorted(folder.rglob("*.xml")):
        if (match := _NAME.fullmatch(path.name)) and (day := _date(match["day"] or path.parent.name)):
            found.setdefault(day, {}).setdefault(match["kind"], []).append(path)
    files = []
    for day, kinds in found.items():
        if "plan" in kinds:
            next_day = found.get(date.fromordinal(day.toordinal() + 1), {})
            changes = kinds.get("fchg", []) + next_day.get("fchg", [])
            files.append(RawFile((*kinds["plan"], *changes), day, day))
    return files


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def read(file: RawFile, counts: Counter[str]) -> Iterator[pl.DataFrame]:
    """The stops that were planned on a date, in the columns of the monthly Parquet files.

    Raises:
        UserError: no file of planned stops can be read.
    """
    stations: dict[str, list[Path]] = {}
    for path in file.paths:
        stations.setdefault(_name_of(path)["eva"], []).append(path)
    stops: list[_Stop] = []
    broken = 0
    for eva, paths in sorted(stations.items()):
        readable = [(path, root) for path in paths if (root := _root(path, counts)) is not None]
        broken += len(paths) - len(readable)
        stops += _stops(eva, readable, file.first)
        if len(stops) >= STOPS_AT_ONCE:
            yield _frame(stops)
            stops = []
    if broken == len(file.paths):
        raise UserError(f"{file.paths[0]}: no file of its date can be read; record it again")
    yield _frame(stops)


def _name_of(path: Path) -> re.Match[str]:
    match = _NAME.fullmatch(path.name)
    assert match
    return match


def _root(path: Path, counts: Counter[str]) -> ElementTree.Element | None:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeError) as error:
        counts["dropped_unreadable_file"] += 1
        log.warning("%s cannot be read (%s), and is left out", path, one_line(str(error)))
        return None


def _stops(eva: str, answers: Iterable[tuple[Path, ElementTree.Element]], day: date) -> list[_Stop]:
    """The stops at a station. Later changes replace earlier ones."""
    plans = [root for path, root in answers if _name_of(path)["kind"] == "plan"]
    changes = [(_recorded(root), root) for path, root in answers if _name_of(path)["kind"] == "fchg"]
    stops: dict[str, _Stop] = {}
    for recorded, root in [*(("", root) for root in plans), *sorted(changes, key=lambda change: change[0])]:
        for element in root.iterfind("s"):
            name = root.get("station", "")
            stop = stops.setdefault(
                element.get("id", ""), {"id": element.get("id", ""), "eva": eva, "station_name": name}
            )
            if recorded == "":
                stop["is_planned"] = "yes"
            _update(stop, element, recorded)
    today = f"{day:%y%m%d}"
    planned = ("ar_pt", "dp_pt")
    return [
        stop
        for stop in stops.values()
        if stop.pop("is_planned", "") or any(stop.get(name, today).startswith(today) for name in planned)
    ]


def _update(stop: _Stop, element: ElementTree.Element, recorded: str) -> None:
    if (train := element.find("tl")) is not None:  # not that of `ref`, the train which this one replaces
        stop.update({name: train.attrib[key] for key, name in _TRAIN.items() if key in train.attrib})
    for side in _SIDES:
        event = element.find(side)
        if event is not None:
            stop.update({f"{side}_{key}": event.attrib[key] for key in ("pt", "ct", "cs") if key in event.attrib})
            if "ct" in event.attrib:
                stop[f"{side}_recorded"] = recorded
            if "l" in event.attrib:
                stop["line_number"] = event.attrib["l"]


def _recorded(root: ElementTree.Element) -> str:
    """The time of the newest message in an answer, YYMMDDhhmm."""
    return max((message.get("ts", "") for message in root.iter("m")), default="")


def _frame(stops: list[_Stop]) -> pl.DataFrame:
    text = pl.DataFrame(stops, schema=_SCHEMA)
    columns = []
    forecasts = []
    for side, name in _SIDES.items():
        change, recorded = (pl.col(f"{side}_{part}") for part in ("ct", "recorded"))
        forecast = (change > recorded).fill_null(False)
        forecasts.append(forecast & pl.col(f"{side}_pt").is_not_null())
        columns += [
            pl.col(f"{side}_pt").str.to_datetime(_TIME, time_unit="us", strict=False).alias(f"{name}_planned_time"),
            pl.when(~forecast)
            .then(change.str.to_datetime(_TIME, time_unit="us", strict=False))
            .alias(f"{name}_change_time"),
            (pl.col(f"{side}_cs") == "c").fill_null(False).alias(f"{name}_is_canceled"),
        ]
    return text.with_columns(
        *columns,
        pl.any_horizontal((pl.col(f"{side}_cs") == "a").fill_null(False) for side in _SIDES).alias(
            "is_additional_stop"
        ),
        pl.when(pl.any_horizontal(forecasts)).then(pl.lit("forecast")).alias("changed"),
    )
