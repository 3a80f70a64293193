"""Operational points: their table, and where they lie. Positions that cannot be right are not used, and are named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import polars as pl

from transformer.data.conform import REMEDY, conform
from transformer.data.tables import OP_NODE_SCHEMA, op_nodes_path
from transformer.errors import UserError
from transformer.parquet import read_parquet

EARTH_RADIUS_KM = 6_371.0
FAR_FACTOR, FAR_KM = 10, 100  # an outlier is further from the centre than both: ten median distances, and 100 km
NEAR_ZONE_KM, FAR_FROM_ZONE_KM = 2_000, 3_000  # a railway lies near its time zone's city; a swapped one does not
NAMED = 5  # points named in a line


@dataclass(frozen=True)
class OperationalPoints:
    """The points of a data folder, and the oddities of their table."""

    nodes: pl.DataFrame  # OP_NODE_SCHEMA, one row per op_id, sorted; positions that are not used are null
    placed: int  # points with a position that is used
    extent_km: tuple[float, float]  # north–south, west–east
    impossible: tuple[str, ...]  # names of points whose position is (0, 0) or no position on earth
    outliers: tuple[str, ...]  # names of points that lie far from all others
    repeated: int  # rows of a point that has an earlier row

    def lines(self) -> Iterator[str]:
        """The summary for people, one fact a line."""
        height, width = self.extent_km
        yield (
            f"points: {self.nodes.height:,}, {self.placed:,} of them with a position, "
            f"{height:,.0f} km from north to south, {width:,.0f} km from west to east"
        )
        for names, what in ((self.impossible, "impossible"), (self.outliers, "far from all others, so not used")):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                yield f"points: the position of {', '.join(names[:NAMED])}{more} is {what}"
        if self.repeated:
            yield f"points: {self.repeated:,} rows repeat a point; its first position counts"


def read_op_nodes(folder: Path) -> pl.DataFrame:
    """Operational points with the columns of OP_NODE_SCHEMA, one row per `op_id`. See `read_points`."""
    return read_points(folder).nodes


def read_points(folder: Path, timezone: str = "UTC") -> OperationalPoints:
    """Read the operational points. Impossible positions and outliers become null.

    Args:
        timezone: zone of the railway. If the points lie near its city only with latitude and longitude swapped, they
            are refused.

    Raises:
        UserError: the file is missing, truncated or not Parquet, a column is missing or has the wrong type, most
            positions are no degrees, or latitude and longitude are swapped.
    """
    path = op_nodes_path(folder)
    found = conform(read_parquet(path, REMEDY), OP_NODE_SCHEMA, set(), path, "UTC")
    found = found.filter(pl.col("op_id").is_not_null())
    given = pl.col("lat").is_not_nan() & pl.col("lon").is_not_nan()
    on_earth = pl.col("lat").is_between(-90, 90) & pl.col("lon").is_between(-180, 180)
    possible = on_earth & ((pl.col("lat") != 0) | (pl.col("lon") != 0))
    marked = found.with_columns(given.fill_null(False).alias("given"), possible.fill_null(False).alias("possible"))
    _refuse_other_units(marked, path)
    usable = marked.with_columns(pl.when("possible").then(pl.col("lat", "lon")))
    nodes = (
        # The first row of a point names it; its first position may be in a later row.
        usable.group_by("op_id", maintain_order=True)
        .agg(
            pl.col("op_name").first(),
            pl.col("lat", "lon").drop_nulls().first(),
            (pl.col("given").any() & ~pl.col("possible").any()).alias("impossible"),
        )
        .sort("op_id")
    )
    far = _outliers(nodes)
    if _are_swapped(nodes.filter(~far), timezone):
        raise UserError(
            f"{path}: lat and lon are swapped: so written, the points are far from data.timezone={timezone}, and near "
            "it the other way round; swap the columns, or correct data.timezone"
        )
    nodes = nodes.with_columns(far.alias("far")).with_columns(pl.when(~pl.col("far")).then(pl.col("lat", "lon")))
    name = pl.col("op_name").fill_null(pl.col("op_id").cast(pl.String))
    return OperationalPoints(
        nodes=nodes.select(list(OP_NODE_SCHEMA)),
        placed=nodes["lat"].count(),
        extent_km=_extent_km(nodes),
        impossible=tuple(nodes.filter("impossible").select(name).to_series()),
        outliers=tuple(nodes.filter("far").select(name).to_series()),
        repeated=found.height - nodes.height,
    )


def _refuse_other_units(marked: pl.DataFrame, path: Path) -> None:
    """Refuse positions that are mostly not degrees. Without this line, all of them would be dropped one by one."""
    given = marked.filter("given")
    on_earth = given["lat"].is_between(-90, 90) & given["lon"].is_between(-180, 180)
    if given.is_empty() or on_earth.sum() >= given.height / 2:
        return
    lat, lon = (float(given[name].median() or 0) for name in ("lat", "lon"))  # type: ignore[arg-type]
    scale = next((power for power in (3, 5, 6, 7) if abs(lat) <= 90 * 10**power and abs(lon) <= 180 * 10**power), 0)
    whole = (given["lat"] % 1 == 0).all() and (given["lon"] % 1 == 0).all()
    remedy = f"divide them by 10^{scale}" if whole and scale else "convert projected metres to WGS 84 first"
    raise UserError(
        f"{path}: lat and lon are not degrees, for example {given['lat'][0]:g} and {given['lon'][0]:g}; {remedy}"
    )


def _distance_km(nodes: pl.DataFrame, lat: float, lon: float) -> pl.Series:
    """The great-circle distance of each point from a position, by the haversine formula."""
    phi, phi0 = pl.col("lat").radians(), math.radians(lat)
    half = ((phi - phi0) / 2).sin().pow(2) + phi.cos() * math.cos(phi0) * (
        (pl.col("lon").radians() - math.radians(lon)) / 2
    ).sin().pow(2)
    return nodes.select(2 * EARTH_RADIUS_KM * half.clip(0, 1).sqrt().arcsin()).to_series()


def _centre(nodes: pl.DataFrame) -> tuple[float, float]:
    """The medians, which a few wrong positions do not move."""
    lat, lon = nodes.select(pl.col("lat", "lon").median()).row(0)
    return float(lat), float(lon)


def _outliers(nodes: pl.DataFrame) -> pl.Series:
    if not nodes["lat"].count():
        return pl.repeat(False, nodes.height, dtype=pl.Boolean, eager=True)
    distance = _distance_km(nodes, *_centre(nodes))
    limit = max(FAR_FACTOR * float(distance.median() or 0), FAR_KM)  # type: ignore[arg-type]
    return (distance > limit).fill_null(False)


def _extent_km(nodes: pl.DataFrame) -> tuple[float, float]:
    if not nodes["lat"].count():
        return 0.0, 0.0
    south, north, west, east = nodes.select(
        pl.col("lat").min().alias("south"), pl.col("lat").max().alias("north"),
        pl.col("lon").min().alias("west"), pl.col("lon").max().alias("east"),
    ).row(0)  # fmt: skip
    degree = math.radians(1) * EARTH_RADIUS_KM
    return (north - south) * degree, (east - west) * degree * math.cos(math.radians((north + south) / 2))


def _are_swapped(nodes: pl.DataFrame, timezone: str) -> bool:
    city = zone_position(timezone)
    if city is None or not nodes["lat"].count():
        return False
    lat, lon = _centre(nodes)
    centre = pl.DataFrame({"lat": [lat, lon], "lon": [lon, lat]})
    if not -90 <= lon <= 90:
        return False
    written, swapped = _distance_km(centre, *city)
    return bool(written > FAR_FROM_ZONE_KM and swapped < NEAR_ZONE_KM)


def zone_position(timezone: str) -> tuple[float, float] | None:
    """Latitude and longitude of the city that stands for a time zone, in degrees; None = the zone has none.

    The table is `zone.tab` of the time zone database. Its positions are ISO 6709: `+5050+00420` is 50°50′N 4°20′E.
    """
    table = resources.files("tzdata").joinpath("zoneinfo", "zone.tab").read_text(encoding="utf-8")
    for line in table.splitlines():
        cells = line.split("\t")
        if len(cells) > 2 and not line.startswith("#") and cells[2] == timezone:
            split = max(cells[1].rfind("+"), cells[1].rfind("-"))
            return _degrees(cells[1][:split], 2), _degrees(cells[1][split:], 3)
    return None


def _degrees(text: str, digits: int) -> float:
    sign = -1 if text[0] == "-" else 1
    number = text[1:]
    minutes, seconds = number[digits : digits + 2], number[digits + 2 :]
    return sign * (int(number[:digits]) + int(minutes) / 60 + int(seconds or 0) / 3600)
