"""The written result of an evaluation: a table for the task log, figures and JSON tables in a folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from transformer.evaluation import metrics
from transformer.evaluation.measures import Measures
from transformer.evaluation.order import BACKWARD, OBSERVED
from transformer.evaluation.quantiles import Uncertainty
from transformer.evaluation.report import figures
from transformer.figures import DPI
from transformer.files import atomic_path, write_json
from transformer.text import aligned, minutes_text, seconds_text, share_text, signed_seconds_text, skill_text

MAX_TIMELINES = 31  # only the latest service dates have a figure of their own; the table has all dates
MAX_TYPES = 20  # lines of the text table: the types with the most predictions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    metrics: dict[str, float]  # flat, under MLflow-legal names
    figures: list[Path]
    tables: list[Path]
    text: str  # for the terminal and the task log


def write_evaluation(
    measures: Measures,
    op_nodes: pl.DataFrame,
    edges: pl.DataFrame,
    folder: Path,
    *,
    prefix: str,
    history: pl.DataFrame | None = None,
) -> EvaluationResult:
    """Write figures to `folder/figures` and JSON tables to `folder/tables`, each file atomically.

    Args:
        op_nodes: `op_id`, `op_name`, `lat`, `lon`.
        edges: `op_a`, `op_b`, the links of the railway graph.
        prefix: first part of the metric names, such as `test`.
        history: one line per epoch, see `figures.training_curves`.
    """
    groups, judged = measures.breakdowns, measures.uncertainty
    names = op_nodes.select("op_id", "op_name")
    tables: dict[str, Any] = {by: metrics.to_json(frame) for by, frame in groups.items()}
    tables["op_id"] = metrics.to_json(groups["op_id"].join(names, on="op_id", how="left", maintain_order="left"))
    tables["summary"] = _summary_json(measures.summary)
    tables["order"] = measures.order
    if judged:
        tables["uncertainty"] = _summary_json(judged.summary)
        tables["quantiles"] = metrics.to_json(judged.levels)
        tables |= {f"uncertainty_{by}": metrics.to_json(frame) for by, frame in judged.breakdowns.items()}
    written = []
    for name, table in tables.items():
        written.append(folder / "tables" / f"{name}.json")
        write_json(written[-1], table)
    figures = []
    for name, figure in _figures(measures, op_nodes, edges, history):
        figures.append(folder / "figures" / f"{name}.png")
        with atomic_path(figures[-1]) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png")
    logger.info("evaluation: %d figures and %d tables written to %s", len(figures), len(written), folder)
    return EvaluationResult(measures.metrics(prefix), figures, written, results_table(measures))


def headline(values: Mapping[str, float], prefix: str) -> str:
    """One line about an evaluation: `MAE 81.6 s, translation 120.5 s, skill +32.3%, 27,175 predictions`."""
    mae, translation = (seconds_text(values[f"{prefix}/{name}"]) for name in ("mae_s", "translation_mae_s"))
    skill = skill_text(values.get(f"{prefix}/skill"))
    return f"MAE {mae}, translation {translation}, skill {skill}, {values[f'{prefix}/n']:,.0f} predictions"


def results_table(measures: Measures) -> str:
    """Plain text of at most 100 columns: model and translation over all rows, by horizon and by train type."""
    summary, breakdowns, judged = measures.summary, measures.breakdowns, measures.uncertainty
    values = {**summary, **(judged.summary if judged else {})}
    lines = aligned(
        [f"{summary['n']:,.0f} predictions", "model", "translation", "skill"],
        [
            [
                label,
                text(values[name]),
                text(values[metrics.TRANSLATION + name]),
                skill_text(values[skill]) if skill else "",
            ]
            for label, name, text, skill in (*OVERALL, *([CRPS] if judged else []))
        ],
    )
    lines.append("")
    if judged and judged.intervals:
        lines.append(widest_interval_text(judged))
    lines.append(order_text(measures.order))
    types = breakdowns["train_type"].sort("n", descending=True)
    lines += ["", *_group_lines("horizon", "horizon", breakdowns["horizon"])]
    lines += ["", *_group_lines("train type", "train_type", types.head(MAX_TYPES))]
    if types.height > MAX_TYPES:
        lines.append(f"… and {types.height - MAX_TYPES:,} rarer types")
    return "\n".join(lines)


def widest_interval_text(judged: Uncertainty) -> str:
    """`90% interval covers 89.7%, mean width 9.1 min`."""
    name = judged.intervals[-1].name
    covered, width = (judged.summary[measure] for measure in (f"coverage_{name}", f"width_{name}_s"))
    return f"{name}% interval covers {share_text(covered)}, mean width {minutes_text(width)}"


def order_text(shares: Mapping[str, float]) -> str:
    """`times run backwards in 0.0% of the trains' forecasts, observed times in 9.8%`."""
    predicted, observed = (share_text(shares[name]) for name in (BACKWARD, OBSERVED + BACKWARD))
    return f"times run backwards in {predicted} of the trains' forecasts, observed times in {observed}"


def _group_lines(title: str, by: str, frame: pl.DataFrame) -> list[str]:
    return aligned(
        [title, "n", "MAE", "translation", "skill", "RMSE", "within 2 min"],
        [
            [
                _shortened(str(group[by])),
                f"{group['n']:,}",
                seconds_text(group["mae_s"]),
                seconds_text(group[metrics.TRANSLATION + "mae_s"]),
                skill_text(group["skill"]),
                seconds_text(group["rmse_s"]),
                share_text(group["within_2_min"]),
            ]
            for group in frame.iter_rows(named=True)
        ],
    )


def _shortened(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


OVERALL = (  # measures over all predictions: label, metric, text of the metric, and its skill
    ("MAE", "mae_s", seconds_text, "skill"),
    ("RMSE", "rmse_s", seconds_text, "skill_rmse"),
    ("median absolute error", "median_s", seconds_text, ""),
    ("within 1 min", "within_1_min", share_text, ""),
    ("within 2 min", "within_2_min", share_text, ""),
    ("within 5 min", "within_5_min", share_text, ""),
    ("bias (+ = too late)", "bias_s", signed_seconds_text, ""),
)
CRPS = ("CRPS", "crps_s", seconds_text, "crps_skill")  # the same for the distribution


def _summary_json(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _figures(
    measures: Measures, op_nodes: pl.DataFrame, edges: pl.DataFrame, history: pl.DataFrame | None
) -> Iterator[tuple[str, Figure]]:
    """File name and figure, one at a time, since a figure takes much memory."""
    rows, breakdowns, judged = measures.rows, measures.breakdowns, measures.uncertainty
    yield "error_map", figures.error_map(breakdowns["op_id"], op_nodes, edges)
    yield "skill_map", figures.error_map(breakdowns["op_id"], op_nodes, edges, value="skill")
    for day in breakdowns["service_date"]["service_date"].to_list()[-MAX_TIMELINES:]:
        yield f"error_timeline_{day.isoformat()}", figures.error_timeline(rows, day, measures.timezone)
    yield "error_by_horizon", figures.error_by_horizon(breakdowns["horizon"])
    yield "error_by_delay_change", figures.error_by_delay_change(breakdowns["delay_change"])
    yield "error_by_type", figures.error_by_type(breakdowns["train_type"])
    yield "error_distribution", figures.error_distribution(rows)
    yield "predicted_vs_observed", figures.predicted_vs_observed(rows)
    yield "calibration", figures.calibration(rows)
    if judged:
        yield "quantile_reliability", figures.quantile_reliability(judged.levels, rows.height)
    if judged and judged.intervals:
        yield "coverage_by_horizon", figures.coverage_by_horizon(judged.breakdowns["horizon"], judged.intervals)
        yield "width_by_horizon", figures.interval_width_by_horizon(judged.breakdowns["horizon"], judged.intervals)
    if history is not None and not history.is_empty():
        yield "training_curves", figures.training_curves(history)
