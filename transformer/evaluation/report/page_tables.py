"""The tables of an evaluation's page, as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from transformer.data.dates import dates_text
from transformer.data.page import account_table
from transformer.errors import UserError
from transformer.evaluation import metrics
from transformer.evaluation.growth import SevereGrowth, severe_growth
from transformer.evaluation.measures import Measures
from transformer.evaluation.quality import DataQuality
from transformer.evaluation.quantiles import Uncertainty, uncertainty
from transformer.evaluation.report.figures import minute_ranges
from transformer.evaluation.report.provenance import Provenance
from transformer.evaluation.report.tables import GROWTH, MAX_TYPES, OverallMeasure, order_text, overall_measures
from transformer.evaluation.sums import exact_sum, mean_of
from transformer.evaluation.wobble import WOBBLE, wobble
from transformer.pages.page import Cell, Table, plain_number
from transformer.prediction.columns import ROW_KEY
from transformer.prediction.row_files import EvaluationRows, collect_parts, in_common, parts_of
from transformer.text import minutes_text, seconds_text, share_text, signed_seconds_text, skill_text

WORST = 15  # listed points, and listed trains


@dataclass(frozen=True)
class Champion:
    """The model to beat. The comparison uses the predictions that both models made."""

    name: str
    rows: EvaluationRows  # of the same window, see `columns.ROW_SCHEMA`
    interval: Mapping[str, float] | None = None  # of MAE − MAE of the champion: `low_s`, `high_s` and `confidence`


@dataclass(frozen=True)
class Comparison:
    """The model and the champion on the predictions that both made."""

    champion: Champion
    n: int
    mae_s: float  # of the model
    theirs: dict[str, float]  # of the champion: the values of `tables.overall_measures`, as far as it has them
    growth: SevereGrowth  # of the champion
    skills: dict[str, pl.DataFrame]  # by breakdown: the groups and `champion_skill`

    @classmethod
    def of(cls, measures: Measures, champion: Champion) -> Comparison:
        own = in_common(measures.rows, champion.rows)
        if not own.height:
            raise UserError(f"{champion.name} predicted none of the rows to evaluate; evaluate it on the same window")
        others = in_common(champion.rows, own)
        judged = uncertainty(others)
        return cls(
            champion,
            own.height,
            metrics.summary(own)["mae_s"],
            metrics.summary(others) | (judged.summary if judged else {}) | wobble(others).summary,
            severe_growth(others, measures.growth.alerts_per_hour),
            _skills(own, others, measures.timezone),
        )


def _skills(own: EvaluationRows, others: EvaluationRows, timezone: str) -> dict[str, pl.DataFrame]:
    """`champion_skill` of the groups of each breakdown: 1 − MAE / MAE of the champion; null = it makes no error.

    Args:
        own: rows of the model.
        others: rows of the champion for the same predictions.
    """
    keys = metrics.group_keys(timezone)
    size, totals = metrics.MODEL_ERROR_S.abs(), [pl.len(), exact_sum(pl.col("own")), exact_sum(pl.col("other"))]
    parts: dict[str, list[pl.DataFrame]] = {by: [] for by in keys}
    theirs = parts_of(others)
    for day, part in parts_of(own).items():
        other = theirs[day].select(*ROW_KEY, other=size)
        paired = part.with_columns(own=size).join(other, on=ROW_KEY).select("own", "other", **keys).collect()
        for by, found in parts.items():
            found.append(paired.group_by(by).agg(totals))
    own_mae, other_mae = (mean_of(pl.col(whose).sum(), pl.col("len").sum()) for whose in ("own", "other"))
    skill = pl.when(other_mae > 0).then(1 - own_mae / other_mae).alias("champion_skill")
    return {by: pl.concat(found).group_by(by).agg(skill) for by, found in parts.items()}


class EvaluationTables:
    """The tables of one evaluation: the model, translation, and the champion if there is one."""

    def __init__(self, measures: Measures, champion: Champion | None) -> None:
        self.measures = measures
        self.comparison = Comparison.of(measures, champion) if champion else None

    def headline(self) -> list[tuple[str, str, str]]:
        """Label, value and meaning of each of the few numbers that count."""
        summary = self.measures.summary
        facts = [
            ("model", plain_number(seconds_text(summary["mae_s"])), f"MAE of {summary['n']:,.0f} predictions"),
            (
                "translation",
                plain_number(seconds_text(summary["translation_mae_s"])),
                "MAE if the last known delay stays",
            ),
            ("skill", plain_number(skill_text(summary["skill"])), "of translation's MAE is removed by the model"),
        ]
        growth = self.measures.growth
        if growth.seen:
            minutes = growth.seen[0]
            true, of_translation = (
                plain_number(share_text(growth.summary[minutes][prefix + "alert_precision"]))
                for prefix in ("", metrics.TRANSLATION)
            )
            meaning = (
                f"of {growth.alerts_per_hour:g} alerts an hour come true: the delay grows by more than {minutes} min; "
                f"translation {of_translation}"
            )
            facts.append(("severe growth", true, meaning))
        if (judged := self.measures.uncertainty) and judged.intervals:
            name = judged.intervals[-1].name
            width = plain_number(minutes_text(judged.summary[f"width_{name}_s"]))
            meaning = f"of the observed delays lie in the interval; its mean width is {width}"
            facts.append((f"{name}% interval", plain_number(share_text(judged.summary[f"coverage_{name}"])), meaning))
        if comparison := self.comparison:
            own, other = comparison.mae_s, comparison.theirs["mae_s"]
            meaning = f"MAE against {comparison.champion.name}, {plain_number(seconds_text(other))}"
            if interval := comparison.champion.interval:
                low, high = (plain_number(signed_seconds_text(interval[end])) for end in ("low_s", "high_s"))
                meaning += f"; {interval['confidence']:.0%} interval {low} to {high}"
            difference = own - other
            facts.append(("against the champion", plain_number(signed_seconds_text(difference)), meaning))
        return facts

    def overall(self) -> Table:
        header = ["measure", "model", "translation", "skill"]
        note = "Skill is 1 − MAE / MAE of translation. It is below 0 if the model is worse."
        values, measures = self.measures.summary | self.measures.wobble.summary, overall_measures(self.measures)
        if judged := self.measures.uncertainty:
            values = values | judged.summary
            note += " CRPS is the error of the whole predicted distribution. For a point prediction it is the MAE."
        note += f" Along a train, {order_text(self.measures.order)}."
        if self.measures.wobble.changes:
            note += " Wobble is the change of an event's forecast time from snapshot to snapshot, per hour."
        lines = _measure_lines(measures, values)
        if self.comparison:
            champion = self.comparison.theirs
            header.append("champion")
            for line, (_, name, text, _) in zip(lines, measures, strict=True):
                line.append(_number_cell(text(champion[name]) if name in champion else "-"))
            note += (
                " In the tables below, vs champion is the skill against the champion, on the "
                f"{self.comparison.n:,} predictions that both made."
            )
        return Table(f"All {values['n']:,.0f} predictions", header, lines, note=note)

    def table(self, by: str, caption: str, heading: str) -> Table:
        groups = self._groups(by)
        return self._table(groups, [str(name) for name in groups[by]], caption, heading)

    def horizon(self) -> Table:
        groups = self._groups("horizon")
        return self._table(groups, _horizons(groups), "By horizon", "planned in (min)")

    def time_of_day(self) -> Table:
        groups = self._groups("time_of_day")
        note = (
            f"By local hour: night is from {metrics.NIGHT_HOURS[0]}:00 to {metrics.NIGHT_HOURS[-1]}:59, and peak are "
            f"the hours {', '.join(map(str, metrics.PEAK_HOURS))} of weekdays."
        )
        names = groups["time_of_day"].cast(pl.String).to_list()
        return self._table(groups, names, "By time of day of the snapshot", "time of day", note)

    def within_by_horizon(self) -> Table:
        groups = self.measures.groups("horizon")
        header = ["planned in (min)", "n"]
        for minutes in metrics.WITHIN_MIN:
            header += [f"within {minutes} min", "translation"]
        lines = [
            [
                Cell(name),
                _number_cell(f"{group['n']:,}"),
                *(
                    _number_cell(share_text(group[f"{prefix}within_{minutes}_min"]))
                    for minutes in metrics.WITHIN_MIN
                    for prefix in ("", metrics.TRANSLATION)
                ),
            ]
            for name, group in zip(_horizons(groups), groups.iter_rows(named=True), strict=True)
        ]
        note = "The horizon is the planned one, which is known at the snapshot."
        return Table("Predictions within 1, 2 and 5 min, by horizon", header, lines, note=note)

    def wobble(self) -> Table:
        horizon = self.measures.wobble.horizon
        lines = [
            [
                Cell(name),
                _number_cell(f"{group['changes']:,}"),
                *(_number_cell(seconds_text(group[prefix + WOBBLE])) for prefix in ("", metrics.TRANSLATION)),
            ]
            for name, group in zip(_horizons(horizon), horizon.iter_rows(named=True), strict=True)
        ]
        note = "Mean absolute change of the forecast time of the same event, from one snapshot to the next, per hour."
        header = ["planned in (min)", "changes", "model", "translation"]
        return Table("Wobble per event and hour, by horizon", header, lines, note=note)

    def growth(self) -> Iterator[Table]:
        """A table of each severe growth that happened."""
        growth = self.measures.growth
        champion = self.comparison.growth if self.comparison else None
        note = (
            f"The alerts are the trains with the highest scores, at a budget of {growth.alerts_per_hour:g} alerts an "
            "hour. An alert comes true if the delay at one of the train's next events grows so much. Trains found: the "
            "share of the trains with such a growth that have an alert. A train counts once in each snapshot."
        )
        for minutes in growth.seen:
            values = growth.summary[minutes]
            lines = _measure_lines(GROWTH, values)
            header = ["measure", "model", "translation", "skill"]
            if champion:
                header.append("champion")
                for line, (_, name, text, _) in zip(lines, GROWTH, strict=True):
                    line.append(_number_cell(text(champion.summary[minutes][name])))
            caption = f"Delays that grow by more than {minutes} min: {share_text(values['share'])} of the predictions"
            yield Table(caption, header, lines, note=note if minutes == growth.seen[0] else "")

    def delay_change(self) -> Table:
        groups = self._groups("delay_change")
        names = minute_ranges(groups["delay_change"], metrics.DELAY_CHANGE)
        return self._table(groups, names, "By change of delay after the snapshot", "change (min)")

    def rank(self) -> Table:
        return self.table("rank", "By rank: 1 is the first of the train's next events", "rank")

    def departed(self) -> Table:
        return self.table("departed", "By whether an event of the train was known", "known")

    def train_type(self) -> Table:
        groups = self._groups("train_type").sort("n", descending=True, maintain_order=True)
        hidden = groups.height - MAX_TYPES
        note = f"{hidden:,} rarer types are not listed." if hidden > 0 else ""
        shown = groups.head(MAX_TYPES)
        return self._table(shown, shown["train_type"].to_list(), "By train type", "type", note)

    def worst_points(self, op_nodes: pl.DataFrame) -> Table:
        groups = self._groups("op_id")
        worst = metrics.worst_groups(groups, WORST).join(
            op_nodes.select("op_id", "op_name"), on="op_id", how="left", maintain_order="left"
        )
        names = [name or f"point {op_id}" for op_id, name in worst.select("op_id", "op_name").iter_rows()]
        return self._table(worst, names, "Worst operational points", "point", _half_of(groups, "points"))

    def worst_trains(self) -> Table:
        groups = self._groups("train_number")
        number = pl.col("train_number").fill_null(pl.col("train_id"))
        kind = pl.col("train_type").drop_nulls().first()  # of the number's earliest date with a type
        parts = collect_parts(self.measures.rows, lambda part: part.group_by(number).agg(kind))
        types = parts.group_by("train_number").agg(kind)
        worst = metrics.worst_groups(groups, WORST).join(types, on="train_number", how="left", maintain_order="left")
        names = [
            f"{name} ({train_type})" if train_type else name
            for name, train_type in worst.select("train_number", "train_type").iter_rows()
        ]
        return self._table(worst, names, "Worst trains, by train number", "train", _half_of(groups, "train numbers"))

    def _groups(self, by: str) -> pl.DataFrame:
        """A breakdown, with the skill against the champion as `champion_skill`."""
        groups = self.measures.groups(by)
        if self.comparison:
            groups = groups.join(self.comparison.skills[by], on=by, how="left", maintain_order="left")
        return groups

    def _table(self, groups: pl.DataFrame, names: Sequence[str], caption: str, heading: str, note: str = "") -> Table:
        columns: dict[str, Callable[[dict[str, Any]], Cell]] = {
            "n": lambda group: _number_cell(f"{group['n']:,}"),
            "MAE": lambda group: _number_cell(seconds_text(group["mae_s"])),
            "translation": lambda group: _number_cell(seconds_text(group["translation_mae_s"])),
            "skill": lambda group: _skill_cell(group["skill"]),
        }
        if self.comparison:
            columns["vs champion"] = lambda group: _skill_cell(group["champion_skill"])
        columns |= {
            "RMSE": lambda group: _number_cell(seconds_text(group["rmse_s"])),
            "within 2 min": lambda group: _number_cell(share_text(group["within_2_min"])),
            "bias": lambda group: _number_cell(signed_seconds_text(group["bias_s"])),
            "translation's bias": lambda group: _number_cell(signed_seconds_text(group["translation_bias_s"])),
        }
        lines = [
            [Cell(name), *(cell(group) for cell in columns.values())]
            for name, group in zip(names, groups.iter_rows(named=True), strict=True)
        ]
        return Table(caption, [heading, *columns], lines, note=note)


def uncertainty_tables(judged: Uncertainty) -> Iterator[Table]:
    if judged.intervals:
        lines = [
            [
                Cell(f"{interval.name}%"),
                _number_cell(share_text(judged.summary[f"coverage_{interval.name}"])),
                _number_cell(minutes_text(judged.summary[f"width_{interval.name}_s"])),
            ]
            for interval in judged.intervals
        ]
        note = "A delay that equals an end of the interval lies in the interval."
        yield Table("Intervals", ["interval", "covers", "mean width"], lines, note=note)
    lines = [
        [
            Cell(share_text(level["level"])),
            *(_number_cell(share_text(level[name])) for name in ("below", "at_or_below")),
            _number_cell(seconds_text(level["pinball_s"])),
        ]
        for level in judged.levels.iter_rows(named=True)
    ]
    yield Table("Quantiles by level", ["level", "observed below", "at or below", "pinball loss"], lines)
    horizon, train_type, departed, point_group = (
        judged.breakdowns[by] for by in ("horizon", "train_type", "departed", "point_group")
    )
    yield _interval_table(judged, horizon, _horizons(horizon), "Intervals by horizon", "planned in (min)")
    types = train_type.sort("n", descending=True, maintain_order=True).head(MAX_TYPES)
    hidden = train_type.height - types.height
    note = f"{hidden:,} rarer types are not listed." if hidden > 0 else ""
    yield _interval_table(judged, types, types["train_type"].to_list(), "Intervals by train type", "type", note)
    names = departed["departed"].to_list()
    yield _interval_table(judged, departed, names, "Intervals by whether an event of the train was known", "known")
    names = [name.replace("-", " ") for name in point_group["point_group"]]
    note = "Each quarter has equally many operational points, ordered by their number of evaluated events."
    yield _interval_table(judged, point_group, names, "Intervals by traffic of the point", "points", note)


def _horizons(groups: pl.DataFrame) -> list[str]:
    return minute_ranges(groups["horizon"], metrics.HORIZON, first="overdue")


def _interval_table(
    judged: Uncertainty, groups: pl.DataFrame, names: Sequence[str], caption: str, heading: str, note: str = ""
) -> Table:
    header = [heading, "n", "CRPS", "translation", "skill"]
    for interval in judged.intervals:
        header += [f"{interval.name}% covers", f"{interval.name}% width"]
    lines = []
    for name, group in zip(names, groups.iter_rows(named=True), strict=True):
        line = [
            Cell(name),
            _number_cell(f"{group['n']:,}"),
            _number_cell(seconds_text(group["crps_s"])),
            _number_cell(seconds_text(group["translation_crps_s"])),
            _skill_cell(group["crps_skill"]),
        ]
        for interval in judged.intervals:
            line.append(_number_cell(share_text(group[f"coverage_{interval.name}"])))
            line.append(_number_cell(minutes_text(group[f"width_{interval.name}_s"])))
        lines.append(line)
    return Table(caption, header, lines, note=note)


def quality_tables(quality: DataQuality, timezone: str) -> Iterator[Table]:
    if quality.newest_observation:
        newest = quality.newest_observation.astimezone(ZoneInfo(timezone))
        yield _text_table("Freshness", {"newest observation": f"{newest:%Y-%m-%d %H:%M %Z}"})
    if quality.drift:
        lines = [
            [Cell(measure.label), Cell(measure.level, worse=measure.level != "ok"), Cell(measure.text)]
            for measure in quality.drift.measures
        ]
        yield Table("Against the training dates", ["measure", "state", "found"], lines, numbers=False)
    if report := quality.reading:
        yield account_table("Reading", report)
    if quality.unknown:
        lines = [[Cell(reason), Cell(f"{count:,}")] for reason, count in quality.unknown.items()]
        yield Table(f"Unknown to the model, of {quality.predictions:,} predictions", ["predictions", "count"], lines)


def run_table(provenance: Provenance, window: Sequence[date]) -> Table:
    return _text_table(
        "Evaluated run",
        {
            "run": provenance.run_id,
            "window": dates_text(window),
            "environment": provenance.env,
            "commit": provenance.git_commit,
            "data fingerprint": provenance.data_fingerprint,
            "configuration hash": provenance.configuration_hash,
            **provenance.more,
        },
    )


def _text_table(caption: str, lines: Mapping[str, str]) -> Table:
    return Table(
        caption, ["item", "value"], [[Cell(name), Cell(text)] for name, text in lines.items() if text], numbers=False
    )


def _measure_lines(measures: Iterable[OverallMeasure], values: Mapping[str, float]) -> list[list[Cell]]:
    """A line for each measure: its label, the values of model and translation, and the skill if it has one."""
    return [
        [
            Cell(label),
            _number_cell(text(values[name])),
            _number_cell(text(values[metrics.TRANSLATION + name])),
            _skill_cell(values[skill]) if skill else Cell(""),
        ]
        for label, name, text, skill in measures
    ]


def _number_cell(text: str) -> Cell:
    return Cell(plain_number(text))


def _skill_cell(skill: float | None) -> Cell:
    return Cell(plain_number(skill_text(skill)), worse=skill is not None and not math.isnan(skill) and skill < 0)


def _half_of(groups: pl.DataFrame, what: str) -> str:
    least = groups.select(pl.col("n").median()).item()
    return (
        f"Greatest MAE among the half of the {groups.height:,} {what} with the most predictions "
        f"(n at least {least:,.0f}). Fewer predictions say little."
    )
