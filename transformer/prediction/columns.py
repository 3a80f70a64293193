"""Names and types of the columns of predictions, of their quantiles and of their intervals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from transformer.data.tables import JOURNEY, TIMESTAMP

PREDICTION_COLUMNS = (
    "train_id",
    "service_date",
    "train_number",
    "train_type",
    "rank",  # 1 = the train's very next event
    "op_id",
    "op_name",  # null if the table of points has no name
    "event_type",
    "planned_ts",  # local time with its offset, as `predicted_ts`
    "predicted_ts",
    "predicted_delay_s",  # whole seconds, as all columns below
    "translation_delay_s",
    "last_delay_s",  # null if no event of the train is known
)  # the ends of the predicted intervals follow, see `prediction_columns`
ROW_SCHEMA: dict[str, pl.DataType] = {
    "snapshot_ts": TIMESTAMP,
    "service_date": pl.Date(),
    "train_id": pl.String(),
    "train_number": pl.String(),
    "train_type": pl.String(),
    "op_id": pl.Int32(),
    "event_type": pl.String(),
    "rank": pl.Int16(),  # 1 = the train's very next event
    "planned_ts": TIMESTAMP,
    "horizon_s": pl.Float64(),  # planned_ts - snapshot_ts
    "departed": pl.Boolean(),  # at least one event of the train is known
    "last_delay_s": pl.Float64(),  # last known delay, 0 if none is known
    "observed_delay_s": pl.Float64(),
    "translation_delay_s": pl.Float64(),
    "predicted_delay_s": pl.Float64(),
}  # a model with a distribution adds its quantiles, see `evaluation.quantiles`

FORECAST = ("snapshot_ts", *JOURNEY)  # what all predictions for one train in one snapshot are known by
ROW_KEY = [*FORECAST, "rank", "op_id", "event_type"]  # what an evaluation row is known by


def prediction_columns(levels: Sequence[float]) -> tuple[str, ...]:
    """The columns of predictions with a distribution at `levels`.

    Those are PREDICTION_COLUMNS, and both ends of each central interval, narrowest first: `low_50_delay_s`,
    `high_50_delay_s`, …, `low_90_delay_s`, `high_90_delay_s`.
    """
    return (*PREDICTION_COLUMNS, *(name for interval in intervals_of(levels) for name in interval.columns))


# --- names -----------------------------------------------------------------------------------------------------------
def quantile_name(level: float) -> str:
    """`q05` for 0.05, `q02.5` for 0.025. The names are legal in MLflow, and sort in the order of the levels."""
    whole, dot, rest = _percent(level).partition(".")
    return f"q{whole:0>2}{dot}{rest}"


def quantile_column(level: float) -> str:
    """The column of a quantile in seconds: `q05_delay_s` for 0.05."""
    return f"{quantile_name(level)}_delay_s"


def levels_in(columns: Iterable[str]) -> tuple[float, ...]:
    """The levels of the quantile columns among `columns`, ascending."""
    found = (re.fullmatch(r"q(\d\d(?:\.\d+)?)_delay_s", name) for name in columns)
    return tuple(sorted(float(f"{match[1]}e-2") for match in found if match))


@dataclass(frozen=True)
class Interval:
    """A central prediction interval, between the quantiles of two levels that add up to 1."""

    low: float
    high: float

    @property
    def share(self) -> float:
        """The share of observations that the interval should cover: 0.9 for the levels 0.05 and 0.95."""
        return round(self.high - self.low, 6)

    @property
    def name(self) -> str:
        """The share in percent: `90`."""
        return _percent(self.share)

    @property
    def columns(self) -> dict[str, str]:
        """The quantile columns of both ends, by their names in predictions."""
        ends = {"low": self.low, "high": self.high}
        return {f"{end}_{self.name}_delay_s": quantile_column(level) for end, level in ends.items()}


def intervals_of(levels: Sequence[float]) -> tuple[Interval, ...]:
    """The central intervals between pairs of `levels`, narrowest first."""
    pairs = ((level, round(1 - level, 6)) for level in sorted(levels, reverse=True) if level < 0.5)
    return tuple(Interval(low, high) for low, high in pairs if high in levels)


def _percent(share: float) -> str:
    return f"{100 * share:.6g}"
