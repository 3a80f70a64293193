"""Links: length and tracks of the section that leads to an event, against a loop."""

import numpy as np
import polars as pl

from tests.support.input_railway import Railway
from transformer.data.event_table import LoadedTable
from transformer.data.events import read_days


def links(railway: Railway) -> pl.DataFrame:
    """Most pairs of neighbouring points, some twice, in either direction; some lengths and tracks are missing."""
    events, _ = read_days(railway.config.data, railway.days)
    before = pl.col("op_id").shift(1).over("train_id", "service_date")
    pairs = events.select(before.alias("u_node_id"), pl.col("op_id").alias("v_node_id")).drop_nulls().unique()
    pairs = pairs.sort("u_node_id", "v_node_id").sample(fraction=0.8, seed=1)
    g = np.random.default_rng(2)
    rows = pl.concat([pairs, pairs.sample(fraction=0.3, seed=2)])
    return rows.with_columns(
        distance_m=pl.Series(g.uniform(300, 20_000, rows.height).round()),
        nb_tracks=pl.Series(g.integers(1, 5, rows.height)),
        line_section_id=pl.lit("L"),
    ).with_columns(
        pl.when(pl.Series(g.random(rows.height) < share)).then(None).otherwise(name).alias(name)
        for name, share in (("distance_m", 0.2), ("nb_tracks", 0.3))
    )


def test_same_as_a_loop(railway: Railway) -> None:
    table = links(railway)
    table.write_parquet(railway.folder / "node_links.parquet")
    op_ids = railway.statistics.vocabulary.op_ids
    rows = table.select("u_node_id", "v_node_id", "distance_m", "nb_tracks").rows()

    def by_loop(loaded: LoadedTable, journey: int, event: int, t: int) -> tuple[float, ...] | None:
        if event == loaded.table.start[journey]:
            return None
        ends = {int(op_ids[loaded.table.point[e] - 1]) for e in (event - 1, event)}
        between = [row for row in rows if set(row[:2]) == ends and len(ends) == 2]
        lengths, tracks = ([row[column] for row in between if row[column] is not None] for column in (2, 3))
        return min(lengths, default=np.nan), max(tracks, default=np.nan)

    found = railway.assert_same_as("links", by_loop)
    assert 0.2 < found[:, -1].mean() < 1
    assert (found[:, 0] > 0).any() and (found[:, 1] > 1).any()


def test_links_of_other_points_do_nothing(railway: Railway) -> None:
    table = pl.DataFrame({"u_node_id": [-5, 7], "v_node_id": [-5, 8], "distance_m": [1.0, 2.0]})
    table.write_parquet(railway.folder / "node_links.parquet")
    assert not railway.batch("links").next_inputs.any()
