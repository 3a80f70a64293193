"""The report of an evaluation: one HTML file for people, see `transformer.pages`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import polars as pl

from transformer.data.dates import dates_text
from transformer.evaluation.measures import Measures
from transformer.evaluation.quality import DataQuality
from transformer.evaluation.report.lead import lead
from transformer.evaluation.report.page_tables import (
    Champion,
    EvaluationTables,
    quality_tables,
    run_table,
    uncertainty_tables,
)
from transformer.evaluation.report.provenance import Provenance
from transformer.pages.page import Page, Picture, Section

MAX_TIMELINES = 7  # the latest service dates; a timeline is about 100 kB

_TIMELINE = "error_timeline_"
_CAPTIONS = {  # by file name of `tables.write_evaluation`: caption and alternative text
    "error_map": (
        "MAE of the model at each operational point. The numbers mark the worst places.",
        "Map of the railway with each operational point coloured by the model's MAE; the table below lists the worst.",
    ),
    "skill_map": (
        "Skill at each operational point. Blue: the model beats translation. Red: the model is worse.",
        "Map of the railway with each operational point coloured by the model's skill against translation.",
    ),
    "error_by_horizon": (
        "MAE by time to the planned event. The skill is above each pair of bars.",
        "Bars of the model's and translation's MAE by horizon; the same numbers are in the table by horizon.",
    ),
    "within_by_horizon": (
        "Share of predictions with an error of at most 1, 2 and 5 minutes, by time to the planned event.",
        "Curves of the shares within 1, 2 and 5 minutes by horizon; the same numbers are in the table below.",
    ),
    "bias_by_horizon": (
        "Mean error by time to the planned event. Above 0, predictions are too late.",
        "Bars of the model's and translation's bias by horizon; the same numbers are in the table by horizon.",
    ),
    "error_by_delay_change": (
        "MAE by change of delay after the snapshot. Translation predicts a steady delay.",
        "Bars of the model's and translation's MAE by change of delay; the same numbers are in the table below.",
    ),
    "error_by_type": (
        "MAE by train type. The types with the most predictions are first.",
        "Bars of the model's and translation's MAE by train type; the same numbers are in the table by train type.",
    ),
    "error_distribution": (
        "Share of predictions whose absolute error is at most the number of minutes on the axis.",
        "Cumulative distribution of the absolute error of the model and of translation.",
    ),
    "calibration": (
        "Observed delay by predicted delay. A calibrated model follows the diagonal. Above the diagonal, trains came "
        "later than predicted.",
        "Median of the observed delay by predicted delay, for the model with quartiles and for translation.",
    ),
    "predicted_vs_observed": (
        "Number of predictions by predicted and observed delay.",
        "Two-dimensional histograms of predicted against observed delay, for the model and for translation.",
    ),
    "growth_precision": (
        "Precision by recall: the share of true growths among those with a high score, from the highest score down.",
        "Curves of precision by recall for each severe growth, of the model and of translation.",
    ),
    "growth_reliability": (
        "How often a delay grew so much, by predicted probability. A calibrated model is on the diagonal.",
        "Observed share of severe growths against the predicted probability.",
    ),
    "quantile_reliability": (
        "Share of observed delays below each predicted quantile. A calibrated model is on the diagonal. Bars show the "
        "delays that equal the quantile.",
        "Observed share below each quantile against its level; the same numbers are in the table by level.",
    ),
    "coverage_by_horizon": (
        "Share of observed delays inside each interval, by time to the planned event.",
        "Bars of each interval's coverage by horizon; the same numbers are in the table of intervals by horizon.",
    ),
    "width_by_horizon": (
        "Mean width of each interval, by time to the planned event.",
        "Bars of each interval's mean width by horizon; the same numbers are in the table of intervals by horizon.",
    ),
    "training_curves": (
        "The training, epoch by epoch.",
        "Curves of training loss, validation MAE of model and translation, and learning rate.",
    ),
}


def write_html_report(
    target: Path,
    measures: Measures,
    op_nodes: pl.DataFrame,
    figures: Sequence[Path],
    *,
    window: Sequence[date],
    provenance: Provenance,
    champion: Champion | None = None,
    verdict: str = "",
    remarks: Sequence[str] = (),
    quality: DataQuality | None = None,
) -> Path:
    """Write the report of one model on one window to `target`, atomically.

    Args:
        op_nodes: `op_id`, `op_name`.
        figures: PNG files of `tables.write_evaluation` on the same rows. Only the latest timelines are shown.
        window: the service dates of the window, even those without predictions.
        verdict: whether the model becomes champion, and why.
        remarks: warnings that do not concern the data.

    Raises:
        UserError: the champion predicted none of the rows.
    """
    timezone, judged = measures.timezone, measures.uncertainty
    evaluation = EvaluationTables(measures, champion)
    quality = quality or DataQuality()
    shown = _Figures(figures)
    sections = [
        Section("Result", figures=shown.named("error_distribution"), tables=[evaluation.overall()]),
        Section(
            "Place and time",
            figures=shown.named("error_map", "skill_map") + shown.timelines(timezone),
            tables=[
                evaluation.table("service_date", "By service date", "service date"),
                evaluation.time_of_day(),
                evaluation.table("day_type", "By weekday and weekend", "service date"),
                evaluation.table("hour", f"By hour of the snapshot, {timezone} time", "hour"),
            ],
        ),
        Section(
            "Horizon and change of delay",
            figures=shown.named("error_by_horizon", "within_by_horizon", "bias_by_horizon", "error_by_delay_change"),
            tables=[
                evaluation.horizon(),
                evaluation.within_by_horizon(),
                *([evaluation.wobble()] if measures.wobble.changes else []),
                evaluation.rank(),
                evaluation.delay_change(),
            ],
        ),
        Section(
            "Severe growth",
            figures=shown.named("growth_precision", "growth_reliability"),
            tables=list(evaluation.growth()),
        ),
        Section(
            "Trains", figures=shown.named("error_by_type"), tables=[evaluation.train_type(), evaluation.departed()]
        ),
        Section("Worst points and trains", tables=[evaluation.worst_points(op_nodes), evaluation.worst_trains()]),
        Section("Calibration", figures=shown.named("calibration", "quantile_reliability", "predicted_vs_observed")),
        Section(
            "Uncertainty",
            figures=shown.named("coverage_by_horizon", "width_by_horizon"),
            tables=list(uncertainty_tables(judged)) if judged else [],
        ),
        Section("Data quality", tables=list(quality_tables(quality, timezone))),
        Section("Training and run", figures=shown.named("training_curves"), tables=[run_table(provenance, window)]),
        Section("Reproduce", commands=provenance.commands),
    ]
    page = Page(
        f"Evaluation {dates_text(window)}",
        lead(measures, evaluation.comparison),
        sections,
        facts=evaluation.headline(),
        remarks=[verdict] if verdict else [],
        warnings=[*remarks, *_warnings(measures, window, quality)],
        links=[("This run in MLflow", provenance.run_url)],
    )
    return page.write(target)


class _Figures:
    """The available figures. A figure is inlined when it is requested by name."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = {path.stem: path for path in paths}

    def named(self, *names: str) -> list[Picture]:
        return [self._inlined(name, *_CAPTIONS[name]) for name in names if name in self._paths]

    def timelines(self, timezone: str) -> list[Picture]:
        names = sorted(name for name in self._paths if name.startswith(_TIMELINE))[-MAX_TIMELINES:]
        return [
            self._inlined(
                name,
                f"MAE of each snapshot of {name.removeprefix(_TIMELINE)}, {timezone} time.",
                f"Curves of the model's and translation's MAE over the hours of {name.removeprefix(_TIMELINE)}.",
            )
            for name in names
        ]

    def _inlined(self, name: str, caption: str, alt: str) -> Picture:
        return Picture.of(self._paths[name].read_bytes(), caption, alt)


def _warnings(measures: Measures, window: Sequence[date], quality: DataQuality) -> Iterator[str]:
    if missing := sorted(set(window) - set(measures.groups("service_date")["service_date"])):
        yield f"No prediction on {dates_text(missing)}, although the window has these dates"
    if quality.drift:
        yield from quality.drift.warnings
