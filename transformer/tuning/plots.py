"""Figures of a study: its history, its trials, and the importance of its parameters.

They are not drawn by `optuna.visualization.matplotlib`, because that restyles matplotlib for the whole process, and
its labels overlap from about six parameters on. Values are validation MAE in seconds; lower is better. Every function
returns a `matplotlib.figure.Figure` made through the object API, like the figures of an evaluation.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from transformer.figures import (
    HALO,
    MODEL_COLOUR,
    NEUTRAL_COLOUR,
    TRANSLATION_COLOUR,
    new_figure,
    set_title,
    style_axes,
)
from transformer.tuning.trials import StudyTrials, mae_text, value_of, value_text

DEFAULTS_COLOUR = "#009E73"

_MAE = "validation MAE (s)"
_COLUMNS_OF_SLICES = 4
_LEGEND_COLUMN = 2.6  # width of the longest label, inches
_MISSING = -0.14  # height of a parameter that a trial did not search, below an axis from 0 to 1


class EmptyFigureError(ValueError):
    """A figure would be empty. The message gives the reason."""


def history(trials: StudyTrials) -> Figure:
    """The value of each trial in the order of their start, the best so far, and the value of the defaults."""
    figure, axes = new_figure((9, 5))
    limits = _limit_values(axes, trials)
    _scatter(axes, trials.complete, limits, [trial.number for trial in trials.complete], label="complete")
    pruned = trials.judged[len(trials.complete) :]
    _scatter(axes, pruned, limits, [trial.number for trial in pruned], hollow=True, label="pruned, last value")
    if trials.failed:
        numbers = [trial.number for trial in trials.failed]
        axes.plot(
            numbers,
            [0.02] * len(numbers),
            "x",
            color=TRANSLATION_COLOUR,
            transform=axes.get_xaxis_transform(),
            label="failed, no value",
        )
    begun = sorted(trials.complete, key=lambda trial: trial.number)
    best_so_far = np.minimum.accumulate([value_of(trial) for trial in begun])
    axes.step(
        [*(trial.number for trial in begun), trials.all[-1].number],
        np.clip([*best_so_far, best_so_far[-1]], None, limits[1]),
        where="post",
        color=MODEL_COLOUR,
        linewidth=1.2,
        label="best so far",
    )
    if trials.defaults is not None:
        axes.axhline(
            value_of(trials.defaults),
            color=DEFAULTS_COLOUR,
            linestyle="--",
            label=f"defaults: {mae_text(value_of(trials.defaults))}",
        )
    label = f"best: {mae_text(value_of(trials.best))}, trial {trials.best.number}"
    axes.plot(
        trials.best.number,
        value_of(trials.best),
        "*",
        color="black",
        markersize=13,
        linestyle="",
        zorder=3,
        label=label,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(-0.5, trials.all[-1].number + 0.5)
    axes.set_xlabel("trial")
    axes.set_ylabel(_MAE)
    set_title(axes, "History of the study", _counts(trials))
    _legend_below(figure)
    return figure


def parallel_coordinates(trials: StudyTrials) -> Figure:
    """A line per complete trial, through its value of each parameter to its validation MAE. Darker is better."""
    scales = _scales(trials)
    width = len(scales)
    figure = Figure(figsize=(2.5 + 1.25 * max(width, 3), 5.5), layout="constrained")
    axes = figure.subplots()
    low, high = _limits(trials)
    heights = np.column_stack(
        [
            *(scale.heights([trial.params.get(scale.key) for trial in trials.complete]) for scale in scales),
            (np.clip([value_of(trial) for trial in trials.complete], low, high) - low) / (high - low),
        ]
    )
    colours = _shades(trials)
    for line, colour in reversed(list(zip(heights, colours, strict=True))):  # the best one last, on top
        axes.plot(line, color=colour, linewidth=1.2, alpha=0.9, marker=".", markersize=4)
    axes.plot(heights[0], color="black", linewidth=2.5, label=f"best: trial {trials.best.number}")
    if trials.defaults is not None and trials.defaults is not trials.best:
        axes.plot(
            heights[trials.complete.index(trials.defaults)],
            color=DEFAULTS_COLOUR,
            linewidth=2.5,
            linestyle="--",
            label=f"defaults: trial {trials.defaults.number}",
        )
    values = MaxNLocator(5).tick_values(low, high)
    ticks = [scale.ticks() for scale in scales]
    ticks.append([((tick - low) / (high - low), f"{tick:g}") for tick in values if low <= tick <= high])
    for x, marks in enumerate(ticks):
        axes.axvline(x, color=NEUTRAL_COLOUR, linewidth=0.8, zorder=0)
        for y, mark in marks:
            axes.annotate(
                mark,
                (x, y),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                path_effects=[HALO],
                zorder=5,
            )
    missing = bool((heights < 0).any())
    if missing:
        axes.annotate("not\nsearched", (0, _MISSING), (-8, 0), textcoords="offset points", ha="right", va="center")
    axes.set_ylim(_MISSING - 0.06 if missing else -0.04, 1.04)
    axes.set_xlim(-0.1, width + 0.4)
    axes.set_xticks(range(width + 1), [*(scale.name.replace(".", ".\n") for scale in scales), "validation\nMAE (s)"])
    axes.tick_params(axis="x", length=0, labelsize=9)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    set_title(axes, "Parallel coordinates", f"complete trials: {len(trials.complete):,}, dark = low error")
    _legend_below(figure)
    return figure


def importance_bars(shares: Mapping[str, float], left_out: Sequence[str], basis: str) -> Figure:
    """The share of the variation that each parameter alone explains.

    Args:
        shares: share of the variation (0 to 1) by key, the largest first.
        left_out: keys that were not judged, since not every trial has them.
        basis: the trials behind the shares, as text.
    """
    names = _short_names([*shares, *left_out])
    figure, axes = new_figure((9, 1.8 + 0.38 * len(shares)))
    bars = axes.barh(range(len(shares)), list(shares.values()), color=MODEL_COLOUR)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=4, fontsize=9)
    axes.set_yticks(range(len(shares)), [names[key] for key in shares])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.1, y=0.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("share of the variation of the validation MAE (fANOVA)")
    if left_out:
        unjudged = ", ".join(names[key] for key in left_out)
        note = textwrap.fill(f"not judged, since not every trial has them: {unjudged}", 100)
        axes.set_xlabel(f"{axes.get_xlabel()}\n{note}")
    set_title(axes, "Importance of the parameters", basis)
    return figure


def slices(trials: StudyTrials) -> Figure:
    """The value of every trial against each parameter, in one panel per parameter."""
    scales = _scales(trials)
    columns = min(len(scales), _COLUMNS_OF_SLICES)
    rows = math.ceil(len(scales) / columns)
    figure = Figure(figsize=(max(3.2 * columns, 6), 0.9 + 2.9 * rows), layout="constrained")
    panels: NDArray[Any] = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(scales) :]:
        axes.remove()
    for axes, scale in zip(panels.flat, scales, strict=False):
        style_axes(axes)
        _slice(axes, trials, scale)
    for axes in panels[:, 0]:
        axes.set_ylabel(_MAE)
    figure.suptitle(f"Value by parameter; {_counts(trials)}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    _legend_below(figure)
    return figure


def _slice(axes: Axes, trials: StudyTrials, scale: _Scale) -> None:
    limits = _limit_values(axes, trials)
    for hollow, label, group in (
        (True, "pruned, last value", trials.judged[len(trials.complete) :]),
        (False, "complete, the darker the later", trials.complete),
    ):
        having = [trial for trial in group if scale.key in trial.params]
        heights = scale.heights([trial.params[scale.key] for trial in having])
        _scatter(axes, having, limits, heights, label=label, hollow=hollow, last=trials.all[-1].number)
    marked: list[tuple[FrozenTrial, dict[str, Any]]] = [
        (trials.best, {"label": "best", "marker": "*", "markersize": 13, "color": "black"})
    ]
    if trials.defaults is not None and trials.defaults is not trials.best:
        marked.append((trials.defaults, {"label": "defaults", "marker": "D", "color": DEFAULTS_COLOUR}))
    for trial, look in marked:
        if scale.key in trial.params:
            axes.plot(scale.heights([trial.params[scale.key]]), [value_of(trial)], linestyle="", zorder=3, **look)
    ticks = scale.ticks()
    axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks], fontsize=8)
    if sum(len(label) for _, label in ticks) > 28:  # more characters do not fit side by side
        axes.tick_params(axis="x", rotation=25)
    axes.set_xlim(-0.08, 1.08)
    axes.set_xlabel(scale.name + (" (log)" if scale.log else ""))


def intermediate_values(trials: StudyTrials) -> Figure:
    """Validation MAE after each epoch of every trial. Pruned and failed trials end early."""
    reporting = [trial for trial in trials.all if trial.intermediate_values and trial.number not in trials.retried]
    if not reporting:
        raise EmptyFigureError("no trial has reported an epoch")
    figure, axes = new_figure((9, 5.5))
    looks: dict[str, dict[str, Any]] = {  # later ones are drawn on top
        "running": {"color": NEUTRAL_COLOUR, "linestyle": ":"},
        "pruned": {"color": NEUTRAL_COLOUR, "linestyle": "--", "alpha": 0.7, "marker": "x"},
        "failed": {"color": TRANSLATION_COLOUR, "linestyle": ":", "marker": "x"},
        "complete": {"color": MODEL_COLOUR, "alpha": 0.6, "marker": "."},
        "defaults": {"color": DEFAULTS_COLOUR, "linewidth": 2.5, "marker": "."},
        "best": {"color": "black", "linewidth": 2.5, "marker": "*"},
    }
    groups: dict[str, list[FrozenTrial]] = {name: [] for name in looks}
    for trial in reporting:
        special = "best" if trial is trials.best else "defaults" if trial is trials.defaults else ""
        groups[special or trials.state(trial)].append(trial)
    for name, group in groups.items():
        for trial in group:
            epochs, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
            label = "_" if trial is not group[0] else name if len(group) > 1 else f"{name}: trial {trial.number}"
            axes.plot(epochs, values, **{"linewidth": 1.0, **looks[name]}, markevery=[-1], label=label)
    # First epochs are far from last ones, and a diverged training is far off in all. The usual first one ends the axis.
    low, high = _limits(trials)
    firsts = [trial.intermediate_values[min(trial.intermediate_values)] for trial in reporting]
    finite = [value for value in firsts if math.isfinite(value)] or [high]
    high = max(high, float(np.quantile(finite, 0.5, method="lower")))
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(_MAE)
    set_title(axes, "Validation MAE by epoch", _counts(trials))
    _legend_below(figure)
    return figure


def _limits(trials: StudyTrials) -> tuple[float, float]:
    """Ends of an axis of values: the best value, and the worst that is no outlier or belongs to the defaults."""
    low, high = value_of(trials.best), max(trials.top, value_of(trials.defaults or trials.best))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _limit_values(axes: Axes, trials: StudyTrials) -> tuple[float, float]:
    """End the axis of values at `_limits`, with room for markers, and return these limits."""
    low, high = _limits(trials)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))
    return low, high


def _scatter(
    axes: Axes,
    trials: Sequence[FrozenTrial],
    limits: tuple[float, float],
    xs: Sequence[float] | NDArray[np.float64],
    *,
    label: str,
    hollow: bool = False,
    last: int = 0,
) -> None:
    """A dot per trial. A trial beyond the limits is a triangle above the others.

    Args:
        last: number of the last trial; later trials are darker; 0 = all have the same shade.
    """
    places = np.asarray(xs, dtype=np.float64)
    values = np.array([value_of(trial) for trial in trials], dtype=np.float64)
    shades = np.array([0.35 + 0.65 * trial.number / last if last else 0.8 for trial in trials])
    colours = colormaps["Blues"](shades)
    beyond = values > limits[1]
    for marker, chosen in (("o", ~beyond), ("^", beyond)):
        if chosen.any():
            axes.scatter(
                places[chosen],
                values[chosen] if marker == "o" else np.full(chosen.sum(), limits[1] + 0.07 * (limits[1] - limits[0])),
                s=32,
                marker=marker,
                facecolors="none" if hollow else colours[chosen],
                edgecolors=NEUTRAL_COLOUR if hollow else "white",
                linewidths=0.9 if hollow else 0.4,
                alpha=0.6 if hollow else None,
                label=label if marker == "o" else "beyond the axis",
            )


def _shades(trials: StudyTrials) -> NDArray[np.float64]:
    """A colour per complete trial; the best is dark."""
    low, high = _limits(trials)
    values = np.clip([value_of(trial) for trial in trials.complete], low, high)
    return np.asarray(colormaps["viridis"]((values - low) / (high - low)))


def _counts(trials: StudyTrials) -> str:
    return f"trials: {len(trials.complete):,} complete, {len(trials.pruned):,} pruned, {len(trials.failed):,} failed"


def _legend_below(figure: Figure) -> None:
    """One legend for all axes of the figure, outside the axes, where it hides no data."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = max(1, int(figure.get_figwidth() / _LEGEND_COLUMN))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False)


@dataclass(frozen=True)
class _Scale:
    """The places of one parameter's values on an axis from 0 to 1."""

    key: str
    name: str
    choices: tuple[Any, ...]  # empty unless the parameter is categorical
    low: float
    high: float
    log: bool
    whole: bool

    def heights(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Places of `values` on the axis; `_MISSING` for None."""
        return np.array([_MISSING if value is None else self._height(value) for value in values], dtype=np.float64)

    def ticks(self) -> list[tuple[float, str]]:
        """Place and label of the marks on the axis: every choice, or a few round numbers."""
        if self.choices:
            return [(self._height(choice), value_text(choice)) for choice in self.choices]
        return [(self._height(tick), f"{tick:g}") for tick in self._round_numbers()]

    def _height(self, value: Any) -> float:
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def _round_numbers(self) -> list[float]:
        if not self.log:
            return self._within(
                MaxNLocator(4, integer=self.whole, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
            )
        for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
            ticks = self._within(LogLocator(subs=digits).tick_values(self.low, self.high))
            if len(ticks) >= 3:
                break
        return ticks

    def _within(self, ticks: Iterable[float]) -> list[float]:
        tolerance = 1e-9 * self.high
        return [float(tick) for tick in ticks if self.low - tolerance <= tick <= self.high + tolerance]


def _scales(trials: StudyTrials) -> list[_Scale]:
    """A scale for each searched parameter, in the order of the keys."""
    distributions: dict[str, BaseDistribution] = {}
    values: dict[str, list[Any]] = {}
    for trial in trials.judged:
        distributions |= trial.distributions
        for key, value in trial.params.items():
            values.setdefault(key, []).append(value)
    if not values:
        raise EmptyFigureError("no parameter was searched")
    names = _short_names(trials.keys)
    return [_scale(key, names[key], distributions[key], values[key]) for key in trials.keys]


def _scale(key: str, name: str, distribution: BaseDistribution, values: Sequence[Any]) -> _Scale:
    if isinstance(distribution, CategoricalDistribution):
        return _Scale(key, name, distribution.choices, 0, 1, log=False, whole=False)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return _Scale(
        key,
        name,
        (),
        min(distribution.low, *values),
        max(distribution.high, *values),
        distribution.log,
        isinstance(distribution, IntDistribution),
    )


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key without its group, such as `loss.name` for `training.loss.name`, unless two keys would be the same."""
    names = {key: key.partition(".")[2] or key for key in keys}
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else key for key, name in names.items()}
