"""The evaluation as one HTML file for people: it opens offline, in dark and light, on a phone and on a desktop.

Figures are inlined, styles are inside, there is no script. All text of the data is escaped.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jinja2
import polars as pl

from transformer.errors import UserError
from transformer.evaluation import metrics
from transformer.evaluation.quality import DataQuality
from transformer.evaluation.quantiles import Uncertainty, uncertainty
from transformer.evaluation.report.figures import minute_ranges
from transformer.evaluation.report.provenance import Provenance, dates_text
from transformer.evaluation.report.tables import CRPS, MAX_TYPES, OVERALL
from transformer.files import write_text
from transformer.text import minutes_text, seconds_text, share_text, signed_seconds_text, skill_text

TEMPLATE = "report.html.jinja"
MAX_TIMELINES = 7  # the latest service dates; a timeline is about 100 kB
WORST = 15  # points and trains listed
WIDE_PX = 1_100
PREDICTION = ["snapshot_ts", "train_id", "service_date", "rank", "op_id", "event_type"]  # key of an evaluation row

_TIMELINE = "error_timeline_"
_CAPTIONS = {  # by file name of `report.write_evaluation`: caption and alternative text
    "error_map": (
        "Where the model errs: its MAE at each operational point. The numbered places are the worst.",
        "Map of the railway with each operational point coloured by the model's MAE; the worst are in the table below.",
    ),
    "skill_map": (
        "Where the model beats translation (blue) and where it does not (red).",
        "Map of the railway with each operational point coloured by the model's skill against translation.",
    ),
    "error_by_horizon": (
        "MAE by time to the planned event, with the skill above each pair of bars.",
        "Bars of the model's and translation's MAE by horizon; the same numbers are in the table by horizon.",
    ),
    "error_by_delay_change": (
        "MAE by how much the delay changes after the snapshot: a steady delay is what translation predicts.",
        "Bars of the model's and translation's MAE by change of delay; the same numbers are in the table below.",
    ),
    "error_by_type": (
        "MAE by type of train, the types with the most predictions first.",
        "Bars of the model's and translation's MAE by train type; the same numbers are in the table by train type.",
    ),
    "error_distribution": (
        "How many predictions are off by at most so many minutes.",
        "Cumulative distribution of the absolute error of the model and of translation.",
    ),
    "calibration": (
        "What was observed where a certain delay was predicted. A calibrated model follows the diagonal; above it, "
        "trains came later than predicted.",
        "Median of the observed delay by predicted delay, for the model with quartiles and for translation.",
    ),
    "predicted_vs_observed": (
        "Every pair of predicted and observed delay.",
        "Two-dimensional histograms of predicted against observed delay, for the model and for translation.",
    ),
    "quantile_reliability": (
        "How often the observed delay stayed below each predicted quantile. A calibrated model is on the diagonal; "
        "bars are delays that equal the quantile.",
        "Observed share below each quantile against its level; the same numbers are in the table by level.",
    ),
    "coverage_by_horizon": (
        "How many of the observed delays each interval held, by time to the planned event.",
        "Bars of each interval's coverage by horizon; the same numbers are in the table of intervals by horizon.",
    ),
    "width_by_horizon": (
        "How wide the intervals are on average, by time to the planned event.",
        "Bars of each interval's mean width by horizon; the same numbers are in the table of intervals by horizon.",
    ),
    "training_curves": (
        "How the training went, by epoch.",
        "Curves of training loss, validation MAE beside translation, and learning rate.",
    ),
}


@dataclass(frozen=True)
class Champion:
    """The model to beat, compared on the predictions that both made."""

    name: str
    rows: pl.DataFrame  # of the same window, see `metrics.ROW_SCHEMA`
    interval: Mapping[str, float] | None = None  # of MAE − the champion's: `low_s`, `high_s` and its `confidence`


@dataclass(frozen=True)
class _Cell:
    text: str
    worse: bool = False  # than the baseline or a limit


@dataclass(frozen=True)
class _Table:
    caption: str
    header: Sequence[str]
    lines: Sequence[Sequence[_Cell]]  # the first cell names its line
    numbers: bool = True  # whether the other cells are numbers
    note: str = ""


@dataclass(frozen=True)
class _Figure:
    caption: str
    alt: str
    source: str  # data URI
    width: int  # pixels
    height: int

    @property
    def wide(self) -> bool:
        """Whether its text would be too small to read at half the width of the page."""
        return self.width > WIDE_PX


@dataclass(frozen=True)
class _Section:
    title: str
    figures: Sequence[_Figure] = ()
    tables: Sequence[_Table] = ()

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def write_html_report(
    target: Path,
    rows: pl.DataFrame,
    op_nodes: pl.DataFrame,
    figures: Sequence[Path],
    *,
    window: Sequence[date],
    timezone: str,
    provenance: Provenance,
    champion: Champion | None = None,
    verdict: str = "",
    remarks: Sequence[str] = (),
    quality: DataQuality | None = None,
) -> Path:
    """Write the report of one model on one window to `target`, atomically.

    Args:
        rows: predictions, see `metrics.ROW_SCHEMA`, with or without quantiles.
        op_nodes: `op_id`, `op_name`.
        figures: PNG files of `report.write_evaluation` on the same rows; of the timelines the latest are shown.
        window: the service dates that were to be evaluated.
        timezone: IANA name of the railway's clock.
        verdict: whether the model becomes champion, and why.
        remarks: what to warn of beside the data.

    Raises:
        UserError: `rows` is empty or holds a value that is not a number, or the champion predicted none of them.
    """
    evaluation = _Evaluation(rows, timezone, champion)
    quality = quality or DataQuality()
    shown = _Figures(figures)
    sections = [
        _Section("Result", tables=[evaluation.overall()]),
        _Section(
            "Place and time",
            figures=shown.named("error_map", "skill_map") + shown.timelines(timezone),
            tables=[
                evaluation.table("service_date", "By service date", "service date"),
                evaluation.table("hour", f"By hour of the snapshot, {timezone} time", "hour"),
            ],
        ),
        _Section(
            "Horizon and change of delay",
            figures=shown.named("error_by_horizon", "error_by_delay_change"),
            tables=[evaluation.horizon(), evaluation.rank(), evaluation.delay_change()],
        ),
        _Section(
            "Trains", figures=shown.named("error_by_type"), tables=[evaluation.train_type(), evaluation.departed()]
        ),
        _Section("Worst points and trains", tables=[evaluation.worst_points(op_nodes), evaluation.worst_trains()]),
        _Section("Calibration", figures=shown.named("calibration", "error_distribution", "predicted_vs_observed")),
        _Section(
            "Uncertainty",
            figures=shown.named("quantile_reliability", "coverage_by_horizon", "width_by_horizon"),
            tables=list(_uncertainty_tables(evaluation.uncertainty)) if evaluation.uncertainty else [],
        ),
        _Section("Training", figures=shown.named("training_curves")),
        _Section("Data quality", tables=list(_quality_tables(quality, timezone))),
        _Section("Run", tables=[_run_table(provenance, window)]),
    ]
    page = _template().render(
        title=f"Evaluation {dates_text(window)}",
        headline=evaluation.headline(),
        verdict=verdict,
        warnings=[*remarks, *_warnings(rows, window, quality)],
        sections=[section for section in sections if section.figures or section.tables],
        commands=provenance.commands,
        run_url=provenance.run_url if provenance.run_url.startswith(("https://", "http://")) else "",
    )
    write_text(target, page)
    return target


@dataclass(frozen=True)
class _Comparison:
    champion: Champion
    own: pl.DataFrame  # rows of the events that both predicted
    others: pl.DataFrame

    @classmethod
    def of(cls, rows: pl.DataFrame, champion: Champion) -> _Comparison:
        own = rows.join(champion.rows, on=PREDICTION, how="semi")
        if own.is_empty():
            raise UserError(f"{champion.name} predicted none of the rows to evaluate; evaluate it on the same window")
        return cls(champion, own, champion.rows.join(rows, on=PREDICTION, how="semi"))


class _Evaluation:
    """The tables of one evaluation, beside translation and, where there is one, the champion."""

    def __init__(self, rows: pl.DataFrame, timezone: str, champion: Champion | None) -> None:
        self.rows = rows
        self.timezone = timezone
        self.summary = metrics.summary(rows)
        self.uncertainty = uncertainty(rows)
        self.comparison = _Comparison.of(rows, champion) if champion else None

    def headline(self) -> list[tuple[str, str, str]]:
        """Label, value and what it means, for each of the few numbers that count."""
        summary = self.summary
        facts = [
            ("model", _number(seconds_text(summary["mae_s"])), f"MAE of {summary['n']:,.0f} predictions"),
            ("translation", _number(seconds_text(summary["translation_mae_s"])), "MAE when the last known delay stays"),
            ("skill", _number(skill_text(summary["skill"])), "of translation's MAE that the model saves"),
        ]
        if (judged := self.uncertainty) and judged.intervals:
            name = judged.intervals[-1].name
            width = _number(minutes_text(judged.summary[f"width_{name}_s"]))
            meaning = f"of the observed delays lie in it; {width} wide on average"
            facts.append((f"{name}% interval", _number(share_text(judged.summary[f"coverage_{name}"])), meaning))
        if comparison := self.comparison:
            own, other = (metrics.summary(side)["mae_s"] for side in (comparison.own, comparison.others))
            meaning = f"MAE against {comparison.champion.name}, {_number(seconds_text(other))}"
            if interval := comparison.champion.interval:
                low, high = (_number(signed_seconds_text(interval[end])) for end in ("low_s", "high_s"))
                meaning += f"; {interval['confidence']:.0%} interval {low} to {high}"
            difference = own - other
            facts.append(("against the champion", _number(signed_seconds_text(difference)), meaning))
        return facts

    def overall(self) -> _Table:
        header = ["measure", "model", "translation", "skill"]
        note = "Skill: 1 − MAE / MAE of translation, below 0 where the model is worse."
        values, measures = self.summary, [*OVERALL]
        if self.uncertainty:
            values = values | self.uncertainty.summary
            measures.append(CRPS)
            note += " CRPS: the error of the whole predicted distribution; of a point prediction it is the MAE."
        lines = [
            [
                _Cell(label),
                _number_cell(text(values[name])),
                _number_cell(text(values[metrics.TRANSLATION + name])),
                _skill_cell(values[skill]) if skill else _Cell(""),
            ]
            for label, name, text, skill in measures
        ]
        if self.comparison:
            others = self.comparison.others
            judged = uncertainty(others)
            champion = metrics.summary(others) | (judged.summary if judged else {})
            header.append("champion")
            for line, (_, name, text, _) in zip(lines, measures, strict=True):
                line.append(_number_cell(text(champion[name]) if name in champion else "-"))
            note += (
                " In the tables below, vs champion is the same against the champion, on the "
                f"{self.comparison.own.height:,} predictions that both made."
            )
        return _Table(f"All {self.summary['n']:,.0f} predictions", header, lines, note=note)

    def table(self, by: str, caption: str, heading: str) -> _Table:
        groups = self._groups(by)
        return self._table(groups, [str(name) for name in groups[by]], caption, heading)

    def horizon(self) -> _Table:
        groups = self._groups("horizon")
        names = minute_ranges(groups["horizon"], metrics.HORIZON, first="overdue")
        return self._table(groups, names, "By horizon", "planned in (min)")

    def delay_change(self) -> _Table:
        groups = self._groups("delay_change")
        names = minute_ranges(groups["delay_change"], metrics.DELAY_CHANGE)
        return self._table(groups, names, "By change of delay after the snapshot", "change (min)")

    def rank(self) -> _Table:
        return self.table("rank", "By rank: 1 is the train's very next event", "rank")

    def departed(self) -> _Table:
        return self.table("departed", "By whether anything of the train was known", "known")

    def train_type(self) -> _Table:
        groups = self._groups("train_type").sort("n", descending=True, maintain_order=True)
        hidden = groups.height - MAX_TYPES
        note = f"{hidden:,} rarer types are not listed." if hidden > 0 else ""
        shown = groups.head(MAX_TYPES)
        return self._table(shown, shown["train_type"].to_list(), "By train type", "type", note)

    def worst_points(self, op_nodes: pl.DataFrame) -> _Table:
        groups = self._groups("op_id")
        worst = metrics.worst_groups(groups, WORST).join(
            op_nodes.select("op_id", "op_name"), on="op_id", how="left", maintain_order="left"
        )
        names = [name or f"point {op_id}" for op_id, name in worst.select("op_id", "op_name").iter_rows()]
        return self._table(worst, names, "Worst operational points", "point", _half_of(groups, "points"))

    def worst_trains(self) -> _Table:
        groups = self._groups("train_number")
        number = pl.col("train_number").fill_null(pl.col("train_id"))
        types = self.rows.group_by(number).agg(pl.col("train_type").drop_nulls().first())
        worst = metrics.worst_groups(groups, WORST).join(types, on="train_number", how="left", maintain_order="left")
        names = [
            f"{name} ({train_type})" if train_type else name
            for name, train_type in worst.select("train_number", "train_type").iter_rows()
        ]
        return self._table(worst, names, "Worst trains, by train number", "train", _half_of(groups, "train numbers"))

    def _groups(self, by: str) -> pl.DataFrame:
        """A breakdown, with the skill against the champion as `champion_skill`."""
        groups = metrics.breakdown(self.rows, by, self.timezone)
        if self.comparison:
            own, others = (
                metrics.breakdown(side, by, self.timezone) for side in (self.comparison.own, self.comparison.others)
            )
            both = own.select(by, own="mae_s").join(others.select(by, other="mae_s"), on=by)
            skill = pl.when(pl.col("other") > 0).then(1 - pl.col("own") / pl.col("other"))
            groups = groups.join(both.select(by, champion_skill=skill), on=by, how="left", maintain_order="left")
        return groups

    def _table(self, groups: pl.DataFrame, names: Sequence[str], caption: str, heading: str, note: str = "") -> _Table:
        columns: dict[str, Callable[[dict[str, Any]], _Cell]] = {
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
        }
        lines = [
            [_Cell(name), *(cell(group) for cell in columns.values())]
            for name, group in zip(names, groups.iter_rows(named=True), strict=True)
        ]
        return _Table(caption, [heading, *columns], lines, note=note)


class _Figures:
    """The figures at hand, inlined when asked for by name."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = {path.stem: path for path in paths}

    def named(self, *names: str) -> list[_Figure]:
        return [self._inlined(name, *_CAPTIONS[name]) for name in names if name in self._paths]

    def timelines(self, timezone: str) -> list[_Figure]:
        names = sorted(name for name in self._paths if name.startswith(_TIMELINE))[-MAX_TIMELINES:]
        return [
            self._inlined(
                name,
                f"MAE of each snapshot of {name.removeprefix(_TIMELINE)}, {timezone} time.",
                f"Curves of the model's and translation's MAE over the hours of {name.removeprefix(_TIMELINE)}.",
            )
            for name in names
        ]

    def _inlined(self, name: str, caption: str, alt: str) -> _Figure:
        content = self._paths[name].read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # PNG, RFC 2083: the header chunk begins with them
        source = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
        return _Figure(caption, alt, source, width, height)


def _uncertainty_tables(judged: Uncertainty) -> Iterator[_Table]:
    if judged.intervals:
        lines = [
            [
                _Cell(f"{interval.name}%"),
                _number_cell(share_text(judged.summary[f"coverage_{interval.name}"])),
                _number_cell(minutes_text(judged.summary[f"width_{interval.name}_s"])),
            ]
            for interval in judged.intervals
        ]
        note = "A delay that equals an end of the interval lies in it."
        yield _Table("Intervals", ["interval", "covers", "mean width"], lines, note=note)
    horizon, train_type, departed, point_group = (
        judged.breakdowns[by] for by in ("horizon", "train_type", "departed", "point_group")
    )
    names = minute_ranges(horizon["horizon"], metrics.HORIZON, first="overdue")
    yield _interval_table(judged, horizon, names, "Intervals by horizon", "planned in (min)")
    types = train_type.sort("n", descending=True, maintain_order=True).head(MAX_TYPES)
    hidden = train_type.height - types.height
    note = f"{hidden:,} rarer types are not listed." if hidden > 0 else ""
    yield _interval_table(judged, types, types["train_type"].to_list(), "Intervals by train type", "type", note)
    names = departed["departed"].to_list()
    yield _interval_table(judged, departed, names, "Intervals by whether anything of the train was known", "known")
    names = [name.replace("-", " ") for name in point_group["point_group"]]
    note = "Operational points in quarters of as many points each, by how many of the evaluated events they have."
    yield _interval_table(judged, point_group, names, "Intervals by traffic of the point", "points", note)
    lines = [
        [
            _Cell(share_text(level["level"])),
            *(_number_cell(share_text(level[name])) for name in ("below", "at_or_below")),
            _number_cell(seconds_text(level["pinball_s"])),
        ]
        for level in judged.levels.iter_rows(named=True)
    ]
    yield _Table("Quantiles by level", ["level", "observed below", "at or below", "pinball loss"], lines)


def _interval_table(
    judged: Uncertainty, groups: pl.DataFrame, names: Sequence[str], caption: str, heading: str, note: str = ""
) -> _Table:
    header = [heading, "n", "CRPS", "translation", "skill"]
    for interval in judged.intervals:
        header += [f"{interval.name}% covers", f"{interval.name}% width"]
    lines = []
    for name, group in zip(names, groups.iter_rows(named=True), strict=True):
        line = [
            _Cell(name),
            _number_cell(f"{group['n']:,}"),
            _number_cell(seconds_text(group["crps_s"])),
            _number_cell(seconds_text(group["translation_crps_s"])),
            _skill_cell(group["crps_skill"]),
        ]
        for interval in judged.intervals:
            line.append(_number_cell(share_text(group[f"coverage_{interval.name}"])))
            line.append(_number_cell(minutes_text(group[f"width_{interval.name}_s"])))
        lines.append(line)
    return _Table(caption, header, lines, note=note)


def _quality_tables(quality: DataQuality, timezone: str) -> Iterator[_Table]:
    if quality.newest_observation:
        newest = quality.newest_observation.astimezone(ZoneInfo(timezone))
        yield _text_table("Freshness", {"newest observation": f"{newest:%Y-%m-%d %H:%M %Z}"})
    if quality.drift:
        lines = [
            [_Cell(measure.label), _Cell(measure.level, worse=measure.level != "ok"), _Cell(measure.text)]
            for measure in quality.drift.measures
        ]
        yield _Table("Against the training dates", ["measure", "state", "found"], lines, numbers=False)
    if report := quality.reading:
        counts = {f"events kept, of {report.events:,}": report.kept}
        for verb, reasons in (
            ("dropped", report.dropped),
            ("taken as not observed", report.discarded),
            ("noted", report.notes),
        ):
            counts |= {f"{verb}: {reason}": count for reason, count in reasons.most_common()}
        yield _Table("Reading", ["events", "count"], [[_Cell(name), _Cell(f"{n:,}")] for name, n in counts.items()])


def _run_table(provenance: Provenance, window: Sequence[date]) -> _Table:
    return _text_table(
        "What was evaluated",
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


def _text_table(caption: str, lines: Mapping[str, str]) -> _Table:
    return _Table(
        caption, ["what", "value"], [[_Cell(name), _Cell(text)] for name, text in lines.items() if text], numbers=False
    )


def _warnings(rows: pl.DataFrame, window: Sequence[date], quality: DataQuality) -> Iterator[str]:
    if missing := sorted(set(window) - set(rows["service_date"].unique())):
        yield f"No prediction on {dates_text(missing)}, though the window holds it"
    if quality.drift:
        yield from quality.drift.warnings


def _number_cell(text: str) -> _Cell:
    return _Cell(_number(text))


def _skill_cell(skill: float | None) -> _Cell:
    return _Cell(_number(skill_text(skill)), worse=skill is not None and not math.isnan(skill) and skill < 0)


def _number(text: str) -> str:
    """With a true minus sign, since screen readers pass over a hyphen, and its unit on the same line."""
    return text.replace("-", "−").replace(" ", "\N{NO-BREAK SPACE}")


def _half_of(groups: pl.DataFrame, what: str) -> str:
    least = groups.select(pl.col("n").median()).item()
    return (
        f"Greatest MAE among the half of the {groups.height:,} {what} with the most predictions "
        f"(n at least {least:,.0f}): a handful says little."
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)
