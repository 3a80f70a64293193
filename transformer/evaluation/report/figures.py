"""Figures of an evaluation, for people. Errors are in minutes, and the model is always compared with translation.

Every function returns a `matplotlib.figure.Figure` made through the object API, which needs no display and no global
state. `figure.savefig(path)` draws it with Agg. Colours are from Okabe and Ito, safe for colour-blind eyes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_hex
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from transformer.evaluation.metrics import (
    DELAY_CHANGE,
    HORIZON,
    MODEL_ERROR_S,
    TRANSLATION,
    TRANSLATION_ERROR_S,
    WITHIN_MIN,
    Bins,
)
from transformer.evaluation.sums import exact_sum, mean_of
from transformer.figures import (
    FAINT_COLOUR,
    HALO,
    MODEL_COLOUR,
    NEUTRAL_COLOUR,
    TRANSLATION_COLOUR,
    new_figure,
    reliability_axes,
    set_title,
    style_axes,
)
from transformer.prediction.columns import Interval
from transformer.prediction.row_files import EvaluationRows, collect_parts, parts_of

_COUNT_COLOURS = LinearSegmentedColormap.from_list("counts", ["#D0E3F2", "#4292C6", "#08306B"])
_DELAY_COLUMNS = {"model": "predicted_delay_s", "translation": "translation_delay_s"}
_HORIZON_LABEL = "horizon: planned time of the event − time of the snapshot (min)"
_WORST_PLACES = 8  # named on the map
_TYPES_SHOWN = 15  # more bars are hard to read
_CALIBRATION_EDGES_MIN = (-5, -2, -1, 0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 40, 50, 60, 90, 120)
_CALIBRATION_SHARE = 5e-4  # least share of the rows in a group: the quartiles of fewer rows are noise
_MAX_HISTOGRAM_BINS = 120  # per side; more bins are thinner than a pixel or two


def error_map(
    point_breakdown: pl.DataFrame,
    op_nodes: pl.DataFrame,
    edges: pl.DataFrame,
    value: Literal["mae_s", "skill"] = "mae_s",
) -> Figure:
    """The railway. A point's colour shows the model's MAE or skill; its size shows the number of rows.

    The worst places are numbered and named. A point close to a worse one is not named. Only the half of the points with
    the most rows counts, since a handful of rows says little. Points without coordinates are counted, not drawn.

    Args:
        point_breakdown: `breakdown(rows, "op_id")`.
        op_nodes: `op_id`, `op_name`, `lat`, `lon` in degrees.
        edges: `op_a`, `op_b`, one line per link of the railway graph.
    """
    located = op_nodes.drop_nulls(["lat", "lon"])
    points = point_breakdown.join(located, on="op_id").drop_nulls(value).sort("n")
    unlocated = point_breakdown.join(located, on="op_id", how="anti").height
    stretch = _degree_ratio(located)
    figure, axes = new_figure((10, _map_height(located, stretch, width=8)))
    axes.add_collection(LineCollection(list(_segments(edges, located)), colors="#BBBBBB", linewidths=0.6, zorder=1))
    minutes = value == "mae_s"
    shown = points[value].to_numpy() / (60 if minutes else 1)
    limit = float(np.quantile(np.abs(shown), 0.98)) if points.height else 0.0  # a few outliers must not set the scale
    dots = axes.scatter(
        points["lon"].to_numpy(),
        points["lat"].to_numpy(),
        s=8 + np.minimum(15 * points["n"].to_numpy() / max(_mean(points["n"]), 1), 90),  # hubs must not hide others
        c=shown,
        cmap="viridis_r" if minutes else "RdBu",
        norm=Normalize(0, limit or 1.0) if minutes else Normalize(-min(limit or 1.0, 1.0), min(limit or 1.0, 1.0)),
        edgecolors=NEUTRAL_COLOUR,
        linewidths=0.3,
        zorder=2,
    )
    figure.colorbar(
        dots,
        ax=axes,
        label="model MAE (min)" if minutes else "skill against translation (blue = model better)",
        shrink=0.8,
        extend="max" if minutes else "both",
        format=None if minutes else PercentFormatter(1.0, decimals=0),
    )
    _name_worst_places(figure, axes, _worst_places(points, value, stretch), value)
    set_title(
        axes,
        "Model error per operational point" if minutes else "Skill per operational point",
        f"{points.height:,} points, {_total(points)} predictions, dot size = predictions"
        + (f"; points without coordinates, not drawn: {unlocated:,}" if unlocated else ""),
    )
    axes.set_xlabel("longitude (°)")
    axes.set_ylabel("latitude (°)")
    axes.grid(False)
    axes.autoscale_view()
    axes.set_aspect(stretch)
    return figure


def error_timeline(rows: EvaluationRows, day: date, timezone: str) -> Figure:
    """MAE and number of predictions of each snapshot, over one service date.

    Args:
        rows: see `columns.ROW_SCHEMA`.
        day: the service date to show, one of those in `rows`.
        timezone: IANA name of the clock on the time axis.
    """
    snapshots = (
        parts_of(rows)[day]
        .group_by("snapshot_ts")
        .agg(
            pl.len().alias("n"),
            (MODEL_ERROR_S.abs().mean() / 60).alias("model"),
            (TRANSLATION_ERROR_S.abs().mean() / 60).alias("translation"),
        )
        .sort("snapshot_ts")
        .collect()
    )
    figure, axes = new_figure((9, 4.6))
    times = snapshots["snapshot_ts"].dt.replace_time_zone(None).to_numpy()  # UTC: no hour is missing or double
    volume = axes.twinx()
    volume.fill_between(times, snapshots["n"].to_numpy(), color=FAINT_COLOUR, linewidth=0, label="predictions")
    volume.set_ylabel("predictions per snapshot", color=NEUTRAL_COLOUR)
    volume.tick_params(axis="y", colors=NEUTRAL_COLOUR)
    volume.set_ylim(0, 2.5 * max(int(snapshots["n"].to_numpy().max(initial=1)), 1))  # keeps the area below the curves
    volume.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    volume.spines[["top", "left"]].set_visible(False)
    axes.set_zorder(volume.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(times, snapshots["model"].to_numpy(), color=MODEL_COLOUR, marker=".", markersize=4, label="model")
    axes.plot(
        times,
        snapshots["translation"].to_numpy(),
        color=TRANSLATION_COLOUR,
        linestyle="--",
        marker=".",
        markersize=4,
        label="translation",
    )
    zone = ZoneInfo(timezone)
    axes.xaxis.set_major_locator(AutoDateLocator(tz=zone, maxticks=12))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=zone))  # type: ignore[no-untyped-call]
    axes.set_xlabel(f"time of the snapshot ({timezone})")
    axes.set_ylabel("MAE (min)")
    axes.set_ylim(bottom=0)
    set_title(
        axes,
        f"Error over the day, {day.isoformat()}",
        f"{_total(snapshots)} predictions in {snapshots.height:,} snapshots",
    )
    _legend_above(axes, *volume.get_legend_handles_labels())
    return figure


def error_by_horizon(horizon_breakdown: pl.DataFrame) -> Figure:
    """MAE of model and translation per horizon bin, with the skill and the number of predictions of each bin.

    Args:
        horizon_breakdown: `breakdown(rows, "horizon")`.
    """
    return _paired_bars(
        horizon_breakdown,
        names=minute_ranges(horizon_breakdown["horizon"], HORIZON, first="overdue"),
        title="Error by horizon",
        xlabel=_HORIZON_LABEL,
    )


def within_by_horizon(horizon_breakdown: pl.DataFrame) -> Figure:
    """Share of predictions with an error of at most 1, 2 and 5 minutes, of model and translation, per horizon bin.

    Args:
        horizon_breakdown: `breakdown(rows, "horizon")`.
    """
    figure, axes = new_figure((9, 5.5))
    position = np.arange(horizon_breakdown.height)
    for minutes, marker in zip(WITHIN_MIN, "os^", strict=True):
        for prefix, name, colour, style in (
            ("", "model", MODEL_COLOUR, "-"),
            (TRANSLATION, "translation", TRANSLATION_COLOUR, "--"),
        ):
            share = horizon_breakdown[f"{prefix}within_{minutes}_min"].to_numpy()
            axes.plot(
                position, share, color=colour, linestyle=style, marker=marker, label=f"{name}, within {minutes} min"
            )
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("share of predictions")
    _horizon_axis(axes, horizon_breakdown)
    set_title(axes, "Predictions within 1, 2 and 5 min, by horizon", f"{_total(horizon_breakdown)} predictions")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, frameon=False)
    return figure


def bias_by_horizon(horizon_breakdown: pl.DataFrame) -> Figure:
    """Mean error of model and translation per horizon bin. Above 0, predictions are too late.

    Args:
        horizon_breakdown: `breakdown(rows, "horizon")`.
    """
    figure, axes = new_figure((9, 5))
    position = np.arange(horizon_breakdown.height)
    _two_bars(axes, position, *_minutes(horizon_breakdown, "bias_s"))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(y=0.12)
    axes.set_ylabel("mean error (min)")
    _horizon_axis(axes, horizon_breakdown)
    set_title(axes, "Bias by horizon", f"{_total(horizon_breakdown)} predictions; above 0: predicted too late")
    _legend_above(axes)
    return figure


def error_by_delay_change(change_breakdown: pl.DataFrame) -> Figure:
    """MAE of model and translation, by change of delay after the snapshot.

    Args:
        change_breakdown: `breakdown(rows, "delay_change")`.
    """
    return _paired_bars(
        change_breakdown,
        names=minute_ranges(change_breakdown["delay_change"], DELAY_CHANGE),
        title="Error by change of delay",
        xlabel="change of delay: observed − last known delay (min)",
    )


def error_by_type(type_breakdown: pl.DataFrame) -> Figure:
    """MAE of model and translation per train type. The types with the most predictions are first.

    Args:
        type_breakdown: `breakdown(rows, "train_type")`.
    """
    types = type_breakdown.sort("n", descending=True)
    shown = types.head(_TYPES_SHOWN)
    figure, axes = new_figure((9, 2.2 + 0.55 * shown.height))
    position = np.arange(shown.height)
    model, translation = _minutes(shown, "mae_s")
    axes.barh(position - 0.2, model, 0.38, color=MODEL_COLOUR, label="model")
    axes.barh(position + 0.2, translation, 0.38, color=TRANSLATION_COLOUR, label="translation", hatch="//", alpha=0.85)
    for y, longest, skill in zip(position, np.maximum(model, translation), shown["skill"], strict=True):
        axes.annotate(_skill(skill), (longest, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(position, [f"{name}\nn = {_count(n)}" for name, n in shown.select("train_type", "n").iter_rows()])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("MAE (min)")
    axes.margins(x=0.15, y=0.02)
    hidden = types.height - shown.height
    set_title(
        axes,
        "Error by train type",
        f"{_total(types)} predictions, skill next to each pair"
        + (f"; rarer types not drawn: {hidden:,}" if hidden else ""),
    )
    _legend_above(axes)
    return figure


def error_distribution(rows: EvaluationRows) -> Figure:
    """Cumulative distribution of the absolute error: the share of predictions that are off by at most x minutes."""
    figure, axes = new_figure((8, 5.5))
    errors = {"model": MODEL_ERROR_S, "translation": TRANSLATION_ERROR_S}
    sizes = {name: np.sort(_column(rows, error.abs() / 60)) for name, error in errors.items()}
    limit = max(float(np.quantile(ordered, 0.98)) for ordered in sizes.values())
    grid = np.linspace(0, max(limit, 1.0), 601)
    for name, colour, style in (("model", MODEL_COLOUR, "-"), ("translation", TRANSLATION_COLOUR, "--")):
        axes.plot(grid, _shares(sizes[name], grid), color=colour, linestyle=style, linewidth=2, label=name)
    thresholds = (1, 2, 5)
    for threshold in thresholds:
        axes.axvline(threshold, color=NEUTRAL_COLOUR, linewidth=0.8, linestyle=":")
    within = (_shares(sizes[name], thresholds) for name in ("model", "translation"))
    lines = [
        f"within {threshold} min: model {model:.0%}, translation {translation:.0%}"
        for threshold, model, translation in zip(thresholds, *within, strict=True)
    ]
    axes.text(0.97, 0.3, "\n".join(lines), transform=axes.transAxes, ha="right", va="center", fontsize=9)
    axes.set_xlim(0, grid[-1])
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("absolute error (min)")
    axes.set_ylabel("share of predictions with at most this error")
    set_title(axes, "Distribution of the absolute error", f"{_count(rows.height)} predictions")
    axes.legend(loc="lower right")
    return figure


def predicted_vs_observed(rows: EvaluationRows) -> Figure:
    """Number of predictions by predicted and observed delay. The model and translation have a panel each.

    Both panels share the axes and the logarithmic colour scale. Cells are whole minutes wide, so that data in whole
    minutes leave no pattern of their own. Pairs outside the central 99 % of the observed delays are counted, not drawn.
    """
    observed_min = pl.col("observed_delay_s") / 60
    low, high = np.quantile(_column(rows, observed_min), [0.005, 0.995])
    width = max(1, math.ceil((high - low) / _MAX_HISTOGRAM_BINS))
    edges = np.arange(math.floor(low) - 1.5, high + 1.5 + width, width)  # cells centred on whole minutes
    delays = [observed_min.alias("observed"), *(pl.col(column) / 60 for column in _DELAY_COLUMNS.values())]
    counts = {name: np.zeros((len(edges) - 1, len(edges) - 1)) for name in _DELAY_COLUMNS}
    for part in parts_of(rows).values():
        found = part.select(delays).collect()
        for name, column in _DELAY_COLUMNS.items():
            pairs = found[column].to_numpy(), found["observed"].to_numpy()
            counts[name] += np.histogram2d(*pairs, bins=(edges, edges))[0]
    norm = LogNorm(1, max(10.0, *(float(count.max()) for count in counts.values())))
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (name, count) in zip(panels, counts.items(), strict=True):
        mesh = axes.pcolormesh(edges, edges, np.where(count > 0, count, np.nan), norm=norm, cmap=_COUNT_COLOURS)
        axes.plot(edges[[0, -1]], edges[[0, -1]], color="black", linewidth=1, linestyle="--", label="exact")
        axes.set_box_aspect(1)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(edges[0], edges[-1])
        axes.set_xlabel("observed delay (min)")
        style_axes(axes)
        set_title(
            axes,
            f"Predicted against observed delay: {name}",
            f"{_count(rows.height)} predictions, {1 - count.sum() / rows.height:.1%} of them beyond the axes",
        )
    panels[0].set_ylabel("predicted delay (min)")
    panels[0].legend(loc="upper left")
    figure.colorbar(mesh, ax=panels, label=f"predictions per {width} × {width} min", shrink=0.85)
    return figure


def calibration(rows: EvaluationRows) -> Figure:
    """Median of the observed delays by predicted delay, for the model and for translation.

    A model that is trained on the absolute error predicts the median. A calibrated model follows the diagonal. The band
    spans the quartiles of the observed delays for the model's predictions. Groups with few rows are left out.
    """
    figure, axes = new_figure((8, 6))
    least, reach = _CALIBRATION_SHARE * rows.height, [0.0, 1.0]
    for name, colour, style in (("translation", TRANSLATION_COLOUR, "--"), ("model", MODEL_COLOUR, "-")):
        groups = _calibration_groups(rows, _DELAY_COLUMNS[name]).filter(pl.col("n") >= least)
        predicted = groups["predicted"].to_numpy()
        if name == "model":
            low, high = (groups[quartile].to_numpy() for quartile in ("low", "high"))
            axes.fill_between(predicted, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(predicted, groups["median"].to_numpy(), color=colour, linestyle=style, marker=".", label=name)
        reach += predicted.tolist()
    diagonal = [min(reach), max(reach)]
    axes.plot(diagonal, diagonal, color="black", linewidth=1, linestyle=":", label="exact")
    axes.set_xlabel("predicted delay (min)")
    axes.set_ylabel("observed delay: median, quartiles of the model (min)")
    set_title(axes, "Calibration", f"{_count(rows.height)} predictions, grouped by predicted delay")
    _legend_above(axes)
    return figure


def quantile_reliability(levels: pl.DataFrame, n: int) -> Figure:
    """Share of observed delays below each quantile, by level. A calibrated model is on the diagonal.

    A bar spans from the share below the quantile to the share at or below the quantile. Between the two are delays that
    equal the quantile, which is common for delays in whole minutes. A level is met if its bar reaches the diagonal.

    Args:
        levels: see `quantiles.Uncertainty`.
        n: number of predictions.
    """
    figure, axes = new_figure((7, 6.5))
    reliability_axes(axes)
    level, below, reached = (levels[name].to_numpy() for name in ("level", "below", "at_or_below"))
    axes.plot(level, (below + reached) / 2, color=MODEL_COLOUR, linewidth=1, marker=".", label="model")
    axes.vlines(level, below, reached, color=MODEL_COLOUR, linewidth=5, alpha=0.4, label="equal to the quantile")
    axes.set_xlabel("level of the quantile")
    axes.set_ylabel("observed delays below it")
    set_title(axes, "Reliability of the quantiles", f"{_count(n)} predictions")
    axes.legend(loc="lower right")
    return figure


def coverage_by_horizon(horizon_breakdown: pl.DataFrame, intervals: Sequence[Interval]) -> Figure:
    """Share of the observed delays inside each central interval, per horizon bin. Lines mark the intended shares.

    Args:
        horizon_breakdown: the breakdown by horizon of `quantiles.Uncertainty`.
        intervals: the intervals of the same `Uncertainty`.
    """
    figure, axes = new_figure((9, 5))
    for offset, width, interval, colour in _side_by_side(intervals):
        share = horizon_breakdown[f"coverage_{interval.name}"].to_numpy()
        position = np.arange(horizon_breakdown.height) + offset
        axes.bar(position, share, 0.95 * width, color=colour, label=f"{interval.name}%")
        axes.hlines(interval.share, -0.5, horizon_breakdown.height - 0.5, color="black", linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_ticks([0, *(interval.share for interval in intervals), 1])
    axes.set_ylabel("observed delays inside the interval")
    _horizon_axis(axes, horizon_breakdown)
    set_title(axes, "Coverage by horizon", f"{_total(horizon_breakdown)} predictions, dashed: intended coverage")
    _legend_above(axes)
    return figure


def interval_width_by_horizon(horizon_breakdown: pl.DataFrame, intervals: Sequence[Interval]) -> Figure:
    """Mean width of each central interval per horizon bin, in minutes.

    Args:
        horizon_breakdown: the breakdown by horizon of `quantiles.Uncertainty`.
        intervals: the intervals of the same `Uncertainty`.
    """
    figure, axes = new_figure((9, 5))
    for offset, width, interval, colour in _side_by_side(intervals):
        minutes = horizon_breakdown[f"width_{interval.name}_s"].to_numpy() / 60
        bars = axes.bar(
            np.arange(horizon_breakdown.height) + offset, minutes, 0.95 * width, color=colour, label=f"{interval.name}%"
        )
        axes.bar_label(bars, [f"{value:.1f}" for value in minutes], padding=2, fontsize=8)
    axes.margins(y=0.1)
    axes.set_ylabel("mean width of the interval (min)")
    _horizon_axis(axes, horizon_breakdown)
    set_title(axes, "Width of the intervals by horizon", f"{_total(horizon_breakdown)} predictions")
    _legend_above(axes)
    return figure


def training_curves(history: pl.DataFrame) -> Figure:
    """Training loss, validation MAE against translation, and learning rate by epoch.

    Args:
        history: `epoch`, `train_loss`, `val_mae_s`, `val_translation_mae_s`, `learning_rate`; nulls are skipped.
    """
    figure = Figure(figsize=(8, 8), layout="constrained")
    loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 4, 2])
    for axes in (loss, error, rate):
        style_axes(axes)

    def curve(axes: Axes, column: str, colour: str, *, label: str, unit: float = 1, style: str = "-") -> None:
        known = history.drop_nulls(column).sort("epoch")
        axes.plot(
            known["epoch"].to_numpy(),
            known[column].to_numpy() / unit,
            color=colour,
            linestyle=style,
            marker=".",
            label=label,
        )

    curve(loss, "train_loss", NEUTRAL_COLOUR, label="training loss")
    loss.set_ylabel("training loss")
    curve(error, "val_mae_s", MODEL_COLOUR, label="model", unit=60)
    curve(error, "val_translation_mae_s", TRANSLATION_COLOUR, label="translation", unit=60, style="--")
    best = history.drop_nulls("val_mae_s").sort("val_mae_s", "epoch").head(1)
    for epoch, value in best.select("epoch", "val_mae_s").iter_rows():
        name = f"best: {value / 60:.2f} min in epoch {epoch}"
        error.plot(epoch, value / 60, "*", color=MODEL_COLOUR, markersize=14, label=name)
    error.set_ylabel("validation MAE (min)")
    _legend_above(error)
    curve(rate, "learning_rate", NEUTRAL_COLOUR, label="learning rate")
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if history["epoch"].n_unique() == 1:
        rate.set_xlim(history["epoch"][0] - 1, history["epoch"][0] + 1)
    set_title(loss, "Training", f"epochs: {history['epoch'].n_unique():,}")
    return figure


def minute_ranges(groups: pl.Series, bins: Bins, first: str | None = None) -> list[str]:
    """The bins in `groups` as ranges in minutes; `first` names the lowest one."""
    edges = [str(edge).replace("-", "−") for edge in bins.edges_min]
    below = first or f"< {edges[0]}"
    between = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    names = dict(zip(bins.labels, [below, *between, f"≥ {edges[-1]}"], strict=True))
    return [names[label] for label in groups]


def _legend_above(axes: Axes, more_handles: Sequence[Any] = (), more_labels: Sequence[Any] = ()) -> None:
    """Draw the legend outside the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    handles, labels = [*handles, *more_handles], [*labels, *more_labels]
    axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(labels), frameon=False)


def _count(n: float) -> str:
    """A count in at most five characters: 950, 12.3k, 4.5M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * unit:  # 999,500 rounds to 1M
            return f"{n / unit:.3g}{name}"
    return f"{n:.0f}"


def _mean(values: pl.Series) -> float:
    """The mean; 0 if there are no values."""
    return float(values.to_numpy().mean()) if len(values) else 0.0


def _total(frame: pl.DataFrame) -> str:
    return _count(int(frame["n"].sum()))


def _skill(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:+.0%}".replace("-", "−") if abs(value) >= 0.005 else "0%"


def _minutes(frame: pl.DataFrame, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A metric of the model and of translation per group, in minutes."""
    return frame[name].to_numpy() / 60, frame[TRANSLATION + name].to_numpy() / 60


def _two_bars(axes: Axes, position: NDArray[Any], model: NDArray[np.float64], translation: NDArray[np.float64]) -> None:
    axes.bar(position - 0.2, model, 0.38, color=MODEL_COLOUR, label="model")
    axes.bar(position + 0.2, translation, 0.38, color=TRANSLATION_COLOUR, label="translation", hatch="//", alpha=0.85)


def _paired_bars(frame: pl.DataFrame, names: Sequence[str], title: str, xlabel: str) -> Figure:
    figure, axes = new_figure((9, 5))
    position = np.arange(frame.height)
    model, translation = _minutes(frame, "mae_s")
    _two_bars(axes, position, model, translation)
    for x, tallest, skill in zip(position, np.maximum(model, translation), frame["skill"], strict=True):
        axes.annotate(_skill(skill), (x, tallest), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xticks(position, [f"{name}\nn = {_count(n)}" for name, n in zip(names, frame["n"], strict=True)])
    axes.grid(False, axis="x")
    axes.margins(y=0.12)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("MAE (min)")
    set_title(axes, title, f"{_total(frame)} predictions, skill above each pair")
    _legend_above(axes)
    return figure


def _side_by_side(intervals: Sequence[Interval]) -> Iterator[tuple[float, float, Interval, str]]:
    """Each interval, narrowest first, with its bar: offset in a group of width 1, width, and colour."""
    width = 0.85 / len(intervals)
    shades = _COUNT_COLOURS(np.linspace(1, 0, len(intervals)))
    for index, interval in enumerate(intervals):
        yield (index - (len(intervals) - 1) / 2) * width, width, interval, to_hex(shades[index])


def _horizon_axis(axes: Axes, horizon_breakdown: pl.DataFrame) -> None:
    names = minute_ranges(horizon_breakdown["horizon"], HORIZON, first="overdue")
    counts = [f"{name}\nn = {_count(n)}" for name, n in zip(names, horizon_breakdown["n"], strict=True)]
    axes.set_xticks(np.arange(horizon_breakdown.height), counts)
    axes.grid(False, axis="x")
    axes.set_xlabel(_HORIZON_LABEL)


def _calibration_groups(rows: EvaluationRows, column: str) -> pl.DataFrame:
    """Per bin of predicted delay: n, `predicted` mean, and `low`, `median`, `high` of observed delays, in minutes."""
    predicted, observed = pl.col(column) / 60, pl.col("observed_delay_s") / 60
    edges = pl.lit(pl.Series(_CALIBRATION_EDGES_MIN, dtype=pl.Float64))
    bins = edges.search_sorted(predicted, side="right").alias("bin")
    totals = collect_parts(rows, lambda part: part.group_by(bins).agg(pl.len().alias("n"), exact_sum(predicted)))
    means = totals.group_by("bin").agg(pl.col("n").sum(), mean_of(pl.col(column).sum(), pl.col("n").sum()))
    quartiles = (
        collect_parts(rows, lambda part: part.select(bins, observed.alias("observed")))
        .group_by("bin")
        .agg(
            pl.col("observed").quantile(0.25, "linear").alias("low"),
            pl.col("observed").median().alias("median"),
            pl.col("observed").quantile(0.75, "linear").alias("high"),
        )
    )
    return means.rename({column: "predicted"}).join(quartiles, on="bin").sort("bin")


def _column(rows: EvaluationRows, value: pl.Expr) -> NDArray[np.float64]:
    """A value of every row: 8 bytes a row."""
    return collect_parts(rows, lambda part: part.select(value)).to_series().to_numpy()


def _shares(ordered: NDArray[np.float64], limits: ArrayLike) -> NDArray[np.float64]:
    """The share of the `ordered` values that are at most each limit."""
    return np.searchsorted(ordered, limits, side="right") / len(ordered)


def _segments(edges: pl.DataFrame, located: pl.DataFrame) -> NDArray[Any]:
    """Edges whose two ends have coordinates, shape (edges, 2 ends, lon and lat)."""
    ends = located.select("op_id", "lon", "lat")
    links = edges.select("op_a", "op_b").unique(maintain_order=True)
    both = links.join(ends, left_on="op_a", right_on="op_id").join(ends, left_on="op_b", right_on="op_id", suffix="_b")
    return both.select("lon", "lat", "lon_b", "lat_b").to_numpy().reshape(-1, 2, 2)


def _degree_ratio(located: pl.DataFrame) -> float:
    """Length of a degree of latitude in degrees of longitude, at the middle of the railway."""
    return 1 / math.cos(math.radians(_mean(located["lat"])))


def _map_height(located: pl.DataFrame, stretch: float, width: float) -> float:
    """Figure height in inches that fits a map `width` inches wide, its title and the names below it."""
    if located.is_empty():
        return 6.0
    longitudes, latitudes = located["lon"].to_numpy(), located["lat"].to_numpy()
    ratio = stretch * np.ptp(latitudes) / max(float(np.ptp(longitudes)), 1e-6)
    return 2.3 + width * min(max(float(ratio), 0.4), 1.4)


def _worst_places(points: pl.DataFrame, value: str, stretch: float) -> list[dict[str, Any]]:
    """The worst points, worst first. A point nearer to a worse one than a twelfth of the map is left out."""
    remaining = points.filter(pl.col("n") >= pl.col("n").median()).sort(value, descending=value == "mae_s")
    apart = max(np.ptp(points["lon"].to_numpy()) / stretch, np.ptp(points["lat"].to_numpy())) / 12 if len(points) else 0
    worst: list[dict[str, Any]] = []
    while len(worst) < _WORST_PLACES and not remaining.is_empty():
        point = remaining.row(0, named=True)
        worst.append(point)
        distance = (((pl.col("lon") - point["lon"]) / stretch) ** 2 + (pl.col("lat") - point["lat"]) ** 2).sqrt()
        remaining = remaining.filter(distance > apart)
    return worst


def _name_worst_places(figure: Figure, axes: Axes, worst: list[dict[str, Any]], value: str) -> None:
    entries = []
    for number, point in enumerate(worst, start=1):
        place = (point["lon"], point["lat"])
        text = axes.annotate(str(number), place, (5, 5), textcoords="offset points", fontsize=10, fontweight="bold")
        text.set_path_effects([HALO])
        shown = f"{point['mae_s'] / 60:.1f} min" if value == "mae_s" else _skill(point["skill"])
        name = f"{point['op_name']}: {shown} (n = {_count(point['n'])})"
        entries.append(Line2D([], [], color="black", linestyle="", marker=f"${number}$", label=name))
    if entries:
        figure.legend(
            handles=entries, loc="outside lower center", ncols=2, fontsize=9, frameon=False, title="worst places"
        )
