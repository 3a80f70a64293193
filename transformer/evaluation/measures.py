"""The measures of one evaluation. They are computed once, and every output is written from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import polars as pl

from transformer.evaluation import metrics
from transformer.evaluation.order import backward_shares
from transformer.evaluation.quantiles import Uncertainty, uncertainty
from transformer.prediction.row_files import EvaluationRows


@dataclass(frozen=True)
class Measures:
    """The measures of some rows, for the table in the log, the figures, the JSON tables, the metrics and the page."""

    rows: EvaluationRows  # `columns.ROW_SCHEMA`, with or without quantiles
    timezone: str  # IANA name of the railway's clock
    summary: dict[str, float]  # `metrics.SUMMARY` over all rows
    breakdowns: dict[str, pl.DataFrame]  # by `metrics.BREAKDOWNS`
    trains: pl.DataFrame  # the breakdown by train number
    uncertainty: Uncertainty | None  # None = the rows hold no quantiles
    order: dict[str, float]  # `order.backward_shares`

    @classmethod
    def of(cls, rows: EvaluationRows, timezone: str) -> Self:
        """Measure the rows.

        Raises:
            UserError: `rows` is empty, a value is not a number, or the quantiles cross.
        """
        return cls(
            rows,
            timezone,
            metrics.summary(rows),
            metrics.breakdowns(rows, timezone),
            metrics.breakdown(rows, metrics.TRAIN_NUMBER, timezone),
            uncertainty(rows),
            backward_shares(rows),
        )

    def groups(self, by: str) -> pl.DataFrame:
        """A breakdown: one of `breakdowns`, or the one by train number."""
        return self.trains if by == metrics.TRAIN_NUMBER else self.breakdowns[by]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names, `{prefix}/mae_s`, …"""
        judged = self.uncertainty.metrics(prefix) if self.uncertainty else {}
        return metrics.to_mlflow_metrics(self.summary | self.order, self.breakdowns, prefix) | judged
