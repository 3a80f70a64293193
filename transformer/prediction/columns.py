"""Names and types of prediction rows: what is predicted, its quantiles and its intervals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from transformer.data.tables import TIMESTAMP

PREDICTION_COLUMNS = (
    "train_id",
    "service_date",
    "train_number",
    "train_type",
    "rank",  # 1 = the train's very next event
    "op_id",
    "op_name",  # null where the points table has none
    "event_type",
    "planned_ts",  # both in local time with its offset
    "predicted_ts",
    "predicted_delay_s",  # whole seconds, this and all that follow
    "translation_delay_s",
    "last_delay_s",  # null when no event of the train is known
)  # and then the ends of the predicted intervals, see `prediction_columns`
ROW_SCHEMA: dict[str, pl.DataType] = {
    "snapshot_ts": TIMESTAMP,
    "service_date": pl.Date(),
    "train_id": pl.String(),
    "train_number": pl.String(),
    "train_type": pl.String(),
    "op_id": pl.Int32(),
    "event_type": pl.String(),
    "rank": pl.Int8(),  # 1 = the train's very next event
    "planned_ts": TIMESTAMP,
    "horizon_s": pl.Float64(),  # planned_ts - snapshot_ts
    "departed": pl.Boolean(),  # some event of the train is known
    "last_delay_s": pl.Float64(),  # last known delay, 0 when none
    "observed_delay_s": pl.Float64(),
    "translation_delay_s": pl.Float64(),
    "predicted_delay_s": pl.Float64(),
}  # and, of a model with a distribution, its quantiles: see `evaluation.quantiles`


def prediction_columns(levels: Sequence[float]) -> tuple[str, ...]:
    """The columns of predictions with a distribution at `levels`.

    Those are PREDICTION_COLUMNS and, of each central interval, narrowest first, the delays it lies between:
    `low_50_delay_s`, `high_50_delay_s`, …, `low_90_delay_s`, `high_90_delay_s`.
    """
    return (*PREDICTION_COLUMNS, *(name for interval in intervals_of(levels) for name in interval.columns))


# --- names -----------------------------------------------------------------------------------------------------------
def quantile_name(level: float) -> str:
    """`q05` of 0.05, `q02.5` of 0.025: legal in MLflow, and sorted as the levels are."""
    whole, dot, rest = _percent(level).partition(".")
    return f"q{whole:0>2}{dot}{rest}"


def quantile_column(level: float) -> str:
    """The column of a quantile in seconds, `q05_delay_s` of 0.05."""
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
        """What it is to hold, 0.9 between 0.05 and 0.95."""
        return round(self.high - self.low, 6)

    @property
    def name(self) -> str:
        """The share in percent, `90`."""
        return _percent(self.share)

    @property
    def columns(self) -> dict[str, str]:
        """The quantile columns of its two ends, by the names they have in predictions."""
        ends = {"low": self.low, "high": self.high}
        return {f"{end}_{self.name}_delay_s": quantile_column(level) for end, level in ends.items()}


def intervals_of(levels: Sequence[float]) -> tuple[Interval, ...]:
    """The central intervals that pairs of `levels` make, narrowest first."""
    pairs = ((level, round(1 - level, 6)) for level in sorted(levels, reverse=True) if level < 0.5)
    return tuple(Interval(low, high) for low, high in pairs if high in levels)


def _percent(share: float) -> str:
    return f"{100 * share:.6g}"
