"""From the visits of one service date to its events and journeys."""

from __future__ import annotations

import polars as pl

from transformer.data.tables import ARRIVAL, DEPARTURE, JOURNEY, PASS_THROUGH, journeys_from_events

# Two rows with the same values are the same visit.
VISIT_KEY = ["service_date", "train_id", "op_id", "planned_arr", "planned_dep"]
_ATTRIBUTES = ("train_type", "train_relation", "operator")


def events_of(visits: pl.DataFrame) -> pl.DataFrame:
    """Return the events of the visits of one service date, with the columns of EVENT_SCHEMA, and `cancelled`.

    Events are in the source's order of the visits. Without one, they are in order of planned time, and at equal times
    in the order of the rows. An arrival comes before the departure of the same visit.

    Args:
        visits: rows in the order of the source, with the columns of `source.VISIT_SCHEMA`.
    """
    arrival_first = pl.coalesce("planned_arr", "planned_dep")
    departure_first = pl.coalesce("planned_dep", "planned_arr")
    visits = (
        visits.with_row_index("row")
        .sort("train_id", "order", arrival_first, departure_first, "row", nulls_last=True)
        .with_row_index("visit")
    )
    passing, stopping = visits.filter("passes"), visits.filter(~pl.col("passes"))
    sides = [
        (PASS_THROUGH, passing, "dep", "arr"),
        (ARRIVAL, stopping, "arr", None),
        (DEPARTURE, stopping, "dep", None),
    ]
    events = pl.concat(
        frame.select(
            *JOURNEY,
            "op_id",
            "order",
            "visit",
            pl.lit(event_type).alias("event_type"),
            *(
                pl.coalesce(f"{name}_{side}", *([f"{name}_{other}"] if other else [])).alias(wanted)
                for name, wanted in (
                    ("planned", "planned_ts"),
                    ("observed", "observed_ts"),
                    ("cancelled", "cancelled"),
                )
            ),
        ).drop_nulls("planned_ts")
        for event_type, frame, side, other in sides
    )
    by_time = pl.when(pl.col("order").is_null()).then(pl.col("planned_ts"))
    return events.sort("train_id", "order", by_time, "visit", "event_type", nulls_last=True).with_columns(
        pl.int_range(pl.len()).over("train_id").alias("seq"),
        (pl.col("observed_ts") - pl.col("planned_ts")).dt.total_seconds().alias("delay_sec"),
    )


def journeys_of(events: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    """Return the journeys of events. An attribute of a journey is its first value among the visits."""
    attributes = visits.group_by(JOURNEY, maintain_order=True).agg(
        pl.coalesce(pl.col("train_number").drop_nulls().first(), pl.col("train_id").first()),
        *(pl.col(name).drop_nulls().first() for name in _ATTRIBUTES),
    )
    return journeys_from_events(events, attributes)
