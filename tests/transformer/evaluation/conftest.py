"""Small frames of predictions in which every number can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import pytest

from transformer.prediction import row_files
from transformer.prediction.columns import ROW_SCHEMA, quantile_column
from transformer.prediction.row_files import RowFiles, write_rows

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


@pytest.fixture
def few_dates(make_rows: MakeRows) -> pl.DataFrame:
    """3,240 predictions with quantiles on four dates at four points. Sums of these fractions depend on their order."""
    shape = (3, 18, 12, 5)  # dates, snapshots, trains, ranks
    day, hour, train, rank = (index.ravel().tolist() for index in np.indices(shape))
    n = len(day)
    random = np.random.default_rng(7)
    observed, off, change = (random.normal(60, 90, n) for _ in range(3))
    predicted = observed + off / 3
    start = datetime(2024, 12, 1, 5, tzinfo=UTC)
    stamps = [start + timedelta(days=d, hours=h) for d, h in zip(day, hour, strict=True)]
    return make_rows(
        observed.tolist(),
        predicted.tolist(),
        (observed + change).tolist(),
        quantiles={0.1: (predicted - 70.3).tolist(), 0.5: predicted.tolist(), 0.9: (predicted + 51.7).tolist()},
        snapshot_ts=stamps,
        # Every third train began on the date before, as one that runs past midnight.
        service_date=[(at - timedelta(days=t % 3 == 0)).date() for at, t in zip(stamps, train, strict=True)],
        train_id=[f"t{t}" for t in train],
        train_number=[str(100 + t) if t % 4 else None for t in train],
        train_type=[("regional", "long_distance", None)[(t + d) % 3] for t, d in zip(train, day, strict=True)],
        op_id=[1 + (t + r) % 4 for t, r in zip(train, rank, strict=True)],
        rank=[r + 1 for r in rank],
        planned_ts=[at + timedelta(minutes=7 * r + 1) for at, r in zip(stamps, rank, strict=True)],
        horizon_s=[420.0 * r + 60 for r in rank],
        last_delay_s=(observed + change / 2).tolist(),
        departed=[t % 5 > 0 for t in train],
    )


@pytest.fixture
def in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[pl.DataFrame], RowFiles]:
    """Writes rows into many files, some snapshots at a time."""
    monkeypatch.setattr(row_files, "ROWS_AT_A_TIME", 1_000)

    def write(rows: pl.DataFrame) -> RowFiles:
        folder = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}"
        return write_rows(rows.iter_slices(700), folder)

    return write
