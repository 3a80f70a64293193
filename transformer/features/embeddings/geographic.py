"""Positions of points, in local metric coordinates."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG
N_COORDINATES = 2  # the columns before the indicator


def coordinates_km(op_nodes: pl.DataFrame) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Points with a known position, and their (east, north) in km from the mean position: int32[K], float64[K, 2].

    The projection is equirectangular around the mean latitude. If a railway at 50° N is 500 km long from north to
    south, east-west distances at its ends are wrong by up to 5 %. `op_nodes` has the columns of OP_NODE_SCHEMA. Points
    without latitude or longitude are left out.
    """
    located = op_nodes.select("op_id", pl.col("lat", "lon").fill_nan(None)).drop_nulls().sort("op_id")
    radians = np.radians(located.select("lon", "lat").to_numpy())
    if len(radians) == 0:
        return np.zeros(0, np.int32), np.zeros((0, N_COORDINATES))
    centre = radians.mean(axis=0)
    east_north = (radians - centre) * [np.cos(centre[1]), 1.0] * EARTH_RADIUS_KM
    return located["op_id"].to_numpy(), east_north
