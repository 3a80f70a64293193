"""The style of every figure of this project: colours, size, axes and titles."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

DPI = 192  # two dots for each pixel of CSS: sharp on the screens of today
MODEL_COLOUR = "#0072B2"
TRANSLATION_COLOUR = "#D55E00"
NEUTRAL_COLOUR = "#666666"
FAINT_COLOUR = "#DDDDDD"
HALO = withStroke(linewidth=2.5, foreground="white")  # keeps text readable on top of data


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of `size` (width and height in inches) with one axes."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Remove the box around the data, and draw a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT_COLOUR, linewidth=0.6)
    axes.set_axisbelow(True)


def reliability_axes(axes: Axes) -> None:
    """A square of predicted and observed shares, with the line on which both are equal."""
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":", label="calibrated")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_box_aspect(1)


def set_title(axes: Axes, title: str, detail: str) -> None:
    """Set a title, and in small type below it the data that the figure shows."""
    axes.set_title(title, loc="left", fontweight="bold", pad=22)
    axes.annotate(
        detail, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=NEUTRAL_COLOUR
    )
