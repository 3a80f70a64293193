"""The evaluation as one HTML file for people. It opens offline, in dark and light mode, on a phone and on a desktop.

Figures and styles are inside the file, and there is no script. All text from the data is escaped.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jinja2
import polars as pl

from transformer.evaluation.measures import Measures
from transformer.evaluation.quality import DataQuality
from transformer.evaluation.report.page_tables import (
    Champion,
    EvaluationTables,
    Table,
    quality_tables,
    run_table,
    uncertainty_tables,
)
from transformer.evaluation.report.provenance import Provenance, dates_text
from transformer.files import write_text

TEMPLATE = "report.html.jinja"
MAX_TIMELINES = 7  # the latest service dates; a timeline is about 100 kB
WIDE_PX = 1_100

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


@dataclass(frozen=True)
class _Figure:
    caption: str
    alt: str
    source: str  # data URI
    width: int  # pixels
    height: int

    @property
    def wide(self) -> bool:
        """Whether the figure's text would be too small to read at half the width of the page."""
        return self.width > WIDE_PX


@dataclass(frozen=True)
class _Section:
    title: str
    figures: Sequence[_Figure] = ()
    tables: Sequence[Table] = ()

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


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
            tables=list(uncertainty_tables(judged)) if judged else [],
        ),
        _Section("Training", figures=shown.named("training_curves")),
        _Section("Data quality", tables=list(quality_tables(quality, timezone))),
        _Section("Run", tables=[run_table(provenance, window)]),
    ]
    page = _template().render(
        title=f"Evaluation {dates_text(window)}",
        headline=evaluation.headline(),
        verdict=verdict,
        warnings=[*remarks, *_warnings(measures.rows, window, quality)],
        sections=[section for section in sections if section.figures or section.tables],
        commands=provenance.commands,
        run_url=provenance.run_url if provenance.run_url.startswith(("https://", "http://")) else "",
    )
    write_text(target, page)
    return target


class _Figures:
    """The available figures. A figure is inlined when it is requested by name."""

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
        width, height = struct.unpack(">II", content[16:24])  # PNG, RFC 2083: both begin the header chunk
        source = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
        return _Figure(caption, alt, source, width, height)


def _warnings(rows: pl.DataFrame, window: Sequence[date], quality: DataQuality) -> Iterator[str]:
    if missing := sorted(set(window) - set(rows["service_date"].unique())):
        yield f"No prediction on {dates_text(missing)}, although the window has these dates"
    if quality.drift:
        yield from quality.drift.warnings


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)
