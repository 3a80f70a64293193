"""Operational points: unique, with positions that are possible, and a summary that names what is not."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.support.events import refusal
from tests.support.messages import assert_names
from transformer.data.points import read_op_nodes, read_points, zone_position
from transformer.data.tables import OP_NODE_SCHEMA, op_nodes_path


def test_points_are_unique_and_their_positions_possible(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "op_id": [3, 1, 2, 1, None, 4, 5],
            "op_name": ["c", "a", "b", "again", "none", "d", "e"],
            "lat": [47.5, 47.0, 91.0, 1.0, 1.0, None, float("nan")],
            "lon": [19, 19, 19, 1, 1, 19, 19],
        }
    ).write_parquet(op_nodes_path(tmp_path))
    nodes = read_op_nodes(tmp_path)
    assert dict(nodes.schema) == OP_NODE_SCHEMA
    assert nodes.rows() == [
        (1, "a", 47.0, 19.0),
        (2, "b", None, None),
        (3, "c", 47.5, 19.0),
        (4, "d", None, None),
        (5, "e", None, None),
    ]


def test_points_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "op_nodes.parquet", "does not exist")
    op_nodes_path(tmp_path).write_bytes(b"PAR1")
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "op_nodes.parquet", "not Parquet")
    pl.DataFrame({"op_id": [1], "op_name": ["a"], "lat": ["47° 30′"], "lon": [19]}).write_parquet(
        op_nodes_path(tmp_path)
    )
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "'lat'", "String", "numbers")
    pl.DataFrame({"op_id": [1]}).write_parquet(op_nodes_path(tmp_path))
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "'op_name', 'lat', 'lon'", "missing")


def points(tmp_path: Path, *positions: tuple[float | None, float | None]) -> Path:
    lat, lon = zip(*positions, strict=True)
    names = [f"p{number}" for number in range(len(positions))]
    frame = pl.DataFrame({"op_id": range(len(positions)), "op_name": names, "lat": lat, "lon": lon}, strict=False)
    frame.write_parquet(op_nodes_path(tmp_path))
    return tmp_path


BELGIUM = [(50.85 + 0.1 * n, 4.35 + 0.1 * n) for n in range(-5, 6)]


def test_the_summary_says_how_many_are_placed_and_where(tmp_path: Path) -> None:
    found = read_points(points(tmp_path, *BELGIUM, (None, None)), "Europe/Brussels")
    assert found.placed == 11
    assert found.extent_km == pytest.approx((111.2, 70.2), abs=0.5)
    assert list(found.lines()) == [
        "points: 12, 11 of them with a position, 111 km from north to south, 70 km from west to east"
    ]


def test_outliers_and_null_island_are_named_and_not_used(tmp_path: Path) -> None:
    found = read_points(points(tmp_path, *BELGIUM, (0, 0), (4.35, 50.85), (91, 4), (49.61, 6.13)), "Europe/Brussels")
    assert (found.impossible, found.outliers) == (("p11", "p13"), ("p12",))
    assert found.nodes["lat"].is_null().arg_true().to_list() == [11, 12, 13]
    assert found.extent_km[1] < 200
    assert_names(list(found.lines())[1], "p11, p13", "impossible")
    assert_names(list(found.lines())[2], "p12", "far from all others")


@pytest.mark.parametrize(
    ("scale", "offset", "named"),
    [(1e6, 0, "divide them by 10^6"), (1e4, 0.5, "WGS 84"), (1e5, 0, "divide them by 10^5")],
)
def test_other_units_are_refused(tmp_path: Path, scale: float, offset: float, named: str) -> None:
    folder = points(tmp_path, *[(round(lat * scale) + offset, round(lon * scale) + offset) for lat, lon in BELGIUM])
    assert_names(refusal(lambda: read_op_nodes(folder)), "op_nodes.parquet", "not degrees", named)


def test_swapped_columns_are_refused(tmp_path: Path) -> None:
    folder = points(tmp_path, *[(lon, lat) for lat, lon in BELGIUM])
    message = refusal(lambda: read_points(folder, "Europe/Brussels"))
    assert_names(message, "lat and lon are swapped", "data.timezone=Europe/Brussels")
    assert read_points(folder, "UTC").placed == 11  # no city to compare with


def test_the_position_of_a_repeated_point_may_be_in_a_later_row(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"op_id": [1, 1, 2], "op_name": ["a", "b", "c"], "lat": [None, 50.0, 51.0], "lon": [None, 4.0, 4.0]}
    )
    frame.write_parquet(op_nodes_path(tmp_path))
    found = read_points(tmp_path)
    assert found.nodes.rows() == [(1, "a", 50.0, 4.0), (2, "c", 51.0, 4.0)]
    assert_names(list(found.lines())[-1], "1 rows repeat a point")


@pytest.mark.parametrize(
    ("zone", "position"),
    [("Europe/Brussels", (50.83, 4.33)), ("America/New_York", (40.71, -74.01)), ("Asia/Kolkata", (22.53, 88.37))],
)
def test_a_time_zone_has_a_city(zone: str, position: tuple[float, float]) -> None:
    assert zone_position(zone) == pytest.approx(position, abs=0.01)
    assert zone_position("UTC") is None
