"""Figures of severe growths, see `growth.SevereGrowth`, in the form of `figures`."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from transformer.evaluation.growth import PREDICTORS
from transformer.figures import MODEL_COLOUR, TRANSLATION_COLOUR, new_figure, reliability_axes, set_title

_STYLES = {5: "-", 10: "--"}  # by growth in minutes
_LOOKS = dict(zip(PREDICTORS, (("model", MODEL_COLOUR), ("translation", TRANSLATION_COLOUR)), strict=True))


def growth_precision(curves: pl.DataFrame, growths_min: Sequence[int]) -> Figure:
    """Precision by recall of each growth, for the model and for translation.

    Args:
        curves: of `SevereGrowth`.
        growths_min: the growths to draw. They must have happened.
    """
    figure, axes = new_figure((8, 5.5))
    for prefix, (name, colour) in _LOOKS.items():
        for minutes in growths_min:
            curve = curves.filter(growth_min=minutes, predictor=prefix)
            recall, precision = ([*values[:1], *values] for values in (curve["recall"], curve["precision"]))
            axes.step(
                [0.0, *recall[1:]],
                precision,
                color=colour,
                linestyle=_STYLES[minutes],
                label=f"{name}, > {minutes} min",
            )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("recall: share of the severe growths that are found")
    axes.set_ylabel("precision: share of those found that are true")
    set_title(
        axes, "Severe growth: precision by recall", "delays that grow by more than 5 or 10 min over the last known"
    )
    axes.legend(loc="upper right")
    return figure


def growth_reliability(reliability: pl.DataFrame) -> Figure:
    """The share of delays that grew so much, by predicted probability. A calibrated model is on the diagonal.

    Args:
        reliability: of `SevereGrowth`. The area of a dot shows its number of predictions.
    """
    figure, axes = new_figure((7, 6.5))
    reliability_axes(axes)
    for minutes, style in _STYLES.items():
        found = reliability.filter(growth_min=minutes)
        predicted, observed, n = (found[name].to_numpy() for name in ("predicted", "observed", "n"))
        axes.plot(
            predicted, observed, color=MODEL_COLOUR, linestyle=style, linewidth=1, marker=".", label=f"> {minutes} min"
        )
        axes.scatter(predicted, observed, s=400 * n / max(int(n.sum()), 1), color=MODEL_COLOUR, alpha=0.3, linewidths=0)
    axes.set_xlabel("predicted probability that the delay grows by more")
    axes.set_ylabel("share of delays that grew by more")
    total = reliability.filter(growth_min=min(_STYLES))["n"].sum()
    set_title(axes, "Reliability of severe growth", f"{total:,} predictions, dot area = predictions")
    axes.legend(loc="upper left")
    return figure
