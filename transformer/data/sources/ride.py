"""RIDE Silver, the released tables of the open benchmark of train delay prediction (arXiv 2606.05070).

    python -m transformer import ride --months 2024-01 --to data/ride

They hold three years of the whole Belgian network, made from Infrabel's punctuality files. Each month has the tables
`events/events_YYYYMM.parquet` and `journeys/journeys_YYYYMM.parquet`. The points are in `static/op_nodes.parquet`.
An event file has one row per event in the order of the journey, and no `seq`. A `service_date` is text such as
`01JAN2023`. Timestamps have no zone and mean the wall clock of Brussels; see `local_time`.

RIDE removed every journey with a missing or an absurd delay, so no event is unobserved. Its rule for pass-throughs
differs from that of `infrabel`: a stop without planned dwell is a pass-through here. Do not train on a mix of both.

The tables of lines, links and weather are kept in `ride/` of the data folder. The tables of the optional inputs
`weather` and `links` are made of them. Their layout is that which the benchmark's own builders read. A weather row has
the temperature and the wind of its time, and the rain and the snow of the hour before, as in the archive of Open-Meteo.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from transformer.data.input_tables import TABLES
from transformer.data.sources.download import Progress, PublishedFile
from transformer.data.sources.expressions import first_problem
from transformer.data.sources.infrabel import TIMEZONE, train_type
from transformer.data.sources.local_time import nearer_instant, only_instant, planned_instants
from transformer.data.sources.periods import month_span, months_of
from transformer.data.sources.source import About, RawFile, Source
from transformer.data.tables import ARRIVAL, DEPARTURE, EVENT_TYPES, PASS_THROUGH
from transformer.errors import ServiceError, UserError
from transformer.files import atomic_path
from transformer.parquet import parquet_schema, read_parquet, write_parquet
from transformer.text import first_line

log = logging.getLogger(__name__)

REPOSITORY = "orailix/ride-silver"  # on Hugging Face
REMEDY = "download it again"
STATIC = ("line_sections", "node_links", "weather")
_EVENTS = re.compile(r"events_(\d{4})(0[1-9]|1[0-2])\.parquet")
_COLUMNS = ("train_id", "service_date", "op_id", "event_type", "planned_ts", "observed_ts")
_WEATHER = ("temperature_2m", "rain", "snowfall", "wind_speed_10m")  # °C, mm, cm, km/h
_MM_OF_SNOW = 1 / 0.7  # water in one cm of fresh snow, as Open-Meteo counts it
_KM_H = 3.6  # km/h in one m/s
_HOUR = pl.duration(hours=1)
_ATTRIBUTES = ("train_relation", "operator")


class Ride(Source):
    """Belgium: the tables of the benchmark."""

    about = About(
        name="ride",
        title="RIDE Silver, the benchmark's tables of the whole Belgian network",
        country="Belgium",
        timezone=TIMEZONE,
        depth="2023-01 to 2025-12",
        size="2.6 M events, some 30 MB",
        licence="CC BY 4.0; RIDE (arXiv 2606.05070), with data of Infrabel and Open-Meteo",
        unobserved="all listed events were observed; journeys with gaps, and cancelled trains, are absent",
        pass_throughs=True,
        page="https://huggingface.co/datasets/orailix/ride-silver",
    )
    layout = "events/events_YYYYMM.parquet"

    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        months = months_of(days)
        page = f"{self.about.page}/resolve/main/"
        found = [("static/op_nodes.parquet", month_span(*months[0]))] if months else []
        for month in months:
            name = "{:04d}{:02d}".format(*month)
            found += [(f"{table}/{table}_{name}.parquet", month_span(*month)) for table in ("events", "journeys")]
        return [PublishedFile(name, page + name, *span) for name, span in found]

    def fetch(self, days: Sequence[date], raw: Path, progress: Progress) -> None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        names = [file.name for file in self.published(days)]
        progress(f"{REPOSITORY}: {len(names)} files of the months, and the static tables, into {raw}")
        try:
            snapshot_download(
                REPOSITORY,
                repo_type="dataset",
                allow_patterns=[*names, *(f"static/{table}.parquet" for table in STATIC)],
                local_dir=raw,
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ServiceError(
                f"the download of {REPOSITORY} failed ({first_line(error)[:160]}); run the command again to "
                "continue it, or name a folder that has the files with --from"
            ) from None
        if missing := [name for name in names if not (raw / name).is_file()]:
            raise UserError(f"{REPOSITORY} does not have {missing[0]}; choose months from {self.about.depth}")

    def find(self, folder: Path) -> list[RawFile]:
        found = [(match, path) for path in folder.rglob("events_*.parquet") if (match := _EVENTS.fullmatch(path.name))]
        return sorted(
            (RawFile((path,), *month_span(int(match[1]), int(match[2]))) for match, path in found),
            key=lambda file: file.first,
        )

    def check(self, file: RawFile) -> None:
        [path] = file.paths
        names = parquet_schema(path, REMEDY).names()
        if missing := [name for name in _COLUMNS if name not in names]:
            raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(names)}; {REMEDY}")

    def scan(self, file: RawFile, counts: Counter[str]) -> Iterator[pl.LazyFrame]:
        [path] = file.paths
        rows = pl.scan_parquet(path, glob=False)
        schema = rows.collect_schema()
        for name in ("planned_ts", "observed_ts"):
            if not isinstance(schema[name], pl.Datetime):
                raise UserError(f"{path}: column {name!r} holds {schema[name]}, not timestamps; {REMEDY}")
        kinds = pl.col("event_type")
        instants = (
            rows.select(
                _service_date(schema["service_date"]).alias("service_date"),
                pl.col("train_id").cast(pl.String),
                pl.col("op_id").cast(pl.Int32, strict=False),
                kinds.cast(pl.String),
                _naive("planned_ts", schema),
                _naive("observed_ts", schema),
            )
            .with_row_index("order")
            .with_columns(planned_instants("planned_ts", TIMEZONE, ["service_date", "train_id"], "order"))
            .with_columns(nearer_instant("observed_ts", "planned_ts", TIMEZONE))
        )
        visits = instants.select(
            "service_date",
            "train_id",
            "op_id",
            pl.col("order").cast(pl.Int64),
            *(
                pl.when(kinds.is_in([kind, PASS_THROUGH])).then(pl.col(column)).alias(f"{name}_{side}")
                for side, kind in (("arr", ARRIVAL), ("dep", DEPARTURE))
                for name, column in (("planned", "planned_ts"), ("observed", "observed_ts"))
            ),
            (kinds == PASS_THROUGH).alias("passes"),
            pl.col("train_id").alias("train_number"),
            first_problem(
                {
                    "bad_service_date": pl.col("service_date").is_null(),
                    "bad_train_number": pl.col("train_id").is_null(),
                    "bad_point_number": pl.col("op_id").is_null(),
                    "no_planned_time": pl.col("planned_ts").is_null() | ~kinds.is_in(EVENT_TYPES).fill_null(False),
                }
            ),
        )
        yield visits.join(_journeys(path), on=["service_date", "train_id"], how="left", maintain_order="left")

    def points(self, folder: Path) -> pl.DataFrame:
        paths = [folder] if folder.is_file() else [folder / "static" / "op_nodes.parquet", folder / "op_nodes.parquet"]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            return super().points(folder)
        table = read_parquet(found, REMEDY)
        if missing := [name for name in ("op_id", "op_name", "lat", "lon") if name not in table.columns]:
            raise UserError(f"{found}: column {missing[0]!r} is missing; it has {', '.join(table.columns)}; {REMEDY}")
        return table.select(
            pl.col("op_id").cast(pl.Int32),
            pl.col("op_name").cast(pl.String),
            pl.col("lat", "lon").cast(pl.Float64),
        )

    def keep(self, folder: Path, target: Path) -> None:
        for name in STATIC:
            path = folder / "static" / f"{name}.parquet"
            if path.is_file():
                with atomic_path(target / "ride" / path.name) as temporary:
                    shutil.copyfile(path, temporary)
        for table, made in ((TABLES["weather"], _weather), (TABLES["links"], _links)):
            try:
                rows = made(target / "ride")
            except (PolarsError, UserError) as error:
                log.warning(
                    "%s: %s is not made, since its tables in ride/ have another layout (%s)",
                    self.about.name,
                    table.file,
                    first_line(error)[:160],
                )
                continue
            if rows is not None:
                write_parquet(target / table.file, rows)


def _weather(kept: Path) -> pl.DataFrame | None:
    """The table of the input `weather`; None = no such file."""
    path = kept / "weather.parquet"
    if not path.is_file():
        return None
    rows = read_parquet(path, REMEDY).select("op_id", "time", *_WEATHER)
    rows = rows.with_columns(_naive("time", rows.schema))
    # A row is known at its time, so its hour begins one hour before.
    return rows.select(
        pl.col("op_id").cast(pl.Int32),
        (only_instant("time", TIMEZONE) - _HOUR).alias("ts"),
        pl.col("temperature_2m").cast(pl.Float32).alias("temperature_c"),
        (pl.col("rain") + pl.col("snowfall") * _MM_OF_SNOW).cast(pl.Float32).alias("precipitation_mm"),
        pl.col("snowfall").cast(pl.Float32).alias("snowfall_cm"),
        (pl.col("wind_speed_10m") / _KM_H).cast(pl.Float32).alias("wind_m_s"),
    )


def _links(kept: Path) -> pl.DataFrame | None:
    """The table of the input `links`; None = no such file."""
    path, sections = kept / "node_links.parquet", kept / "line_sections.parquet"
    if not path.is_file():
        return None
    links = read_parquet(path, REMEDY)
    if "nb_tracks" not in links.columns and "line_section_id" in links.columns and sections.is_file():
        tracks = read_parquet(sections, REMEDY).select("line_section_id", "nb_tracks").unique("line_section_id")
        links = links.join(tracks, on="line_section_id", how="left", maintain_order="left")
    names = {"u_node_id": pl.Int32, "v_node_id": pl.Int32, "distance_m": pl.Float32, "nb_tracks": pl.Float32}
    return links.select(pl.col(name).cast(dtype) for name, dtype in names.items() if name in links.columns)


def _service_date(dtype: pl.DataType) -> pl.Expr:
    column = pl.col("service_date")
    if dtype != pl.String:
        return column.cast(pl.Date)
    written, iso = (column.str.to_date(style, strict=False) for style in ("%d%b%Y", "%Y-%m-%d"))
    return pl.coalesce(written, iso)


def _naive(name: str, schema: pl.Schema) -> pl.Expr:
    """The wall clock of Brussels, also of a column that has a zone."""
    dtype, column = schema[name], pl.col(name)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        column = column.dt.convert_time_zone(TIMEZONE).dt.replace_time_zone(None)
    return column.cast(pl.Datetime("us"))


def _journeys(events: Path) -> pl.LazyFrame:
    """Attributes of the journeys in the month of an events file. Without its file of journeys, there are none."""
    path = events.parent.parent / "journeys" / events.name.replace("events", "journeys")
    empty = {"service_date": pl.Date, "train_id": pl.String, "train_type": pl.String}
    if not path.is_file():
        return pl.LazyFrame(schema=empty | dict.fromkeys(_ATTRIBUTES, pl.String))
    rows = pl.scan_parquet(path, glob=False)
    schema = rows.collect_schema()
    attributes = [
        (pl.col(name) if name in schema else pl.lit(None)).cast(pl.String).alias(name) for name in _ATTRIBUTES
    ]
    return (
        rows.select(
            _service_date(schema["service_date"]).alias("service_date"), pl.col("train_id").cast(pl.String), *attributes
        )
        .unique(["service_date", "train_id"], keep="first", maintain_order=True)
        .with_columns(train_type("train_relation").alias("train_type"))
    )
