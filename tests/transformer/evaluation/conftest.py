"""Small frames of predictions in which every number can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any

import polars as pl
import pytest

from transformer.prediction.columns import ROW_SCHEMA, quantile_column

MakeRows = Callable[..., pl.DataFrame]
NOON = datetime(2024, 12, 20, 12, tzinfo=UTC)


@pytest.fixture
def make_rows() -> MakeRows:
    """Rows of `len(observed)` predictions; any column can be replaced by name, by a list or one value.

    Quantiles come as `quantiles={0.05: …, 0.95: …}`, likewise; without them the rows hold no distribution.
    """

    def build(
        observed: Sequence[float],
        predicted: Sequence[float],
        translation: Sequence[float],
        *,
        quantiles: Mapping[float, Any] = MappingProxyType({}),
        **columns: Any,
    ) -> pl.DataFrame:
        values: dict[str, Any] = {
            "snapshot_ts": NOON,
            "service_date": date(2024, 12, 20),
            "train_id": "t1",
            "train_number": "100",
            "train_type": "regional",
            "op_id": 1,
            "event_type": "A",
            "rank": 1,
            "planned_ts": NOON + timedelta(minutes=1),
            "horizon_s": 60.0,
            "departed": True,
            "last_delay_s": 0.0,
        }
        values |= {"observed_delay_s": observed, "predicted_delay_s": predicted, "translation_delay_s": translation}
        values |= columns | {quantile_column(level): delays for level, delays in quantiles.items()}
        spread = {
            name: value if isinstance(value, (list, tuple)) else [value] * len(observed)
            for name, value in values.items()
        }
        schema = ROW_SCHEMA | {quantile_column(level): pl.Float64() for level in quantiles}
        return pl.DataFrame({name: spread[name] for name in schema}, schema=schema)

    return build


@pytest.fixture
def network() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Four points in a line, the last without coordinates, and the edges between them."""
    op_nodes = pl.DataFrame(
        {
            "op_id": [1, 2, 3, 4],
            "op_name": ["Aachen", "Bonn", "Celle", "Dessau"],
            "lat": [60.0, 60.1, 60.2, None],
            "lon": [10.0, 10.5, 11.0, None],
        },
        schema_overrides={"op_id": pl.Int32},
    )
    edges = pl.DataFrame({"op_a": [1, 2, 3], "op_b": [2, 3, 4]}, schema={"op_a": pl.Int32, "op_b": pl.Int32})
    return op_nodes, edges


@pytest.fixture
def day_rows(make_rows: MakeRows) -> pl.DataFrame:
    """480 predictions over one day at four points, translation off by 120 s and the model by 60 s, so skill 0.5."""
    n = 480
    observed = [float(60 * (k % 13) - 60) for k in range(n)]
    start = datetime(2024, 12, 20, 4, tzinfo=UTC)
    return make_rows(
        observed,
        [value + (60 if k % 2 else -60) for k, value in enumerate(observed)],
        [value - 120 for value in observed],
        snapshot_ts=[start + timedelta(minutes=15 * (k % 64)) for k in range(n)],
        horizon_s=[float(60 * (k % 150) - 120) for k in range(n)],
        last_delay_s=[float(60 * (k % 7)) for k in range(n)],
        op_id=[1 + k % 4 for k in range(n)],
        train_type=[("regional", "long_distance", "other")[k % 3] for k in range(n)],
        rank=[1 + k % 15 for k in range(n)],
        departed=[k % 5 > 0 for k in range(n)],
    )


@pytest.fixture
def day_quantiles(day_rows: pl.DataFrame) -> pl.DataFrame:
    """`day_rows` with quantiles 30 and 90 s around the prediction, which is off by 60 s: 50 % covers none, 80 % all."""
    offsets_s = {0.1: -90, 0.25: -30, 0.5: 0, 0.75: 30, 0.9: 90}
    return day_rows.with_columns(
        (pl.col("predicted_delay_s") + offset).alias(quantile_column(level)) for level, offset in offsets_s.items()
    )
