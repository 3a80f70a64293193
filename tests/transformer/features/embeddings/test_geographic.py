from __future__ import annotations

import numpy as np
import pytest

from transformer.features.embeddings.geographic import EARTH_RADIUS_KM, coordinates_km

BUDAPEST, GYOR, SZEGED = (47.5000, 19.0833), (47.6819, 17.6344), (46.2386, 20.1434)


def great_circle_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    (lat_a, lon_a), (lat_b, lon_b) = np.radians(a), np.radians(b)
    half = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return float(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(half)))


def test_distances_are_those_on_the_globe(nodes_of) -> None:
    op_ids, east_north = coordinates_km(nodes_of({3: SZEGED, 1: BUDAPEST, 2: GYOR}))

    assert op_ids.tolist() == [1, 2, 3]
    for i, j, a, b in [(0, 1, BUDAPEST, GYOR), (0, 2, BUDAPEST, SZEGED), (1, 2, GYOR, SZEGED)]:
        assert np.linalg.norm(east_north[i] - east_north[j]) == pytest.approx(great_circle_km(a, b), rel=0.01)


def test_axes_point_east_and_north_from_the_mean(nodes_of) -> None:
    _, east_north = coordinates_km(nodes_of({1: (47.0, 19.0), 2: (47.0, 20.0), 3: (48.0, 19.0)}))

    assert east_north[1, 0] > east_north[0, 0] and east_north[1, 1] == east_north[0, 1]
    assert east_north[2, 1] > east_north[0, 1] and east_north[2, 0] == east_north[0, 0]
    np.testing.assert_allclose(east_north.mean(axis=0), 0, atol=1e-9)


def test_points_without_a_whole_position_are_left_out(nodes_of) -> None:
    op_ids, east_north = coordinates_km(
        nodes_of({1: BUDAPEST, 2: None, 3: (47.0, None), 4: (float("nan"), 19.0), 5: GYOR})
    )

    assert op_ids.tolist() == [1, 5] and east_north.shape == (2, 2)


def test_no_positions_at_all(nodes_of) -> None:
    op_ids, east_north = coordinates_km(nodes_of({1: None}))

    assert op_ids.shape == (0,) and east_north.shape == (0, 2)
