"""The archive of German trains from Deutsche Bahn's timetable service (open data, CC BY 4.0).

    python -m transformer import db --months 2026-01..2026-03 --to data/germany

The project deutsche-bahn-data publishes one Parquet file a month, `data-YYYY-MM.parquet`. It has one row per train and
stop, with planned and changed times of whole minutes. Since 2025-11-02 it holds every station of Germany, and before
that about a hundred. The project rewrites its history, and its columns change. This module reads all generations:
`train_name` and `is_canceled`; then `train_number`, `line_number` and `is_canceled`; then one cancellation per side;
then marks of added stops and replacement trains. It also reads recorded answers of the service itself; see `iris`.

This module decides four things that the file leaves open:

Zero. Without a message the changed time equals the planned one, so that it may mean "never reported". A train or a
station whose delays in the file are all zero is taken as not observed, unless the import has the option
`--keep-zeros`. All other changed times count as observed, though the last message may have been a forecast.

Identity. The `id` of a row is the train's hash, the time of its first departure, and the position of the stop. The hash
is the same on each date. The date of the first departure is the service date, also after midnight. Train numbers are
not unique.

Order. The position is the order. Stops abroad and lost hours leave gaps. Added stops have made-up planned times and are
left out. A train whose planned times go back in that order is left out whole.

Local time. Times are wall-clock times of Europe/Berlin; see `local_time`. In the hour that autumn repeats, the order of
the stops says which of the two instants a planned time is.

Answers of the station service StaDa, `stada*.json` in the same folder, give the points their positions.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from transformer.data.sources import iris
from transformer.data.sources.download import PublishedFile
from transformer.data.sources.expressions import first_problem, near_service_date, train_kind, without_planned_time
from transformer.data.sources.local_time import earlier_instant, in_order, nearer_instant
from transformer.data.sources.never_reported import without_silent_zeros
from transformer.data.sources.periods import month_span, months_of
from transformer.data.sources.services import without_re_routed
from transformer.data.sources.source import About, RawFile, Source
from transformer.errors import UserError
from transformer.parquet import UNREADABLE, parquet_schema
from transformer.text import one_line

PAGE = "https://huggingface.co/datasets/piebro/deutsche-bahn-data"
TIMEZONE = "Europe/Berlin"
REMEDY = "download it again"
SIDES = {"arr": "arrival", "dep": "departure"}
TIMES = tuple(f"{name}_{kind}_time" for name in SIDES.values() for kind in ("planned", "change"))
COLUMNS = ("id", "eva", "station_name", "train_type", *TIMES)
CANCELLED = tuple(f"{name}_is_canceled" for name in SIDES.values())
CANCELLED_BOTH = "is_canceled"  # until 2026-08
_NAME = re.compile(r"data-(\d{4})-(0[1-9]|1[0-2])\.parquet")
_ID = r"^(?<ride>(?<hash>-?\d+)-(?<day>\d{6})\d{4})-(?<order>\d+)$"  # half of the hashes are negative

# Categories in `train_type`. The other ones are regional: products such as RE and S, or codes of operators such as ERB.
NO_TRAIN = r"bus|taxi|^sev$|^ev$|^str$|^u$"
NO_TRAIN_LINE = r"^(sev|ev|bus)[ \d]*$"
LONG_DISTANCE = (
    *("ICE", "IC", "EC", "ECE", "IR", "D", "RJ", "RJX", "TGV", "THA", "EST", "FLX", "WB", "NJ", "EN", "ES"),
)


class DeutscheBahn(Source):
    """Germany: monthly Parquet, or recorded XML."""

    about = About(
        name="db",
        title="Deutsche Bahn timetables, archived by deutsche-bahn-data",
        country="Germany",
        timezone=TIMEZONE,
        depth="2024-07 to last month; every station from 2025-11-02",
        size="600 MB, 15 M rows",
        licence="CC BY 4.0; source: Deutsche Bahn AG, archived by piebro/deutsche-bahn-data",
        unobserved="no: a changed time that equals the planned one can mean on time or never reported; those of trains "
        "and stations that report no other delay in a file are taken as not observed (--keep-zeros keeps them). In "
        "recorded XML yes",
        pass_throughs=False,
        page=PAGE,
    )
    layout = "data-YYYY-MM.parquet, or YYYY-MM-DD/EVA_plan_HH.xml and EVA_fchg_HH.xml"
    has_options = frozenset({"keep_zeros"})

    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        names = {month: "data-{:04d}-{:02d}.parquet".format(*month) for month in months_of(days)}
        folder = f"{PAGE}/resolve/main/monthly_processed_data/"
        return [PublishedFile(name, folder + name, *month_span(*month)) for month, name in names.items()]

    def find(self, folder: Path) -> list[RawFile]:
        files = iris.find(folder)
        for path in sorted(folder.rglob("*.parquet")):
            if match := _NAME.fullmatch(path.name):
                files.append(RawFile((path,), *month_span(int(match[1]), int(match[2]))))
            elif span := _dates(path):
                files.append(RawFile((path,), *span))
        return sorted(files, key=lambda file: file.first)

    def check(self, file: RawFile) -> None:
        path = file.paths[0]
        if iris.is_recording(path):
            return
        schema = parquet_schema(path, REMEDY)
        if missing := _missing(schema):
            raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(schema)}; {REMEDY}")
        for name in TIMES:
            if not isinstance(schema[name], pl.Datetime):
                raise UserError(f"{path}: column {name!r} holds {schema[name]}, not timestamps; {REMEDY}")

    def scan(self, file: RawFile, counts: Counter[str]) -> Iterator[pl.LazyFrame]:
        path = file.paths[0]
        if iris.is_recording(path):
            yield from (_typed_rows(frame.lazy()) for frame in iris.read(file, counts))
            return
        try:
            visits = _typed_rows(pl.scan_parquet(path, glob=False))
            yield visits if self.options.keep_zeros else without_silent_zeros(visits, "hash", "op_id")
        except (*UNREADABLE, OSError) as error:
            raise UserError(f"{path} cannot be read ({one_line(str(error))[:160]}); {REMEDY}") from None

    def visits(self, rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
        return without_re_routed(in_order(rows, TIMEZONE))

    def points(self, folder: Path) -> pl.DataFrame:
        files = [folder] if folder.is_file() else sorted(folder.glob("stada*.json"))
        stations = [row for path in reversed(files) for row in _stations(path)]  # a station may be in old ones only
        points = pl.DataFrame(stations, schema=("op_id", "op_name", "lat", "lon"), orient="row") if stations else None
        return super().points(folder) if points is None else points.unique("op_id", keep="first", maintain_order=True)


def _missing(schema: pl.Schema) -> list[str]:
    cancelled = () if CANCELLED_BOTH in schema else CANCELLED
    return [name for name in (*COLUMNS, *cancelled) if name not in schema]


def _dates(path: Path) -> tuple[date, date] | None:
    """The first and the last service date of a Parquet file of this source that has another name."""
    try:
        rows = pl.scan_parquet(path, glob=False)
        if _missing(rows.collect_schema()):
            return None
        day = pl.col("id").str.extract_groups(_ID).struct.field("day").str.to_date("%y%m%d", strict=False)
        first, last = rows.select(day.min().alias("first"), day.max().alias("last")).collect(engine="streaming").row(0)
    except (*UNREADABLE, OSError):
        return None
    return None if first is None else (first, last)


def _typed_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return visits, and the column `hash`, which a train has on all its dates."""
    names = rows.collect_schema().names()

    def optional(name: str) -> pl.Expr:
        """A column of some generations only. Empty text is null."""
        text = pl.col(name).cast(pl.String).str.strip_chars() if name in names else pl.lit(None, pl.String)
        return pl.when(text != "").then(text)

    parts = pl.col("id").str.extract_groups(_ID).struct
    rows = rows.with_columns(
        parts.field("ride").alias("train_id"),
        parts.field("hash").alias("hash"),
        parts.field("day").str.to_date("%y%m%d", strict=False).alias("service_date"),
        parts.field("order").cast(pl.Int64, strict=False).alias("order"),
        pl.col("eva").cast(pl.Int32, strict=False).alias("op_id"),
        optional("train_type").alias("category"),
        optional("line_number").alias("line"),
        *(
            pl.col(f"{name}_planned_time").cast(pl.Datetime("us")).alias(f"planned_{side}")
            for side, name in SIDES.items()
        ),
        *(
            pl.col(f"{name}_change_time").cast(pl.Datetime("us")).alias(f"observed_{side}")
            for side, name in SIDES.items()
        ),
        *(_cancelled(name, names).alias(f"cancelled_{side}") for side, name in SIDES.items()),
    )
    added = pl.col("is_additional_stop").fill_null(False) if "is_additional_stop" in names else pl.lit(False)
    times = [f"{kind}_{side}" for kind in ("planned", "observed") for side in SIDES]
    problem = first_problem(
        {
            "bad_service_date": pl.col("service_date").is_null(),
            "no_train": _is_no_train(),
            "bad_point_number": pl.col("op_id").is_null(),
            "additional_stop": added,
            "bad_time": pl.any_horizontal(pl.col(name).is_not_null() & ~near_service_date(name) for name in times),
            "no_planned_time": without_planned_time(),
        }
    )
    return (
        rows.with_columns(problem)
        .with_columns(earlier_instant(f"planned_{side}", TIMEZONE) for side in SIDES)
        .with_columns(nearer_instant(f"observed_{side}", f"planned_{side}", TIMEZONE) for side in SIDES)
        .select(
            "service_date",
            "train_id",
            "hash",
            "op_id",
            pl.coalesce(optional("station_name"), optional("xml_station_name")).alias("op_name"),
            "order",
            "planned_arr",
            "planned_dep",
            *(
                pl.when(~pl.col(f"cancelled_{side}")).then(pl.col(f"observed_{side}")).alias(f"observed_{side}")
                for side in SIDES
            ),
            pl.lit(False).alias("passes"),
            "cancelled_arr",
            "cancelled_dep",
            pl.coalesce(optional("train_number"), "hash").alias("train_number"),
            train_kind(
                pl.col("category").str.to_uppercase().is_in(LONG_DISTANCE), pl.col("category").is_not_null()
            ).alias("train_type"),
            pl.coalesce(optional("train_name"), "line", "category").alias("train_relation"),
            optional("operator").alias("operator"),
            "problem",
            optional("changed").alias("changed"),
        )
    )


def _cancelled(name: str, names: Sequence[str]) -> pl.Expr:
    column = f"{name}_is_canceled" if f"{name}_is_canceled" in names else CANCELLED_BOTH
    return pl.col(column).fill_null(False)


def _is_no_train() -> pl.Expr:
    category, line = (pl.col(name).str.to_lowercase() for name in ("category", "line"))
    return (category.str.contains(NO_TRAIN) | line.str.contains(NO_TRAIN_LINE)).fill_null(False)


def _stations(path: Path) -> Iterator[tuple[int, str, float | None, float | None]]:
    """Number, name, latitude and longitude of each station number in an answer of StaDa."""
    try:
        answer: Any = json.loads(path.read_bytes())
        stations = answer["result"] if isinstance(answer, dict) else answer
        for station in stations:
            for number in station["evaNumbers"]:
                longitude, latitude = number.get("geographicCoordinates", {}).get("coordinates", (None, None))
                yield int(number["number"]), str(station["name"]), latitude, longitude
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no answer of StaDa ({one_line(repr(error))[:160]}); {REMEDY}") from None
