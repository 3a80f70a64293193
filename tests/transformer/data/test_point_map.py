"""The map of the points: all that have a position, in the proportions of the ground."""

import math
from pathlib import Path

import polars as pl
import pytest

from transformer.data.point_map import point_map, write_point_map
from transformer.data.points import read_points
from transformer.data.tables import op_nodes_path


def folder_with(tmp_path: Path, lat: list[float | None], lon: list[float | None]) -> Path:
    frame = pl.DataFrame({"op_id": range(len(lat)), "op_name": ["x"] * len(lat), "lat": lat, "lon": lon})
    frame.write_parquet(op_nodes_path(tmp_path))
    return tmp_path


def test_points_are_where_they_lie(tmp_path: Path) -> None:
    points = read_points(folder_with(tmp_path, [50.0, 51.0, None, 0.0], [4.0, 5.0, 4.0, 0.0]))
    (axes,) = point_map(points).axes
    (dots,) = axes.collections
    assert sorted(map(tuple, dots.get_offsets().tolist())) == [(4.0, 50.0), (5.0, 51.0)]
    assert axes.get_aspect() == pytest.approx(1 / math.cos(math.radians(50.5)))
    texts = " ".join(text.get_text() for text in axes.texts)
    assert "2 of 4 have a position; 111 × 71 km; 1 positions are not used" in texts


@pytest.mark.parametrize(("lat", "lon"), [([None], [None]), ([50.0], [4.0]), ([50.0, 50.0], [4.0, 9.0])])
def test_few_points_are_a_map_too(tmp_path: Path, lat: list[float | None], lon: list[float | None]) -> None:
    path = tmp_path / "points.png"
    frame = folder_with(tmp_path, lat, lon)
    write_point_map(read_points(frame), path)
    assert path.read_bytes().startswith(b"\x89PNG")
