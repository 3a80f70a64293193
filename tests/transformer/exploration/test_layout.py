"""Positions of points: by coordinates, between neighbours, or by running times."""

import itertools

import numpy as np
import polars as pl
import pytest

from transformer.exploration.layout import layout_by_running_time, place_points
from transformer.features.graph import RailwayGraph


def graph(edges: list[tuple[int, int]], minutes: list[float]) -> RailwayGraph:
    op_ids = np.unique(np.array(edges)).astype(np.int32)
    positions = np.searchsorted(op_ids, np.array(edges)).astype(np.int32)
    return RailwayGraph(op_ids, positions, np.ones(len(edges)), 60 * np.array(minutes, np.float64))


def nodes(places: dict[int, tuple[float, float] | None]) -> pl.DataFrame:
    rows = [(op_id, str(op_id), *(place or (None, None))) for op_id, place in places.items()]
    schema = {"op_id": pl.Int32, "op_name": pl.String, "lat": pl.Float64, "lon": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def xy(points: pl.DataFrame) -> dict[int, tuple[float, float]]:
    return {op_id: (x, y) for op_id, x, y in points.select("op_id", "x", "y").iter_rows()}


LINE = graph([(1, 2), (2, 3), (7, 8)], [3, 5, 4])


def test_coordinates_in_km_and_the_rest_between_neighbours():
    places = place_points(nodes({1: (50.0, 4.0), 2: None, 3: (50.0, 4.2), 7: None, 8: None, 9: (50.0, 4.1)}), LINE)
    found = xy(places.points)
    assert set(found) == {1, 2, 3, 9}  # 7 and 8 have no position; no train runs to 9
    assert found[3][0] - found[1][0] == pytest.approx(0.2 * 111.195 * np.cos(np.radians(50)), rel=1e-4)
    assert found[2] == pytest.approx(found[9])  # halfway
    assert places.n_guessed == 1 and "km" in places.axes[0]
    assert places.links.rows() == [(*found[1], *found[2]), (*found[2], *found[3])]


def test_without_any_coordinates_distances_are_running_times():
    places = place_points(nodes(dict.fromkeys((1, 2, 3, 7, 8))), LINE)
    found = {op_id: np.array(place) for op_id, place in xy(places.points).items()}
    assert "minutes" in places.axes[0] and places.n_guessed == 5
    for a, b, minutes in ((1, 2, 3), (2, 3, 5), (1, 3, 8), (7, 8, 4)):
        assert np.linalg.norm(found[a] - found[b]) == pytest.approx(minutes, abs=1e-3)
    assert min(found[7][0], found[8][0]) > max(found[n][0] for n in (1, 2, 3))  # the smaller part lies right


def test_branches_do_not_lie_on_top_of_each_other():
    """Three lines of equal length from one station."""
    arms = [[0, *range(first, first + 6)] for first in (1, 11, 21)]
    edges = [pair for arm in arms for pair in itertools.pairwise(arm)]
    star = graph(edges, [4] * len(edges))
    placed = layout_by_running_time(star)
    ends = placed[np.searchsorted(star.op_ids, [arm[-1] for arm in arms])]
    apart = [np.linalg.norm(ends[a] - ends[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 24  # each is 24 minutes long
    assert np.array_equal(layout_by_running_time(star), placed)


@pytest.mark.parametrize("minutes", [[1.0], [0.0]])
def test_a_single_link(minutes: list[float]):
    placed = layout_by_running_time(graph([(1, 2)], minutes))
    assert np.isfinite(placed).all()


def test_a_network_without_points():
    empty = RailwayGraph(np.zeros(0, np.int32), np.zeros((0, 2), np.int32), np.zeros(0), np.zeros(0))
    assert place_points(nodes({1: None}), empty).points.is_empty()
