"""Predictions of a trained model as rows: of whole dates beside what was observed, or of one instant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import torch

from transformer.config import Config
from transformer.data.datamodule import SnapshotBatches, snapshot_builder
from transformer.data.event_table import (
    Int64Array,
    LoadedTable,
    Vocabulary,
    in_table_order,
    load_event_table,
    read_days,
)
from transformer.data.events import read_journeys, read_op_nodes
from transformer.data.snapshots import SnapshotBuilder, grid_instants
from transformer.data.tables import EVENT_TYPES, TIMESTAMP
from transformer.errors import UserError
from transformer.evaluation.quantiles import intervals_of, quantile_column
from transformer.files import write_json, write_parquet, write_text
from transformer.graph import edge_counts
from transformer.model.module import DelayModule
from transformer.precomputed import timetable_edges
from transformer.trained import TrainedModel

BATCH_SIZE = 16  # snapshots; does not change a prediction
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


def prediction_columns(levels: Sequence[float]) -> tuple[str, ...]:
    """The columns of predictions with a distribution at `levels`.

    Those are PREDICTION_COLUMNS and, of each central interval, narrowest first, the delays it lies between:
    `low_50_delay_s`, `high_50_delay_s`, …, `low_90_delay_s`, `high_90_delay_s`.
    """
    return (*PREDICTION_COLUMNS, *(name for interval in intervals_of(levels) for name in interval.columns))


# --- whole dates -----------------------------------------------------------------------------------------------------
def evaluation_rows(trained: TrainedModel, config: Config, days: Sequence[date]) -> pl.DataFrame:
    """Predictions for the grid instants of `days` beside what was observed.

    Columns: see `labelled_rows`.

    Args:
        config: `trained.located(…)`.
        days: service dates whose event tables are in `data.local_folder`; the training dates need not be there.

    Raises:
        UserError: unreadable or invalid data.
    """
    data, vocabulary = config.data, trained.statistics.vocabulary
    loaded = load_event_table(data, days, vocabulary, Path(config.paths.cache))
    builder = snapshot_builder(loaded, trained.statistics, config.data)
    module = trained.module_for(timetable_edges(config, days))
    instants = grid_instants(tuple(days), data.grid, data.timezone)
    return labelled_rows(module, loaded, builder, vocabulary, instants, data.timezone)


def labelled_rows(
    module: DelayModule,
    loaded: LoadedTable,
    builder: SnapshotBuilder,
    vocabulary: Vocabulary,
    instants: Int64Array,
    timezone: str,
) -> pl.DataFrame:
    """Predictions beside what was observed, for every next event that was observed in the end.

    Columns: see `evaluation.metrics.ROW_SCHEMA`, and `evaluation.quantiles` for those of the quantiles.
    Sorted by instant, then by train and rank.
    """
    batches = SnapshotBatches(builder, instants, BATCH_SIZE, timezone)
    rows = pl.concat(list(_rows(module, loaded, batches, vocabulary, "label_mask")))
    return rows.drop("journey", "event")


def next_event_rows(
    trained: TrainedModel, module: DelayModule, builder: SnapshotBuilder, loaded: LoadedTable, instants: Int64Array
) -> pl.DataFrame:
    """Predictions for every next event, observed in the end or not.

    Columns: those of `labelled_rows` but the observed delay; `journey` and `event`, the rows of the table.
    """
    batches = SnapshotBatches(builder, instants, BATCH_SIZE, trained.config.data.timezone)
    rows = pl.concat(list(_rows(module, loaded, batches, trained.statistics.vocabulary, "next_mask")))
    return rows.drop("observed_delay_s")


def _rows(
    module: DelayModule, loaded: LoadedTable, batches: SnapshotBatches, vocabulary: Vocabulary, mask: str
) -> Iterator[pl.DataFrame]:
    """A batch's rows of the next events that `mask` chooses."""
    table = loaded.table
    points = np.concatenate([[0], vocabulary.op_ids]).astype(np.int32)
    types = np.array(["", *EVENT_TYPES])
    columns = [quantile_column(level) for level in module.network.levels]
    for index in range(len(batches)):
        batch = batches[index]
        with torch.inference_mode():
            predicted, quantiles = (tensor.numpy() for tensor in module.predict(batch))
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        b, s, f = np.nonzero(arrays[mask])
        event = arrays["next_event"][b, s, f]
        journey = arrays["journey"][b, s]
        instant = arrays["instant"][b]
        planned = np.asarray(table.planned[event])
        rows = pl.DataFrame(
            {
                "event": event,
                "snapshot_ts": instant * 1_000_000,
                "journey": journey,
                "op_id": points[np.asarray(table.point[event])],
                "event_type": types[np.asarray(table.event_type[event])],
                "rank": (f + 1).astype(np.int8),
                "planned_ts": planned * 1_000_000,
                "horizon_s": (planned - instant).astype(np.float64),
                "departed": arrays["departed"][b, s],
                "last_delay_s": arrays["last_delay"][b, s].astype(np.float64),
                "observed_delay_s": arrays["label"][b, s, f].astype(np.float64),
                "translation_delay_s": arrays["translation"][b, s].astype(np.float64),
                "predicted_delay_s": predicted[b, s, f].astype(np.float64),
            }
            | {name: quantiles[b, s, f, q].astype(np.float64) for q, name in enumerate(columns)}
        ).with_columns(pl.col("snapshot_ts", "planned_ts").cast(TIMESTAMP))
        names = loaded.journeys[journey].select("service_date", "train_id", "train_number", "train_type")
        yield pl.concat([rows, names], how="horizontal")


# --- one instant -----------------------------------------------------------------------------------------------------
def parse_instant(text: str, timezone: str) -> datetime:
    """An ISO 8601 time, in UTC; without an offset it is read in `timezone`, the first where the clock repeats an hour.

    Raises:
        UserError: no time, or one that daylight saving skips.
    """
    try:
        found = datetime.fromisoformat(text)
        if not 1970 < found.year < 2200:  # a mistake, and near the ends of what can be computed with
            raise ValueError
    except ValueError:
        raise UserError(f"--at {text!r} is not a time; write 2024-12-21T08:00+01:00, or without the offset") from None
    zone = ZoneInfo(timezone)
    instant = (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    if not found.tzinfo and instant.astimezone(zone).replace(tzinfo=None) != found:
        raise UserError(f"--at {text!r} does not exist in {timezone}: the clock skips that hour; give an offset")
    return instant


def dates_around(instant: datetime, config: Config) -> tuple[date, ...]:
    """Service dates whose trains may run at `instant`: its own, the one before, and the next just before midnight."""
    zone = ZoneInfo(config.data.timezone)
    today = instant.astimezone(zone).date()
    soon = (instant + timedelta(seconds=config.data.snapshot.lead_s)).astimezone(zone).date()
    return tuple(sorted({today - timedelta(days=1), today, soon}))


@dataclass(frozen=True)
class Moment:
    """What was known at an instant, and the model for the timetable around it: all that a prediction reads."""

    trained: TrainedModel
    config: Config
    instants: Int64Array  # [1] seconds since the Unix epoch
    events: pl.DataFrame  # in the order of the table, without what was observed later
    loaded: LoadedTable
    module: DelayModule
    builder: SnapshotBuilder

    @classmethod
    def of(cls, trained: TrainedModel, config: Config, instant: datetime, days: Sequence[date]) -> Self:
        """Read it; arguments and errors of `predictions_at`."""
        data, second = config.data, int(instant.timestamp())
        now = pl.lit(datetime.fromtimestamp(second, UTC), TIMESTAMP)
        events, _ = read_days(data, days, quiet=True)
        # What was observed later is struck out before anything is computed.
        events = events.with_columns(pl.when(pl.col("observed_ts") <= now).then(pl.col("observed_ts", "delay_sec")))
        journeys = read_journeys(Path(data.local_folder), days, data.timezone)
        loaded = LoadedTable.of(events, journeys, trained.statistics.vocabulary)
        return cls(
            trained=trained,
            config=config,
            instants=np.array([second]),
            events=in_table_order(events),
            loaded=loaded,
            module=trained.module_for(edge_counts(events)),
            builder=snapshot_builder(loaded, trained.statistics, data),
        )

    def predictions(self) -> pl.DataFrame:
        """Predictions for every train; `prediction_columns`, and `journey` and `event`, the rows of the table."""
        rows = next_event_rows(self.trained, self.module, self.builder, self.loaded, self.instants)
        names = read_op_nodes(Path(self.config.data.local_folder)).select("op_id", "op_name")
        planned = pl.col("planned_ts").dt.convert_time_zone(self.config.data.timezone)
        levels = self.module.network.levels
        ends = {name: pl.col(column) for interval in intervals_of(levels) for name, column in interval.columns.items()}
        whole = pl.col("predicted_delay_s", "translation_delay_s", "last_delay_s", *ends).round().cast(pl.Int32)
        return (
            rows.with_columns(self.events["op_id"].gather(rows["event"]))  # points the model does not know too
            .join(names, on="op_id", how="left", maintain_order="left")
            .with_columns(**ends)
            .with_columns(whole)
            .with_columns(
                planned,
                (planned + pl.duration(seconds="predicted_delay_s")).alias("predicted_ts"),
                pl.when("departed").then("last_delay_s"),
            )
            .sort("service_date", "train_id", "rank")
            .select(*prediction_columns(levels), "journey", "event")
        )


def predictions_at(trained: TrainedModel, config: Config, instant: datetime, days: Sequence[date]) -> pl.DataFrame:
    """Predictions for every train in the snapshot at `instant`, from what was known then.

    Columns: `prediction_columns` of the model's levels.

    Args:
        config: `trained.located(…)`.
        days: those of `dates_around` that have data in `data.local_folder`.

    Raises:
        UserError: unreadable or invalid data.
    """
    return Moment.of(trained, config, instant, days).predictions().drop("journey", "event")


def writer(path: Path) -> Callable[[Path, pl.DataFrame], None]:
    """What writes predictions to such a path, in the format of its suffix, whole or not at all.

    Raises:
        UserError: unknown suffix.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"--out {path}: unknown suffix {path.suffix!r}; end it in {', '.join(_WRITERS)}")
    return _WRITERS[path.suffix]


def _write_csv(path: Path, predictions: pl.DataFrame) -> None:
    write_text(path, _as_text(predictions).write_csv())


def _write_json(path: Path, predictions: pl.DataFrame) -> None:
    write_json(path, _as_text(predictions).to_dicts())


def _as_text(predictions: pl.DataFrame) -> pl.DataFrame:
    """Times in ISO 8601 with their offset, as in 2024-12-21T08:03:00+01:00."""
    return predictions.with_columns(
        pl.col("planned_ts", "predicted_ts").dt.to_string("%Y-%m-%dT%H:%M:%S%:z"),
        pl.col("service_date").dt.to_string("%Y-%m-%d"),
    )


_WRITERS: dict[str, Callable[[Path, pl.DataFrame], None]] = {
    ".parquet": write_parquet,
    ".csv": _write_csv,
    ".json": _write_json,
}
