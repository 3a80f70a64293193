"""Errors of the model and of translation, the baseline, over all rows and per group.

A row is one predicted event of one train in one snapshot (`ROW_SCHEMA`). An error is predicted − observed delay in
seconds; a positive error is a prediction that is too late. Every metric is computed for the model and for translation
on the same rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from transformer.config import GATE_BREAKDOWNS
from transformer.errors import UserError
from transformer.evaluation.sums import exact_sum, mean_of
from transformer.prediction.columns import ROW_SCHEMA
from transformer.prediction.row_files import EvaluationRows, collect_parts

_FINITE = ("horizon_s", "last_delay_s", "observed_delay_s", "translation_delay_s", "predicted_delay_s")

METRICS = (  # of one predictor
    "mae_s",
    "rmse_s",
    "median_s",  # of the absolute error
    "within_1_min",  # share of rows with an absolute error of at most 60 s
    "within_2_min",
    "within_5_min",
    "bias_s",  # mean error: positive = predictions are too late
)
WITHIN_MIN = (1, 2, 5)  # of the `within_…_min` among METRICS
TRANSLATION = "translation_"  # prefix of the baseline's metrics
SKILLS = ("skill", "skill_rmse")  # 1 - MAE / MAE(translation), and the same for the RMSE
SUMMARY = ("n", *METRICS, *(TRANSLATION + name for name in METRICS), *SKILLS)

MODEL_ERROR_S = pl.col("predicted_delay_s").cast(pl.Float64) - pl.col("observed_delay_s")
TRANSLATION_ERROR_S = pl.col("translation_delay_s").cast(pl.Float64) - pl.col("observed_delay_s")


@dataclass(frozen=True)
class Bins:
    """Half-open intervals [edge, next edge) in minutes. The outer bins have no limit, so labels = edges + 1."""

    edges_min: tuple[int, ...]
    labels: tuple[str, ...]  # legal in an MLflow metric name

    def of(self, value_s: pl.Expr) -> pl.Expr:
        """The label of each value in seconds, as an Enum in the order of the bins."""
        edges_s = pl.lit(pl.Series([60.0 * edge for edge in self.edges_min]))
        index = edges_s.search_sorted(value_s.cast(pl.Float64), side="right")
        return index.replace_strict(range(len(self.labels)), self.labels, return_dtype=pl.Enum(self.labels))


HORIZON = Bins(
    (0, 5, 10, 20, 30, 60, 120),
    ("overdue", "0-5min", "5-10min", "10-20min", "20-30min", "30-60min", "60-120min", "over-120min"),
)
DELAY_CHANGE = Bins(  # observed delay - last known delay
    (-5, -2, 2, 5, 10),
    ("falls-over-5min", "falls-2-5min", "steady", "rises-2-5min", "rises-5-10min", "rises-over-10min"),
)


NIGHT_HOURS = (22, 23, 0, 1, 2, 3, 4)  # local hours of the snapshot
PEAK_HOURS = (6, 7, 8, 16, 17, 18)  # on weekdays
TIMES_OF_DAY = ("night", "peak", "off-peak")
DAY_TYPES = ("weekday", "weekend")  # of the service date; public holidays are not known


def group_keys(timezone: str) -> dict[str, pl.Expr]:
    """The group of each row, by name of the breakdown. `hour` and `time_of_day` need `timezone`, an IANA name."""
    hour = pl.col("snapshot_ts").dt.convert_time_zone(timezone).dt.hour()  # local hour of the snapshot
    weekend = pl.col("service_date").dt.weekday() > 5
    peak = hour.is_in(PEAK_HOURS) & ~weekend
    time_of_day = pl.when(hour.is_in(NIGHT_HOURS)).then(pl.lit("night")).when(peak).then(pl.lit("peak"))
    return {
        "horizon": HORIZON.of(pl.col("horizon_s")),
        "delay_change": DELAY_CHANGE.of(pl.col("observed_delay_s") - pl.col("last_delay_s")),
        "train_type": pl.col("train_type").fill_null("unknown"),
        "departed": pl.when("departed").then(pl.lit("yes")).otherwise(pl.lit("no")),
        "rank": pl.col("rank"),
        "op_id": pl.col("op_id"),
        "train_number": pl.col("train_number").fill_null(pl.col("train_id")),
        "service_date": pl.col("service_date"),
        "hour": hour,
        "time_of_day": time_of_day.otherwise(pl.lit("off-peak")).cast(pl.Enum(TIMES_OF_DAY)),
        "day_type": pl.when(weekend).then(pl.lit("weekend")).otherwise(pl.lit("weekday")).cast(pl.Enum(DAY_TYPES)),
    }


TRAIN_NUMBER = "train_number"  # not one of BREAKDOWNS, because its groups have few rows each
BREAKDOWNS = tuple(name for name in group_keys("UTC") if name != TRAIN_NUMBER)


def check_rows(rows: EvaluationRows) -> None:
    """Refuse rows that would make a metric meaningless.

    Raises:
        UserError: there is no row, a column is missing, or a delay or horizon is null, NaN or infinite.
    """
    if missing := [name for name in ROW_SCHEMA if name not in rows.columns]:
        raise UserError(f"evaluation rows lack {', '.join(missing)}; build them with every column of ROW_SCHEMA")
    if not rows.height:
        raise UserError("nothing to evaluate: 0 labelled rows; choose dates with observed events in data.split")
    bad = collect_parts(rows, lambda part: part.select(pl.col(_FINITE).is_finite().fill_null(False).not_().sum()))
    for name, count in bad.sum().row(0, named=True).items():
        if count:
            raise UserError(
                f"{name} is null, NaN or infinite in {count:,} of {rows.height:,} evaluation rows; "
                "drop events that were not observed, and check that training did not diverge"
            )


def summary(rows: EvaluationRows) -> dict[str, float]:
    """`SUMMARY` over all rows: times in seconds, shares and skills as fractions.

    A skill is NaN if translation makes no error at all.

    Raises:
        UserError: see `check_rows`.
    """
    check_rows(rows)
    values = _summarised(rows, pl.lit("")).row(0, named=True)
    return {name: math.nan if values[name] is None else values[name] for name in SUMMARY}


def breakdown(rows: EvaluationRows, by: str, timezone: str = "UTC") -> pl.DataFrame:
    """`SUMMARY` per group, one line each, in the natural order of the groups. Groups without rows are left out.

    Args:
        by: one of `BREAKDOWNS`, or TRAIN_NUMBER. The group column of the result has this name.
        timezone: IANA name, for `hour`.

    Raises:
        UserError: `by` is unknown, or `check_rows` refuses the rows.
    """
    check_rows(rows)
    return _breakdown(rows, by, timezone)


def breakdowns(rows: EvaluationRows, timezone: str) -> dict[str, pl.DataFrame]:
    """All of `BREAKDOWNS`, by name.

    Raises:
        UserError: see `check_rows`.
    """
    check_rows(rows)
    return {by: _breakdown(rows, by, timezone) for by in BREAKDOWNS}


def worst_groups(groups: pl.DataFrame, count: int) -> pl.DataFrame:
    """The groups of a breakdown with the greatest MAE, worst first.

    Only the half of the groups with the most rows counts, since a handful of rows says little about a group.
    """
    return (
        groups.filter(pl.col("n") >= pl.col("n").median())
        .sort("mae_s", descending=True, maintain_order=True)
        .head(count)
    )


def to_mlflow_metrics(
    summary: Mapping[str, float], breakdowns: Mapping[str, pl.DataFrame], prefix: str
) -> dict[str, float]:
    """Flat metrics under MLflow-legal names: `test/mae_s`, `test/horizon/10-20min/skill`, …

    Only the breakdowns of `GATE_BREAKDOWNS` are kept, with n, the skill, and the MAE and bias of model and translation;
    by horizon also the shares within some minutes. Undefined values are left out.
    """
    metrics: dict[str, float | None] = {f"{prefix}/{name}": value for name, value in summary.items()}
    for by in GATE_BREAKDOWNS:
        kept = ["mae_s", "bias_s", *(f"within_{minutes}_min" for minutes in WITHIN_MIN if by == "horizon")]
        names = ("n", "skill", *kept, *(TRANSLATION + name for name in kept))
        for group in breakdowns[by].iter_rows(named=True) if by in breakdowns else ():
            for name in names:
                metrics[f"{prefix}/{by}/{legal_name(group[by])}/{name}"] = group[name]
    return finite_metrics(metrics)


def finite_metrics(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that MLflow accepts: undefined ones are left out."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def legal_name(group: str) -> str:
    """The group's name. Characters that MLflow refuses or that would split the name are written as hex codes."""
    return re.sub(r"[^\w -]", lambda match: f"-{ord(match[0]):x}-", group) or "unnamed"


def to_json(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A breakdown as records for JSON. Dates are in ISO 8601, and undefined skills are null."""
    return frame.with_columns(pl.col(pl.Date).dt.to_string("%Y-%m-%d")).to_dicts()


def _breakdown(rows: EvaluationRows, by: str, timezone: str) -> pl.DataFrame:
    keys = group_keys(timezone)
    if by not in keys:
        raise UserError(f"unknown breakdown {by!r}; known: {', '.join(keys)}")
    return _summarised(rows, keys[by]).select(pl.col("group").alias(by), *SUMMARY)


def _summarised(rows: EvaluationRows, key: pl.Expr) -> pl.DataFrame:
    """`SUMMARY` of each `group` of the key, in the natural order of the groups."""
    parts = collect_parts(rows, lambda part: part.select(key.alias("group"), *_ERRORS).group_by("group").agg(_TOTALS))
    totals = parts.group_by("group").agg(pl.all().sum()).sort("group")
    medians = {f"{prefix}median_s": _medians(rows, key, totals["group"], error) for prefix, error in _ERROR.items()}
    return totals.select("group", "n", *_MEANS, **medians).with_columns(_SKILLS)


def _medians(rows: EvaluationRows, key: pl.Expr, groups: pl.Series, error: pl.Expr) -> pl.Series:
    """The median absolute error of each group. It needs all errors at a time: 12 bytes a row."""
    number = key.replace_strict(groups, pl.int_range(len(groups), eager=True), return_dtype=pl.UInt32)
    sizes = collect_parts(rows, lambda part: part.select(number.alias("group"), error.abs().alias("size")))
    return sizes.group_by("group").agg(pl.col("size").median()).sort("group")["size"]


def _totals(prefix: str) -> Iterable[pl.Expr]:
    """Sums and counts behind the metrics of one predictor, from the column `{prefix}error`."""
    error = pl.col(f"{prefix}error")
    size = error.abs()
    values = {
        "mae_s": exact_sum(size),
        "rmse_s": exact_sum(error.pow(2)),
        "within_1_min": (size <= 60).sum(),
        "within_2_min": (size <= 120).sum(),
        "within_5_min": (size <= 300).sum(),
        "bias_s": exact_sum(error),
    }
    return (value.alias(prefix + name) for name, value in values.items())


def _means(prefix: str) -> Iterable[pl.Expr]:
    """The metrics of one predictor from `_totals`, without the median."""
    for name in ("mae_s", "bias_s"):
        yield mean_of(pl.col(prefix + name), pl.col("n"))
    yield mean_of(pl.col(f"{prefix}rmse_s"), pl.col("n")).sqrt()
    for name in ("within_1_min", "within_2_min", "within_5_min"):
        yield pl.col(prefix + name) / pl.col("n")


def _skill(name: str) -> pl.Expr:
    baseline = pl.col(TRANSLATION + name)
    return pl.when(baseline > 0).then(1 - pl.col(name) / baseline)


_ERROR = {"": MODEL_ERROR_S, TRANSLATION: TRANSLATION_ERROR_S}  # by prefix of a predictor's metrics
_ERRORS = [error.alias(f"{prefix}error") for prefix, error in _ERROR.items()]
_TOTALS = [pl.len().alias("n"), *(total for prefix in _ERROR for total in _totals(prefix))]
_MEANS = [mean for prefix in _ERROR for mean in _means(prefix)]
_SKILLS = [_skill("mae_s").alias("skill"), _skill("rmse_s").alias("skill_rmse")]
