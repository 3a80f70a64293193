"""Small frames of predictions in which every number can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from transformer.evaluation.metrics import ROW_SCHEMA

MakeRows = Callable[..., pl.DataFrame]
NOON = datetime(2024, 12, 20, 12, tzinfo=UTC)


@pytest.fixture
def make_rows() -> MakeRows:
    """Rows of `len(observed)` predictions; any column can be replaced by name, by a list or one value."""

    def build(
        observed: Sequence[float], predicted: Sequence[float], translation: Sequence[float], **columns: Any
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
        values |= columns
        spread = {
            name: value if isinstance(value, (list, tuple)) else [value] * len(observed)
            for name, value in values.items()
        }
        return pl.DataFrame({name: spread[name] for name in ROW_SCHEMA}, schema=ROW_SCHEMA)

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
