from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transformer.data.tables import EVENT_SCHEMA
from transformer.features.graph import (
    EDGE_COUNT_SCHEMA,
    RailwayGraph,
    adjacency,
    count_components,
    edge_counts,
    graph_from_edge_counts,
    merge_edge_counts,
)

MAV = Path(__file__).resolve().parents[4] / "shared" / "data" / "mav_2024_12"
FRIDAY, SATURDAY = date(2024, 12, 13), date(2024, 12, 14)


def journey(train_id: str, stops: list[tuple[int, str, int]], day: date = FRIDAY) -> pl.DataFrame:
    """Events of one journey from (op_id, event_type, planned minute of the day). No event is observed."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return pl.DataFrame(
        {
            "train_id": [train_id] * len(stops),
            "service_date": [day] * len(stops),
            "seq": range(len(stops)),
            "op_id": [op_id for op_id, _, _ in stops],
            "event_type": [event_type for _, event_type, _ in stops],
            "planned_ts": [midnight + timedelta(minutes=minute) for _, _, minute in stops],
            "observed_ts": [None] * len(stops),
            "delay_sec": [None] * len(stops),
        },
        schema=EVENT_SCHEMA,
    )


def build_graph(events: pl.DataFrame) -> RailwayGraph:
    return graph_from_edge_counts(edge_counts(events))


def assert_same_graph(left: RailwayGraph, right: RailwayGraph) -> None:
    for name in ("op_ids", "edges", "weights", "running_time_s"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.fixture
def events() -> pl.DataFrame:
    """Two dates. Points 10, 20 and 30 are a line, and no train joins it to points 70 and 80."""
    return pl.concat(
        [
            journey("1", [(10, "D", 0), (20, "A", 4), (20, "D", 5), (30, "P", 12)]),
            journey("2", [(30, "D", 30), (20, "P", 36), (10, "A", 42)]),
            journey("3", [(70, "D", 0), (80, "A", 9)]),
            journey("1", [(10, "D", 0), (20, "A", 5)], SATURDAY),
        ]
    )


def test_edges_weights_and_running_times(events: pl.DataFrame) -> None:
    graph = build_graph(events)

    assert graph.op_ids.tolist() == [10, 20, 30, 70, 80]
    assert graph.edges.tolist() == [[0, 1], [1, 2], [3, 4]]
    assert graph.weights.tolist() == [3, 2, 1]
    assert graph.running_time_s.tolist() == [300, 390, 540], "median of 4, 6, 5 min; of 7, 6 min; of 9 min"
    assert (graph.op_ids.dtype, graph.edges.dtype) == (np.int32, np.int32)
    assert (graph.weights.dtype, graph.running_time_s.dtype) == (np.float64, np.float64)


def test_a_journey_counts_once_on_an_edge_it_runs_twice() -> None:
    there_and_back = journey("1", [(10, "D", 0), (20, "A", 4), (20, "D", 10), (10, "A", 13)])

    graph = build_graph(there_and_back)

    assert graph.weights.tolist() == [1]
    assert graph.running_time_s.tolist() == [180]


def test_journeys_that_share_a_train_id_are_not_joined() -> None:
    two_dates = pl.concat(
        [journey("1", [(10, "D", 0), (20, "A", 4)]), journey("1", [(30, "D", 0), (40, "A", 4)], SATURDAY)]
    )

    assert build_graph(two_dates).edges.tolist() == [[0, 1], [2, 3]]


def test_running_time_over_midnight() -> None:
    graph = build_graph(journey("1", [(10, "D", 23 * 60 + 58), (20, "A", 24 * 60 + 3)]))

    assert graph.running_time_s.tolist() == [300]


def test_row_order_does_not_matter(events: pl.DataFrame) -> None:
    assert_same_graph(build_graph(events.sample(fraction=1, shuffle=True, seed=1)), build_graph(events))


def test_observations_do_not_matter(events: pl.DataFrame) -> None:
    late = events.with_columns(observed_ts=pl.col("planned_ts") + timedelta(hours=1), delay_sec=3600)

    assert_same_graph(build_graph(late), build_graph(events))


def test_merged_dates_give_the_graph_of_the_whole_period(events: pl.DataFrame) -> None:
    per_date = [edge_counts(part) for part in events.partition_by("service_date")]

    merged = merge_edge_counts(reversed(per_date))

    assert merged.equals(edge_counts(events))
    assert dict(merged.schema) == EDGE_COUNT_SCHEMA
    assert_same_graph(graph_from_edge_counts(merged), build_graph(events))


def test_adjacency_is_symmetric_and_holds_the_weights(events: pl.DataFrame) -> None:
    matrix = adjacency(build_graph(events)).toarray()

    np.testing.assert_array_equal(matrix, matrix.T)
    assert (matrix[0, 1], matrix[1, 2], matrix[3, 4], matrix[0, 2]) == (3, 2, 1, 0)
    assert matrix.sum() == 2 * (3 + 2 + 1)


def test_components(events: pl.DataFrame) -> None:
    assert count_components(build_graph(events)) == 2
    assert count_components(build_graph(events.filter(pl.col("op_id") < 50))) == 1


def test_no_events_give_an_empty_graph(events: pl.DataFrame) -> None:
    graph = build_graph(events.clear())

    assert (len(graph.op_ids), graph.edges.shape, count_components(graph)) == (0, (0, 2), 0)
    assert merge_edge_counts([]).is_empty()


@pytest.mark.realdata
def test_graph_of_a_real_day() -> None:
    if not MAV.is_dir():
        pytest.skip(f"{MAV} is absent")
    events = pl.read_parquet(MAV / "events" / "events_2024-12-13.parquet")

    graph = build_graph(events)

    assert 1_300 < len(graph.op_ids) <= 1_382
    assert len(graph.op_ids) <= len(graph.edges) < 3 * len(graph.op_ids), "a railway is nearly a tree"
    largest = np.bincount(graph.edges.ravel()).argmax()
    assert graph.weights.max() <= events.select("train_id", "service_date").n_unique()
    assert 60 <= np.median(graph.running_time_s) <= 900
    assert adjacency(graph).sum(axis=1)[largest] > 100
