"""GTFS with recorded GTFS-Realtime trip updates, of any agency whose feeds somebody has recorded.

    python -m transformer import gtfs-rt --from recordings --to data/mbta

The folder has a recording in one of the layouts of `gtfs_snapshots`, and the static feed that was valid then (see
`gtfs_static`). If there are several static feeds, a date takes the last one whose calendar has begun. A trip update is
a prediction, so this module decides what was observed, and more:

Observed. A predicted time of a stop is an observation in two cases. In the first, the last snapshot that has the
prediction was taken at or after the predicted time. In the second, later snapshots list the trip without the
prediction; the last of them was taken at or after the predicted time, and the prediction was at most STALE_S old when
its time came. All other events are not observed. A delay is not propagated along a trip, so a stop that the feed never
lists is not observed. Arrivals and departures are judged each on their own.

Planned. Times come from the timetable: seconds since noon minus 12 h of the service date, on which hours may exceed 24.
For a trip without a timetable, the planned time is the predicted time minus the delay, if the feed gives both.

Service date. It is the trip's `start_date`. Without one, it is the date on which the timetable has the trip's times
nearest to the predicted ones.

Stops. A stop update belongs to the call of its trip with the same sequence and station, or else with the same station,
or else with the same sequence. So a train that changes its platform keeps its call. A point is a station, with the id
`gtfs:<feed>:<stop_id of the station>`; `<feed>` comes from the publisher's name.

Trains. By default, routes of metro and rail are imported. Trips that no snapshot lists are left out.

Cancelled. CANCELED and DELETED trips are cancelled, except for the events that were observed before. A SKIPPED stop is
cancelled if the timetable has it. Without a timetable it may be a point that the train passes, and it is left out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

import polars as pl

from transformer.data.sources.download import PublishedFile
from transformer.data.sources.expressions import first_problem
from transformer.data.sources.gtfs_snapshots import covered, is_archive, updates
from transformer.data.sources.gtfs_static import (
    TRAINS,
    FeedFiles,
    StaticFeed,
    first_date,
    from_the_end,
    open_feed,
    route_types,
    static_feeds,
)
from transformer.data.sources.source import POINT_SCHEMA, VISIT_SCHEMA, About, RawFile, Source
from transformer.data.tables import TIMESTAMP
from transformer.errors import UserError

log = logging.getLogger(__name__)

STALE_S = 600
DAY_S = 86_400
WINDOW_S = DAY_S // 4  # in so short a time, a trip without a start date runs once
_CANCELLED = ("CANCELED", "DELETED")
_REPEATED = ("DUPLICATED", "UNSCHEDULED")  # with the trip id of another run
_SIDES = ("arr", "dep")
_PREDICTION = ("time", "delay", "seen", "implied")  # of a side; the last one is the planned time that the feed implies
_ATTRIBUTES = ("train_number", "train_type", "train_relation", "operator")
_TRIP = ["trip_id", "start_date", "window"]


@dataclass(frozen=True)
class Recording(RawFile):
    """Files of a recording, and the static feeds in the same folder."""

    feeds: tuple[FeedFiles, ...] = ()


class GtfsRt(Source):
    """Any country: recordings of trip updates."""

    about = About(
        name="gtfs-rt",
        title="GTFS timetable with recorded GTFS-Realtime trip updates",
        country="any",
        timezone="UTC",  # `about_files` has the zone of the agency
        depth="what somebody has recorded",
        size="from 10 MB (an agency, Parquet) to 20 GB (snapshots each minute)",
        licence="that of the feed's publisher; name the publisher as its licence asks",
        unobserved="inferred: a prediction counts once a snapshot shows that its time has come",
        pass_throughs=False,
        page="https://gtfs.org",
    )
    layout = "snapshots (.pb, .json, also in .gz, tar or zip) or Parquet of trip updates"
    late_days = 1
    has_options = frozenset({"route_types"})
    row_schema: ClassVar[Mapping[str, pl.DataType]] = {
        **VISIT_SCHEMA,
        "again": pl.Int64(),  # visits of the point in the rest of the trip
        "seen": pl.Int64(),  # last snapshot that lists the call, Unix seconds; null = a row of the timetable
        "stop_status": pl.String(),
        **{f"{side}_{field}": pl.Int64() for side in _SIDES for field in _PREDICTION},
        "trip_seen": pl.Int64(),  # last snapshot that lists the trip
        "trip_ran": pl.Int64(),  # last one that lists it with a stop, and not as cancelled
        "trip_status": pl.String(),
    }

    @property
    def _types(self) -> tuple[int, ...]:
        return route_types(self.options.route_types or TRAINS)

    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        raise UserError(
            "gtfs-rt has no archive of its own; record a feed with gtfs-rt-aggregator, or get an archive such as MBTA "
            "LAMP or KoDa, and name the folder of the recording and of the static GTFS with --from"
        )

    def about_files(self, folder: Path) -> About:
        feeds = static_feeds(sorted(folder.rglob("*")))
        return replace(self.about, timezone=_zone(feeds))

    def find(self, folder: Path) -> list[RawFile]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        spans = [(path, span) for path in paths if (span := covered(path))]
        if not spans:
            return []
        feeds = static_feeds(paths)
        zone = ZoneInfo(_zone(feeds))
        groups: dict[tuple[date, date, Path | None], list[Path]] = {}
        for path, span in spans:
            first, last = (datetime.fromtimestamp(seconds, UTC).astimezone(zone).date() for seconds in span)
            groups.setdefault((first, last, path if is_archive(path) else None), []).append(path)
        found = [Recording(tuple(of_dates), *key[:2], tuple(feeds)) for key, of_dates in groups.items()]
        return sorted(found, key=lambda file: (file.first, file.last, file.paths))

    def check(self, file: RawFile) -> None:
        feed = _feed_of(file)
        if feed is None:
            return
        if not set(feed.kinds) & set(self._types):
            raise UserError(
                f"{feed.path} has no route of the types to import, but of {', '.join(map(str, feed.kinds))}; name the "
                "types with --route-types"
            )

    def scan(self, file: RawFile, counts: Counter[str]) -> Iterator[pl.LazyFrame]:
        feed = _feed_of(file)
        unreadable: list[str] = []
        trips = pl.DataFrame(schema={"service_date": pl.Date, "train_id": pl.String})
        rows = 0
        for batch in updates(file.paths, unreadable.append):
            calls = _calls(batch, feed, self._types)
            rows += calls.height
            usable = calls.filter(pl.col("problem").is_null()).select(trips.columns)
            trips = pl.concat([trips, usable]).unique(maintain_order=True)
            yield calls.lazy()
        if unreadable:
            if not rows:
                raise UserError(f"{file.paths[0]}: {unreadable[0]} is cut off or no snapshot; get the file again")
            counts["dropped_unreadable_file"] += len(unreadable)
            log.warning("%s: cut off or no snapshots, and left out: %s", file.name, ", ".join(unreadable[:10]))
        if feed is not None and trips.height:
            yield _planned_calls(trips, feed, self._types).lazy()

    def visits(self, rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
        calls = _merged(rows)
        planned = [_planned(side) for side in _SIDES]
        found = calls.with_columns(planned).with_columns(_predicted(side) for side in _SIDES)
        slips = [_whole_days(side) for side in _SIDES]
        slip = pl.max_horizontal(slip.abs() for slip in slips)
        found = found.with_columns(
            pl.when(slip > 1).then(pl.lit("far_time")).when(slip == 1).then(pl.lit("whole_day")).alias("changed"),
            *(
                pl.when(slip.abs() <= 1).then(pl.col(f"predicted_{side}") - slip * DAY_S).alias(f"predicted_{side}")
                for side, slip in zip(_SIDES, slips, strict=True)
            ),
        ).with_columns(_observed(side) for side in _SIDES)
        skipped = (pl.col("stop_status") == "SKIPPED").fill_null(False)
        trip_cancelled = pl.col("trip_status").is_in(_CANCELLED).fill_null(False)
        return found.with_columns(
            *(
                (skipped | (trip_cancelled & pl.col(f"observed_{side}").is_null())).alias(f"cancelled_{side}")
                for side in _SIDES
            ),
            pl.lit(False).alias("passes"),
            pl.when(pl.all_horizontal(pl.col(f"planned_{side}").is_null() for side in _SIDES))
            .then(pl.when(skipped).then(pl.lit("skipped_unplanned")).otherwise(pl.lit("no_planned_time")))
            .alias("problem"),
        )

    def points(self, folder: Path) -> pl.DataFrame:
        paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder, *folder.parent.glob("*.txt")]
        found = [super().points(folder)]
        for files in reversed(static_feeds(paths)):
            feed = open_feed(files)
            found.append(
                feed.stops.select(
                    pl.lit(None, pl.Int32).alias("op_id"),
                    _point_id(feed, pl.col("station")).alias("source_id"),
                    "op_name",
                    "lat",
                    "lon",
                )
            )
        return pl.concat(found).unique("source_id", keep="first", maintain_order=True).select(*POINT_SCHEMA)


# --- Static feed ------------------------------------------------------------------------------------------------------
def _zone(feeds: Sequence[FeedFiles]) -> str:
    return open_feed(feeds[-1]).timezone if feeds else "UTC"


def _feed_of(file: RawFile) -> StaticFeed | None:
    """The static feed of the dates of a file: the last one whose calendar has begun, or else the first."""
    assert isinstance(file, Recording)
    if len(file.feeds) < 2:
        return open_feed(file.feeds[0]) if file.feeds else None
    starts = sorted((first_date(files) or date.min, files.path, files) for files in file.feeds)
    begun = [files for start, _, files in starts if start <= file.first]
    return open_feed(begun[-1] if begun else starts[0][2])


def _point_id(feed: StaticFeed | None, station: pl.Expr) -> pl.Expr:
    return pl.lit(f"gtfs:{feed.name if feed else 'feed'}:") + station


def _station(feed: StaticFeed, stop: str) -> pl.Expr:
    """The station of a stop id. An unknown platform such as `8814001_7` is that of the known stop `8814001`."""
    stations = dict(feed.stops.select("stop_id", "station").iter_rows())
    own = pl.col(stop).replace_strict(stations, default=None, return_dtype=pl.String)
    bare = pl.col(stop).str.replace(r"[_:-][^_:-]*$", "")
    return pl.coalesce(own, bare.replace_strict(stations, default=None, return_dtype=pl.String), stop)


# --- From updates to rows of `scan` -----------------------------------------------------------------------------------
def _calls(batch: pl.LazyFrame, feed: StaticFeed | None, types: Sequence[int]) -> pl.DataFrame:
    """The last prediction of every call of a batch of updates, with its place in the timetable."""
    calls = _last_listed(batch.collect(engine="streaming"))
    matched = _without_feed(calls) if feed is None else _matched(calls, feed, types)
    start = pl.col("start_date").str.to_date("%Y%m%d", strict=False)
    has_stop = pl.col("stop_id").is_not_null() | pl.col("stop_sequence").is_not_null()
    kind, in_timetable = pl.col("route_type"), pl.col("in_timetable")
    rows = matched.with_columns(pl.coalesce(start, "inferred_date").alias("service_date"))
    return rows.select(
        "service_date",
        pl.col("trip_id").alias("train_id"),
        _point_id(feed, pl.col("station")).alias("source_id"),
        pl.coalesce("seq", "stop_sequence").alias("order"),
        "again",
        "seen",
        "stop_status",
        *(f"{side}_{field}" for side in _SIDES for field in _PREDICTION),
        "trip_seen",
        "trip_ran",
        "trip_status",
        *(pl.col(name) for name in _ATTRIBUTES),
        first_problem(
            {
                "bad_train_number": pl.col("trip_id").is_null(),
                "no_train": ~kind.is_in(types),
                "no_timetable": ~in_timetable & ((kind.is_null() & pl.lit(feed is not None)) | ~has_stop),
                "bad_service_date": pl.col("service_date").is_null(),
                "other_stop": in_timetable & has_stop & pl.col("seq").is_null(),
            }
        ),
    )


def _last_listed(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per call: the last predictions of its arrival and departure, and when a snapshot listed it last."""
    rows = rows.with_row_index("row").sort("seen", "row")
    window = pl.when(pl.col("start_date").is_null()).then(pl.col("seen") // WINDOW_S)
    silent = pl.col("stop_status").is_in(("SKIPPED", "NO_DATA")).fill_null(False)
    cancelled = pl.col("trip_status").is_in(_CANCELLED).fill_null(False)
    has_stop = pl.any_horizontal(pl.col("stop_id", "stop_sequence").is_not_null())
    rows = rows.with_columns(
        window.alias("window"),
        (has_stop & ~cancelled).alias("runs"),
        from_the_end("seen", "trip_id", "start_date", "stop_id"),
        *(
            (pl.any_horizontal(pl.col(f"{side}_time", f"{side}_delay").is_not_null()) & ~silent & ~cancelled).alias(
                f"has_{side}"
            )
            for side in _SIDES
        ),
        *(pl.when(~silent).then(_on_time(f"{side}_time", f"{side}_delay")).alias(f"{side}_implied") for side in _SIDES),
    )
    calls = rows.group_by(*_TRIP, "stop_sequence", "stop_id", "again", maintain_order=True).agg(
        pl.col("seen").last(),
        pl.col("stop_status").last(),
        *(
            pl.col(name).filter(f"has_{side}").last().alias(f"{side}_{field}")
            for side in _SIDES
            for field, name in (("time", f"{side}_time"), ("delay", f"{side}_delay"), ("seen", "seen"))
        ),
        *(pl.col(f"{side}_implied").drop_nulls().last() for side in _SIDES),
    )
    trips = rows.group_by(_TRIP).agg(
        pl.col("seen").last().alias("trip_seen"),
        pl.col("seen").filter("runs").last().alias("trip_ran"),
        pl.col("trip_status").last(),
        pl.col("route_id").drop_nulls().last(),
    )
    return calls.join(trips, on=_TRIP, how="left", nulls_equal=True, maintain_order="left")


def _on_time(time: str, delay: str) -> pl.Expr:
    """The planned time of a prediction that has both a time and a delay."""
    return pl.col(time) - (pl.col(delay) - _days(pl.col(delay)) * DAY_S)


def _without_feed(calls: pl.DataFrame) -> pl.DataFrame:
    return calls.with_columns(
        pl.col("stop_id").alias("station"),
        pl.lit(None, pl.Int64).alias("seq"),
        pl.lit(None, pl.Int64).alias("route_type"),
        pl.lit(None, pl.Date).alias("inferred_date"),
        pl.lit(False).alias("in_timetable"),
        *(pl.lit("other" if name == "train_type" else None, pl.String).alias(name) for name in _ATTRIBUTES),
    )


def _matched(calls: pl.DataFrame, feed: StaticFeed, types: Sequence[int]) -> pl.DataFrame:
    """Calls with their trip, route and call of the timetable."""
    timetable = feed.calls(types)
    seconds = pl.coalesce("planned_arr_s", "planned_dep_s")
    first = timetable.group_by("trip_id").agg(seconds.min().alias("first_s"))
    trips = feed.trips.select("trip_id", pl.col("route_id").alias("trip_route"), pl.col("train_number"))
    repeated = pl.col("trip_status").is_in(_REPEATED).fill_null(False)
    found = (
        calls.with_columns(_station(feed, "stop_id").alias("station"))
        .join(trips, on="trip_id", how="left", maintain_order="left")
        .join(first, on="trip_id", how="left", maintain_order="left")
        .with_columns(pl.coalesce("trip_route", "route_id").alias("route_id"))
        .join(feed.routes, on="route_id", how="left", maintain_order="left")
        .with_columns((pl.col("first_s").is_not_null() & ~repeated).alias("in_timetable"))
        .with_columns(pl.when("in_timetable").then("trip_id").alias("planned_trip"))
    )
    planned = timetable.select(
        pl.col("trip_id").alias("planned_trip"), "seq", "station", "again", seconds.alias("planned_s")
    )
    ways = (
        {"stop_sequence": "seq", "station": "station"},
        {"station": "station", "again": "again"},
        {"stop_sequence": "seq"},
    )
    for number, way in enumerate(ways):
        keyed = planned.select(
            "planned_trip",
            *(pl.col(theirs).alias(ours) for ours, theirs in way.items()),
            pl.col("seq").alias(f"seq_{number}"),
            pl.col("planned_s").alias(f"planned_{number}"),
        )
        found = found.join(keyed, on=["planned_trip", *way], how="left", maintain_order="left")
    found = found.with_columns(
        pl.coalesce(f"seq_{number}" for number in range(len(ways))).alias("seq"),
        pl.coalesce(*(f"planned_{number}" for number in range(len(ways))), "first_s").alias("planned_s"),
    )
    return found.with_columns(
        pl.when("in_timetable").then(_inferred_date(feed.timezone)).alias("inferred_date"),
        pl.col("train_type").fill_null("other"),
    )


def _inferred_date(timezone: str) -> pl.Expr:
    """The date that brings the planned time of a call nearest to the predicted one; the same for the whole trip."""
    instant = pl.coalesce("arr_time", "dep_time", "seen") - pl.col("planned_s") + DAY_S // 2
    days = pl.from_epoch(instant, "s").dt.replace_time_zone("UTC").dt.convert_time_zone(timezone).dt.date()
    return days.to_physical().median().over(_TRIP).cast(pl.Int32).cast(pl.Date)


def _planned_calls(trips: pl.DataFrame, feed: StaticFeed, types: Sequence[int]) -> pl.DataFrame:
    """The calls of the timetable on service dates, whether a snapshot lists them or not."""
    noon = pl.col("service_date").cast(pl.Datetime("us")) + pl.duration(hours=12)
    start = noon.dt.replace_time_zone(feed.timezone).dt.convert_time_zone("UTC") - pl.duration(hours=12)
    attributes = feed.trips.select(pl.col("trip_id").alias("train_id"), *_ATTRIBUTES)
    return (
        trips.join(feed.calls(types).rename({"trip_id": "train_id"}), on="train_id", maintain_order="left")
        .join(attributes, on="train_id", how="left", maintain_order="left")
        .select(
            "service_date",
            "train_id",
            pl.col("seq").alias("order"),
            "again",
            _point_id(feed, pl.col("station")).alias("source_id"),
            *(
                (start + pl.duration(seconds=f"planned_{side}_s")).cast(TIMESTAMP).alias(f"planned_{side}")
                for side in _SIDES
            ),
            *_ATTRIBUTES,
        )
    )


# --- From rows to visits ----------------------------------------------------------------------------------------------
def _merged(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per call of a service date, from the rows of the timetable and of all batches."""
    call = pl.coalesce(pl.col("order").cast(pl.String), pl.concat_str("source_id", pl.lit("#"), "again"))
    rows = rows.with_columns(call.alias("call")).sort("seen", nulls_last=False, maintain_order=True)
    trips = rows.group_by("train_id").agg(
        pl.col("trip_seen", "trip_ran").max(),
        pl.col("trip_status").sort_by("trip_seen").last(),
        *(pl.col(name).drop_nulls().first() for name in _ATTRIBUTES),
    )
    calls = (
        rows.drop_nulls("call")
        .group_by("train_id", "call", maintain_order=True)
        .agg(
            pl.col("service_date", "order", "again").first(),
            pl.col("source_id", "planned_arr", "planned_dep").drop_nulls().first(),
            pl.col("stop_status").last(),
            *(
                pl.col(f"{side}_{field}").filter(pl.col(f"{side}_seen").is_not_null()).last()
                for side in _SIDES
                for field in ("time", "delay", "seen")
            ),
            *(pl.col(f"{side}_implied").drop_nulls().last() for side in _SIDES),
        )
    )
    return calls.join(trips, on="train_id", how="left", maintain_order="left")


def _planned(side: str) -> pl.Expr:
    """The planned time of the timetable, or else that which the feed implies."""
    implied = _instant(pl.col(f"{side}_implied"))
    in_timetable = pl.any_horizontal(pl.col("planned_arr", "planned_dep").is_not_null())
    return pl.when(in_timetable).then(f"planned_{side}").otherwise(implied).alias(f"planned_{side}")


def _predicted(side: str) -> pl.Expr:
    planned = pl.col(f"planned_{side}").dt.epoch("s")
    return pl.coalesce(f"{side}_time", planned + pl.col(f"{side}_delay")).alias(f"predicted_{side}")


def _whole_days(side: str) -> pl.Expr:
    """By how many days a predicted time is wrong."""
    return _days(pl.col(f"predicted_{side}") - pl.col(f"planned_{side}").dt.epoch("s")).fill_null(0)


def _days(delay: pl.Expr) -> pl.Expr:
    return (delay + DAY_S // 2).floordiv(DAY_S)


def _observed(side: str) -> pl.Expr:
    predicted, seen, trip_ran = pl.col(f"predicted_{side}"), pl.col(f"{side}_seen"), pl.col("trip_ran")
    passed = (
        (predicted <= trip_ran) & (predicted - seen <= STALE_S) & (pl.col("stop_status") != "NO_DATA").fill_null(True)
    )
    known = (predicted <= seen) | ((seen < trip_ran) & passed)
    skipped = (pl.col("stop_status") == "SKIPPED").fill_null(False)
    return pl.when(known & ~skipped).then(_instant(predicted)).alias(f"observed_{side}")


def _instant(seconds: pl.Expr) -> pl.Expr:
    return pl.from_epoch(seconds, "s").dt.replace_time_zone("UTC").cast(TIMESTAMP)
