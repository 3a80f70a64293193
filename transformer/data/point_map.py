"""A map of the operational points, so that people see at reading whether the positions are right."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from transformer.data.points import OperationalPoints
from transformer.figures import DPI, MODEL_COLOUR, new_figure, set_title
from transformer.files import atomic_path

WIDTH_IN = 7.0
HEIGHTS_IN = (3.0, 10.0)


def point_map(points: OperationalPoints) -> Figure:
    """The points with a position that is used. A degree of latitude and one of longitude are equally long."""
    placed = points.nodes.drop_nulls("lat")
    height_km, width_km = points.extent_km
    height = WIDTH_IN * height_km / width_km if width_km else WIDTH_IN
    figure, axes = new_figure((WIDTH_IN, min(max(height, HEIGHTS_IN[0]), HEIGHTS_IN[1]) + 1))
    axes.scatter(placed["lon"].to_numpy(), placed["lat"].to_numpy(), s=8, color=MODEL_COLOUR, linewidths=0)
    if not placed.is_empty():
        middle = float(placed.select((placed["lat"].min() + placed["lat"].max()) / 2).item())  # type: ignore[operator]
        axes.set_aspect(1 / math.cos(math.radians(middle)))
    unused = len(points.impossible) + len(points.outliers)
    detail = f"{points.placed:,} of {points.nodes.height:,} have a position; {height_km:,.0f} × {width_km:,.0f} km"
    set_title(axes, "Operational points", detail + (f"; {unused:,} positions are not used" if unused else ""))
    axes.set_xlabel("longitude (°)")
    axes.set_ylabel("latitude (°)")
    return figure


def write_point_map(points: OperationalPoints, path: Path) -> None:
    with atomic_path(path) as temporary:
        point_map(points).savefig(temporary, dpi=DPI, format="png")
