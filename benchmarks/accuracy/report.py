"""Report of the accuracy benchmark: tables for the terminal and in Markdown, and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.accuracy.comparison import BLEND, CONTEXT_TREE, TRANSFORMER, TREE, UNROUNDED
from benchmarks.accuracy.tree import SEARCHED
from transformer.evaluation.growth import SevereGrowth
from transformer.evaluation.metrics import HORIZON, TRANSLATION
from transformer.evaluation.quantiles import Uncertainty
from transformer.evaluation.report.figures import minute_ranges
from transformer.evaluation.wobble import WOBBLE
from transformer.figures import MODEL_COLOUR, NEUTRAL_COLOUR, TRANSLATION_COLOUR, new_figure, set_title
from transformer.text import aligned, score_text, seconds_text, share_text, signed_seconds_text, skill_text

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]  # predictor → seed → metrics.summary

COLOURS = {TREE: "#E69F00", CONTEXT_TREE: "#009E73", TRANSFORMER: MODEL_COLOUR, BLEND: "#CC79A7"}  # Okabe and Ito
_METRICS = (  # heading, name in metrics.SUMMARY, function that formats the value
    ("MAE", "mae_s", seconds_text),
    ("skill", "skill", skill_text),
    ("within 1 min", "within_1_min", share_text),
    ("2 min", "within_2_min", share_text),
    ("5 min", "within_5_min", share_text),
    ("bias", "bias_s", signed_seconds_text),
    ("wobble per hour", WOBBLE, seconds_text),
)
_GROWTH = (  # the same for a severe growth
    ("average precision", "average_precision", score_text),
    ("alerts right", "alert_precision", share_text),
    ("trains found", "alert_recall", share_text),
    ("Brier score", "brier", score_text),
)
_ENDS = ("difference_s", "low_s", "high_s")


@dataclass(frozen=True)
class Table:
    """A table of texts, for the terminal and for Markdown."""

    title: str
    header: list[str]
    body: list[list[str]]
    note: str = ""

    def text(self) -> str:
        return "\n".join([self.title, *aligned(self.header, self.body), *([self.note] if self.note else [])])

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [f"| {' | '.join(line)} |" for line in (self.header, rule, *self.body)]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])


# --- tables ----------------------------------------------------------------------------------------------------------
def scores_table(scores: Scores, title: str) -> Table:
    """Return a table of translation, then of every predictor: the mean over its seeds, their spread, and each seed."""
    first = next(iter(next(iter(scores.values())).values()))
    baseline = {**first, **{name: first[f"translation_{name}"] for _, name, _ in _METRICS if name != "skill"}}
    body = [["translation", *(text(baseline[name]) if name != "skill" else "" for _, name, text in _METRICS), ""]]
    for predictor, of_seed in scores.items():
        mean = {name: float(np.mean([values[name] for values in of_seed.values()])) for _, name, _ in _METRICS}
        mae = [values["mae_s"] for values in of_seed.values()]
        spread = f"± {np.std(mae, ddof=1):.1f} s" if len(mae) > 1 else ""
        body.append([predictor, *(text(mean[name]) for _, name, text in _METRICS), spread])
        if len(of_seed) > 1 and not predictor.endswith(UNROUNDED):
            for seed, values in of_seed.items():
                body.append([f"· seed {seed}", *(text(values[name]) for _, name, text in _METRICS), ""])
    note = "Mean over the seeds; ± is the standard deviation of the seeds' MAE. Bias: + = predicted too late."
    return Table(title, [f"{first['n']:,.0f} predictions", *(title for title, _, _ in _METRICS), "spread"], body, note)


def skill_table(groups: pl.DataFrame, by: str) -> Table:
    """Return a table of the skill per group of a breakdown, see `comparison.skills`."""
    names = [
        name for name in groups.columns if name not in (by, "n", "translation_mae_s") and not name.endswith(UNROUNDED)
    ]
    body = [
        [
            str(group[by]),
            f"{group['n']:,}",
            seconds_text(group["translation_mae_s"]),
            *(skill_text(group[name]) for name in names),
        ]
        for group in groups.iter_rows(named=True)
    ]
    title = by.replace("_", " ")
    return Table(f"Skill by {title}", [title, "n", "translation MAE", *names], body)


def measure_table(groups: pl.DataFrame, by: str, title: str, text: Callable[[float], str]) -> Table:
    """Return a table of a measure per group of a breakdown, see `comparison.group_means`."""
    names = ["translation", *_colours(groups.columns)]
    body = [
        [str(group[by]), f"{group['n']:,}", *(text(group[name]) for name in names)]
        for group in groups.iter_rows(named=True)
    ]
    heading = by.replace("_", " ")
    return Table(f"{title} by {heading}", [heading, "n", *names], body)


def growth_table(growths: Mapping[str, Mapping[int, SevereGrowth]], minutes: int) -> Table:
    """Return a table of a severe growth, see `comparison.growths`: translation, and means over the seeds."""
    first = next(iter(next(iter(growths.values())).values()))
    baseline = first.summary[minutes]
    body = [["translation", *(text(baseline[TRANSLATION + name]) for _, name, text in _GROWTH)]]
    for predictor, of_seed in growths.items():
        values = [growth.summary[minutes] for growth in of_seed.values()]
        body.append([predictor, *(text(float(np.mean([v[name] for v in values]))) for _, name, text in _GROWTH)])
    title = f"Growth by more than {minutes} min, {share_text(baseline['share'])} of the predictions"
    note = (
        f"At {first.alerts_per_hour:g} alerts an hour; an alert is a train in a snapshot. The transformer is ranked by "
        "the probability of its quantiles, the others by their point prediction."
    )
    return Table(title, ["", *(heading for heading, _, _ in _GROWTH)], body, note)


def difference_table(
    differences: pl.DataFrame, other: str, unit: str, confidence: float, *, of: str = TRANSFORMER
) -> Table:
    """Return a table of the differences in MAE per group, see `comparison.differences`.

    If there are no intervals, the table has only the difference over all rows.
    """
    drawn = differences["units"].max() != 1
    body = [
        [
            " ".join(filter(None, (line["breakdown"].replace("_", " "), line["group"]))),
            f"{line['n']:,}",
            f"{line['units']:,}",
            signed_seconds_text(line["difference_s"]),
            interval_text(line),
        ]
        for line in (differences if drawn else differences.head(1)).iter_rows(named=True)
    ]
    note = f"Negative = the {of} is better."
    if not drawn:
        note += f" There is only one {unit}, so there is no interval over {unit}s."
    title = f"MAE of {of} − {other}, paired, {confidence:.0%} intervals over {unit}s"
    return Table(title, ["", "n", f"{unit}s", "difference", "interval"], body, note)


def coverage_table(uncertainty: Mapping[int, Uncertainty], by: str) -> Table:
    """Return the shares of observed delays within the intervals of each seed, over all rows and per group."""
    title = by.replace("_", " ")
    first = next(iter(uncertainty.values()))
    groups = first.breakdowns[by]
    header = [title, "n"]
    columns = [["all", *map(str, groups[by])], [f"{n:,.0f}" for n in (first.summary["n"], *groups["n"])]]
    for seed, judgement in uncertainty.items():
        for interval in judgement.intervals:
            name = f"coverage_{interval.name}"
            header.append(f"{interval.name} %, seed {seed}")
            columns.append([share_text(share) for share in (judgement.summary[name], *judgement.breakdowns[by][name])])
    crps = ", ".join(seconds_text(judgement.summary["crps_s"]) for judgement in uncertainty.values())
    note = f"CRPS of the transformer {crps}; of translation {seconds_text(first.summary[f'{TRANSLATION}crps_s'])}."
    body = [list(line) for line in zip(*columns, strict=True)]
    return Table(f"Observed delays within the intervals, by {title}", header, body, note)


def tuning_table(tried: Mapping[str, Mapping[str, pl.DataFrame]]) -> Table:
    """Return a table of the parameters that the trials of `tree.tune` chose, by test dates and tree.

    Args:
        tried: test dates → tree → its trials, the first one with the parameters that were given.
    """
    body = []
    for dates, of_tree in tried.items():
        for name, trials in of_tree.items():
            best = trials.sort("validation_mae_s", maintain_order=True).row(0, named=True)
            mae = [seconds_text(value) for value in (trials["validation_mae_s"][0], best["validation_mae_s"])]
            body.append([dates, name, str(trials.height), *mae, *(f"{best[parameter]:.3g}" for parameter in SEARCHED)])
    header = ["test", "", "trials", "validation MAE as given", "validation MAE of the best"]
    header += [parameter.replace("_", " ") for parameter in SEARCHED]
    return Table(
        "Parameters of the trees", header, body, "Validation MAE: not rounded, and some predictions in the past."
    )


def interval_text(line: Mapping[str, Any]) -> str:
    """Return the interval as `[-3.1, -1.2]`, or a dash if there is none."""
    return "–" if line["low_s"] is None else f"[{line['low_s']:+.1f}, {line['high_s']:+.1f}]"


def _colours(names: Iterable[str]) -> dict[str, str]:
    """Return the entries of COLOURS for the predictors among `names`."""
    compared = set(names)
    return {name: colour for name, colour in COLOURS.items() if name in compared}


# --- figures ---------------------------------------------------------------------------------------------------------
def skill_by_horizon(groups: pl.DataFrame, detail: str) -> Figure:
    """Draw the skill of each predictor by horizon.

    Args:
        groups: `comparison.skills(…, "horizon")`.
    """
    figure, axes = new_figure((9, 5.5))
    x = np.arange(groups.height)
    for name, colour in _colours(groups.columns).items():
        dashed = "--" if name in (TREE, CONTEXT_TREE) else "-"
        axes.plot(x, groups[name].to_numpy(), dashed, color=colour, marker="o", markersize=5, label=name)
    axes.axhline(0, color=TRANSLATION_COLOUR, linewidth=1, zorder=1)
    axes.annotate("translation", (x[-1], 0), (0, 4), textcoords="offset points", ha="right", color=TRANSLATION_COLOUR)
    axes.set_xticks(x, minute_ranges(groups["horizon"], HORIZON, first="overdue"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("horizon: planned time of the event − time of the snapshot (min)")
    axes.set_ylabel("skill: 1 − MAE / MAE of translation")
    set_title(axes, "Skill by horizon", detail)
    axes.legend(frameon=False)
    return figure


def paired_differences(lines: pl.DataFrame, labels: Sequence[str], other: str, detail: str) -> Figure:
    """Draw differences in MAE and their intervals, one below the other.

    Args:
        lines: columns difference_s, low_s and high_s; if the ends are null, only the point is drawn.
    """
    figure, axes = new_figure((8.5, 1.8 + 0.32 * lines.height))
    y = np.arange(lines.height)
    values, low, high = (lines[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in _ENDS)
    axes.hlines(y, low, high, color=MODEL_COLOUR, linewidth=2)
    axes.plot(values, y, "o", color=MODEL_COLOUR)
    axes.axvline(0, color=NEUTRAL_COLOUR, linewidth=1, zorder=1)
    axes.set_yticks(y, labels)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel(f"MAE of transformer − {other} (s); left of 0 the transformer is better")
    set_title(axes, f"Transformer against {other}", detail)
    return figure


def mae_by_seed(scores: Scores, detail: str) -> Figure:
    """Draw the MAE of every seed of each predictor, and the mean over the seeds."""
    figure, axes = new_figure((8, 4.5))
    names = list(_colours(scores))
    for x, name in enumerate(names):
        mae = {seed: values["mae_s"] for seed, values in scores[name].items()}
        offsets = np.linspace(-0.12, 0.12, len(mae)) if len(mae) > 1 else np.zeros(1)
        axes.hlines(float(np.mean(list(mae.values()))), x - 0.25, x + 0.25, color=COLOURS[name], linewidth=2)
        axes.plot(x + offsets, list(mae.values()), "o", color=COLOURS[name])
        for offset, (seed, value) in zip(offsets, mae.items(), strict=True):
            axes.annotate(str(seed), (x + offset, value), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.2)
    axes.grid(False, axis="x")
    axes.set_ylabel("MAE (s); the axis does not begin at 0")
    set_title(axes, "Error by seed", detail)
    return figure


def skill_by_date(dates: pl.DataFrame, detail: str) -> Figure:
    """Draw the skill of each predictor on every test date.

    Args:
        dates: column test, and one column per predictor with its skill.
    """
    figure, axes = new_figure((9, 5))
    x = np.arange(dates.height)
    for name, colour in _colours(dates.columns).items():
        dashed = "--" if name in (TREE, CONTEXT_TREE) else "-"
        axes.plot(x, dates[name].to_numpy(), dashed, color=colour, marker="o", markersize=5, label=name)
    axes.set_xticks(x, [f"{day:%a}\n{day:%d %b}" for day in dates["test"]])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("service date")
    axes.set_ylabel("skill: 1 − MAE / MAE of translation")
    set_title(axes, "Skill by date", detail)
    axes.legend(frameon=False)
    return figure
