"""Figures of one snapshot: the outlook of a train, its attention, and a map of all trains. Delays are in minutes.

As in the figures of an evaluation, colour-blind people can distinguish the colours.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.collections import LineCollection
from matplotlib.colors import AsinhNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from transformer.exploration.layout import Places
from transformer.exploration.snapshot import ExploredSnapshot
from transformer.figures import (
    FAINT_COLOUR,
    HALO,
    MODEL_COLOUR,
    NEUTRAL_COLOUR,
    TRANSLATION_COLOUR,
    new_figure,
    set_title,
    style_axes,
)

_EVENT_NAMES = {"A": "arr.", "D": "dep.", "P": "pass"}
_PAST_SHOWN = 5  # events before the instant; enough to see where the delay began
_ATTENDED_SHOWN = 12  # trains
_LAYER_MARKERS = "osD^vP"
_NAME_LENGTH = 22  # characters of a point's name on an axis
_NOTICEABLE_S = 60  # a smaller change is drawn as no change, since most delays are in whole minutes
_CROWDED_POINTS = 300  # a map with more points has smaller markers
_LINEAR_MIN = 2.0  # the colour scale of the map is linear up to this change
_LEAST_LIMIT_MIN = 5.0  # least end of the colour scale, so that small changes do not look large
_CHANGE_TICKS_MIN = (1, 2, 5, 10, 20, 50, 100, 200)
_RING = 0.012  # radius of the ring of trains at one point, as share of the map's width


def outlook(snapshot: ExploredSnapshot, train: int) -> Figure:
    """Draw a train's last known delays, its predicted delays with intervals, translation, and the observed delays.

    Args:
        train: line of the train in `snapshot.trains`.
    """
    ahead = snapshot.predictions.filter(pl.col("train") == train)
    past = snapshot.past.filter(pl.col("train") == train).tail(_PAST_SHOWN)
    figure, axes = new_figure((12, 6))
    rank = ahead["rank"].to_numpy()
    for interval, shade in zip(reversed(snapshot.intervals), _shades(len(snapshot.intervals)), strict=True):
        low, high = (ahead[name].to_numpy() / 60 for name in interval.columns)
        axes.fill_between(rank, low, high, color=shade, linewidth=0, label=f"{interval.name}% interval")
    axes.plot(
        rank,
        ahead["translation_delay_s"].to_numpy() / 60,
        color=TRANSLATION_COLOUR,
        linestyle="--",
        linewidth=2,
        label="translation",
    )
    predicted = ahead["predicted_delay_s"].to_numpy() / 60
    axes.plot(rank, predicted, color=MODEL_COLOUR, marker="o", markersize=5, linewidth=2, label="predicted")
    happened = ahead.drop_nulls("observed_delay_s")
    axes.plot(
        happened["rank"].to_numpy(),
        happened["observed_delay_s"].to_numpy() / 60,
        color="black",
        marker="x",
        markersize=7,
        linewidth=1,
        label="observed in the end",
    )
    before = np.arange(1 - past.height, 1)
    if past.height:
        delays = past["delay_s"].to_numpy() / 60
        axes.plot(before, delays, color=NEUTRAL_COLOUR, marker="s", markersize=5, linewidth=1, label="known before")
    axes.axvline(0.5, color=NEUTRAL_COLOUR, linewidth=1, linestyle=":", label=f"now, {snapshot.instant:%H:%M}")
    axes.axhline(0, color=NEUTRAL_COLOUR, linewidth=0.8)
    axes.set_xticks([*before, *rank], [*_event_names(past), *_event_names(ahead)], rotation=55, ha="right", fontsize=8)
    axes.set_xlim(before[0] - 0.5 if past.height else 0.3, rank[-1] + 0.5)
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("delay (min)")
    axes.set_xlabel("events of the train in their order, with planned time")
    set_title(axes, f"Train {_described(snapshot, train)}", f"snapshot of {snapshot.instant:%Y-%m-%d %H:%M %Z}")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def attention(snapshot: ExploredSnapshot, train: int) -> Figure:
    """Draw the trains that a train attends to most: the mean over all heads, the mean of each layer, and each head.

    Args:
        train: line of the train in `snapshot.trains`.
    """
    given = snapshot.attention_of(train)
    shown = given.head(_ATTENDED_SHOWN)
    n_members, n_layers, n_heads, n_trains, _ = snapshot.attention.shape
    figure = Figure(figsize=(13, 2.6 + 0.36 * shown.height), layout="constrained")
    bars, heads = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    style_axes(bars)
    position = np.arange(shown.height)
    bars.barh(position, shown["weight"].to_numpy(), color=FAINT_COLOUR, edgecolor=NEUTRAL_COLOUR, label="all layers")
    colours = _layer_colours(n_layers)
    for layer in range(n_layers):
        bars.plot(
            shown[f"layer_{layer + 1}"].to_numpy(),
            position,
            linestyle="",
            marker=_LAYER_MARKERS[layer % len(_LAYER_MARKERS)],
            color=colours[layer],
            markeredgecolor="white",
            markersize=8,
            label=f"layer {layer + 1}",
        )
    bars.axvline(1 / n_trains, color=NEUTRAL_COLOUR, linestyle=":", label="all trains alike")
    bars.set_xlim(left=0)
    bars.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    bars.set_yticks(position, [_attended_name(row, train) for row in shown.iter_rows(named=True)], fontsize=9)
    bars.invert_yaxis()
    bars.grid(False, axis="y")
    bars.set_xlabel("share of the attention, mean over members and heads")
    set_title(
        bars,
        f"Attention of train {snapshot.name(train)}",
        f"{shown.height} of {n_trains} trains, {shown['weight'].sum():.0%} of the attention",
    )
    columns = snapshot.attention[:, :, :, train][..., shown["train"].to_numpy()].transpose(1, 0, 2, 3)
    image = heads.imshow(
        columns.reshape(-1, shown.height).T, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest"
    )
    width = n_members * n_heads
    for member in range(1, n_layers * n_members):
        between_layers = member % n_members == 0
        heads.axvline(member * n_heads - 0.5, color="black", linewidth=1.5 if between_layers else 0.4)
    heads.set_xticks([(layer + 0.5) * width - 0.5 for layer in range(n_layers)], _layer_names(n_layers))
    heads.tick_params(axis="x", length=0)
    heads.tick_params(axis="y", left=False, labelleft=False)
    heads.set_xlabel(f"{n_heads} heads of each of {n_members} members")
    set_title(heads, "Head by head", "each column sums to 100% over all trains")
    figure.colorbar(image, ax=heads, label="share of the attention", format=PercentFormatter(1.0, decimals=None))
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=n_layers + 2, frameon=False)
    return figure


def railway_map(snapshot: ExploredSnapshot, places: Places, train: int | None = None) -> Figure:
    """Draw the railway. Each train is at its last observed point, coloured by the predicted change of its delay.

    Args:
        places: positions of the operational points, see `layout.place_points`.
        train: line in `snapshot.trains` of a train to mark with a ring.
    """
    trains = snapshot.trains.with_row_index("train").join(places.points, on="op_id", maintain_order="left")
    figure, axes = new_figure((10.5, _height(places.points)))
    segments = places.links.select("x", "y", "x_b", "y_b").to_numpy().reshape(-1, 2, 2)
    axes.add_collection(LineCollection(list(segments), colors="#BBBBBB", linewidths=0.8, zorder=1))
    crowded = places.points.height > _CROWDED_POINTS
    axes.scatter(
        places.points["x"].to_numpy(), places.points["y"].to_numpy(), s=2 if crowded else 6, color="#BBBBBB", zorder=2
    )
    change = trains["change_s"].to_numpy() / 60
    limit = max(float(np.abs(change).max(initial=0)), _LEAST_LIMIT_MIN)
    norm = AsinhNorm(_LINEAR_MIN, -limit, limit)  # linear near 0, so that one extreme train does not set the scale
    spots = _side_by_side(trains, places)
    for marker, chosen in _by_direction(trains["change_s"].to_numpy()):
        dots = axes.scatter(
            spots[chosen, 0],
            spots[chosen, 1],
            c=change[chosen],
            cmap="RdBu_r",
            norm=norm,
            marker=marker,
            s=36 if crowded else 60,
            edgecolors=NEUTRAL_COLOUR,
            linewidths=0.7,
            zorder=3,
        )
    ticks = [sign * tick for tick in _CHANGE_TICKS_MIN if tick <= limit for sign in (-1, 1)]
    bar = figure.colorbar(
        dots, ax=axes, label="predicted change of delay until the last of its next events (min)", shrink=0.8
    )
    bar.set_ticks([0, *ticks], labels=["0", *(f"{tick:+d}".replace("-", "−") for tick in ticks)])
    bar.minorticks_off()
    if train is not None and len(where := np.flatnonzero(trains["train"].to_numpy() == train)):
        x, y = spots[where[0]]
        axes.scatter([x], [y], s=230, facecolors="none", edgecolors="black", linewidths=1.8, zorder=4)
        text = axes.annotate(
            snapshot.name(train), (x, y), (10, 8), textcoords="offset points", fontweight="bold", zorder=5
        )
        text.set_path_effects([HALO])
    nowhere = snapshot.trains.height - trains.height
    details = [f"{trains.height:,} trains", f"{places.points.height:,} points"]
    if places.n_guessed and places.n_guessed < places.points.height:
        details.append(f"{places.n_guessed:,} without coordinates drawn between neighbours")
    if nowhere:
        details.append(f"not drawn, since their points have no position: {nowhere:,}")
    set_title(axes, f"The railway at {snapshot.instant:%Y-%m-%d %H:%M %Z}", ", ".join(details))
    axes.set_xlabel(places.axes[0])
    axes.set_ylabel(places.axes[1])
    axes.grid(False)
    axes.set_aspect("equal")
    axes.autoscale_view()
    names = {"^": "later by a minute or more", "o": "as it is", "v": "earlier by a minute or more"}
    handles = [
        Line2D([], [], linestyle="", marker=marker, color="white", markeredgecolor=NEUTRAL_COLOUR, label=name)
        for marker, name in names.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _shades(count: int) -> list[str]:
    """Return an opaque shade of the model's colour for each interval. The widest interval is first and lightest."""
    colour = np.array(to_rgb(MODEL_COLOUR))
    return [to_hex(1 - share * (1 - colour)) for share in np.linspace(0.15, 0.5, count)]


def _event_names(events: pl.DataFrame) -> list[str]:
    return [
        f"{_point_name(row)} {_EVENT_NAMES[row['event_type']]} {row['planned_ts']:%H:%M}"
        for row in events.iter_rows(named=True)
    ]


def _point_name(row: dict[str, object]) -> str:
    name = str(row["op_name"] or row["op_id"])
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:+.1f} min".replace(".0 ", " ").replace("-", "−") if seconds else "on time"


def _described(snapshot: ExploredSnapshot, train: int) -> str:
    row = snapshot.trains.row(train, named=True)
    where = f"last seen at {row['op_name'] or row['op_id']}" if row["departed"] else "not under way yet"
    return f"{row['train_number']} ({str(row['train_type']).replace('_', ' ')}), {where}, {_minutes(row['delay_s'])}"


def _attended_name(row: dict[str, object], train: int) -> str:
    itself = "itself: " if row["train"] == train else ""
    delay = row["delay_s"]
    assert isinstance(delay, int)
    return f"{itself}{row['train_number']} at {_point_name(row)}, {_minutes(delay)}"


def _layer_names(count: int) -> list[str]:
    return [f"layer {number}" for number in range(1, count + 1)]


def _layer_colours(count: int) -> list[str]:
    palette = (MODEL_COLOUR, TRANSLATION_COLOUR, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
    return [palette[layer % len(palette)] for layer in range(count)]


def _by_direction(change_s: NDArray[np.int32]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return each marker with a mask of its trains. Markers help people who cannot distinguish the colours."""
    later, earlier = change_s >= _NOTICEABLE_S, change_s <= -_NOTICEABLE_S
    return [("o", ~later & ~earlier), ("^", later), ("v", earlier)]


def _side_by_side(trains: pl.DataFrame, places: Places) -> NDArray[np.float64]:
    """Return a position per train [trains, 2]: at its point, or on a ring around it if several trains are there."""
    spots = trains.select("x", "y").to_numpy().astype(float)
    width = max((float(np.ptp(places.points[axis].to_numpy())) for axis in "xy" if places.points.height), default=1.0)
    together = trains.select(
        pl.int_range(pl.len()).over("op_id").alias("at"), pl.len().over("op_id").alias("of")
    ).to_numpy()
    at, of = together.T
    angle = 2 * math.pi * at / of
    radius = np.where(of > 1, _RING * width * np.maximum(1.0, of / 6), 0.0)
    moved: NDArray[np.float64] = spots + radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return moved


def _height(points: pl.DataFrame) -> float:
    """Return the height in inches of a figure with a map about 8 inches wide, a title and a legend."""
    if points.is_empty():
        return 6.0
    ratio = np.ptp(points["y"].to_numpy()) / max(float(np.ptp(points["x"].to_numpy())), 1e-6)
    return 1.8 + 8 * min(max(float(ratio), 0.4), 1.2)
