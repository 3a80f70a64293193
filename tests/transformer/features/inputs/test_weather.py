"""Weather: the newest hour that has ended at the point, against a loop, and no effect of the future."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tests.support.input_railway import Railway
from transformer.data.event_table import LoadedTable
from transformer.data.points import read_op_nodes
from transformer.features.inputs.weather import OLD_S

VALUES = ("temperature_c", "precipitation_mm", "snowfall_cm", "wind_m_s")


def weather(railway: Railway, share: float = 0.7) -> pl.DataFrame:
    """Random hours at random points, with gaps, from the day before the first date to the day after the last."""
    g = np.random.default_rng(1)
    begin = datetime.combine(railway.days[0], datetime.min.time(), UTC) - timedelta(days=1)
    hours = [begin + timedelta(hours=hour) for hour in range(24 * (len(railway.days) + 2))]
    points = read_op_nodes(railway.folder)["op_id"].to_list()
    rows = [(op_id, ts, *g.uniform(0, 20, 4).round(1)) for op_id in points for ts in hours if g.random() < share]
    schema = {"op_id": pl.Int64, "ts": pl.Datetime("us", "UTC"), **dict.fromkeys(VALUES, pl.Float64)}
    return pl.DataFrame(rows, schema, orient="row").sample(fraction=1, shuffle=True, seed=2)


def test_same_as_a_loop(railway: Railway) -> None:
    table = weather(railway, share=0.3)
    table.write_parquet(railway.folder / "weather.parquet")
    op_ids = railway.statistics.vocabulary.op_ids
    at: dict[int, list[tuple[int, tuple[float, ...]]]] = {}
    for op_id, ts, *values in table.iter_rows():
        at.setdefault(op_id, []).append((int(ts.timestamp()) + 3_600, tuple(values)))

    def by_loop(loaded: LoadedTable, journey: int, event: int, t: int) -> tuple[float, ...] | None:
        op_id = int(op_ids[loaded.table.point[event] - 1])
        known = [(end, values) for end, values in at.get(op_id, []) if t - OLD_S < end <= t]
        return max(known)[1] if known else None

    found = railway.assert_same_as("weather", by_loop)
    assert 0.3 < found[:, -1].mean() < 1


def test_the_future_changes_nothing(railway: Railway) -> None:
    table = weather(railway)
    table.write_parquet(railway.folder / "weather.parquet")
    before = railway.batch("weather")
    middle = int(np.median(railway.instants))
    later = pl.col("ts").dt.epoch("s") + 3_600 > middle
    table.with_columns(
        pl.when(later).then(pl.lit(19.9)).otherwise(pl.col(name)).alias(name) for name in VALUES
    ).write_parquet(railway.folder / "weather.parquet")
    after = railway.batch("weather")
    past = before.instant <= middle
    np.testing.assert_array_equal(before.next_inputs[past], after.next_inputs[past])
    assert (before.next_inputs[~past] != after.next_inputs[~past]).any()


def test_a_missing_column_and_a_missing_value_are_zero(railway: Railway) -> None:
    table = weather(railway).select("op_id", "ts", pl.lit(None, pl.Float64).alias("wind_m_s"), "temperature_c")
    table.write_parquet(railway.folder / "weather.parquet")
    batch = railway.batch("weather")
    found = batch.next_inputs[batch.next_mask]
    assert found[:, 0].any() and not found[:, 1:4].any() and found[:, 4].any()
