"""Predictions of whole service dates as rows, with the observed delay in each row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import torch

from transformer.config import Config
from transformer.data.event_table import Int64Array, Vocabulary
from transformer.data.events import DayEvents
from transformer.data.tables import EVENT_TYPES, TIMESTAMP
from transformer.features.batches import Builder, SnapshotBatches
from transformer.features.dated import DatedSnapshots
from transformer.features.history import History
from transformer.features.inputs.catalogue import Inputs
from transformer.features.instants import evaluation_instants
from transformer.features.reading import joint_edges, obtain_readings
from transformer.model.module import DelayModule
from transformer.pace import Pace
from transformer.prediction.columns import quantile_column
from transformer.text import duration
from transformer.training.run_folder import TrainedModel

Names = Callable[[Int64Array], pl.DataFrame]  # returns `LoadedTable.journeys` of the journeys [N] of a batch
BATCH_SIZE = 8  # snapshots; predictions do not depend on it, memory does

log = logging.getLogger(__name__)


# --- whole dates -----------------------------------------------------------------------------------------------------
def evaluation_rows(
    trained: TrainedModel,
    config: Config,
    days: Sequence[date],
    on_day: Callable[[DayEvents], None] | None = None,
    known: Mapping[date, DayEvents] = MappingProxyType({}),
) -> Iterator[pl.DataFrame]:
    """Yield predictions for the fixed instants of `days` with the observed delays, some snapshots at a time.

    Columns and order: see `labelled_rows`.

    Args:
        config: `trained.located(…)`.
        days: service dates whose event tables are in `data.local_folder`; training dates are not needed there.
        on_day: gets the events of each date before anything is predicted.
        known: dates that have been read already, with the same configuration.

    Raises:
        UserError: unreadable or invalid data.
    """
    data, vocabulary = config.data, trained.statistics.vocabulary
    readings = obtain_readings(data, days, Path(config.paths.cache), on_day, known)
    inputs = Inputs.read(trained.module.network.use, data, days, vocabulary)
    builder = DatedSnapshots(readings, vocabulary, History(trained.statistics, data.statistics), data, inputs)
    module = trained.module_for(joint_edges(readings))
    instants = evaluation_instants(days, data)
    frames = labelled_rows(module, builder.names, builder, vocabulary, instants, data.timezone)
    yield from _reporting(frames, len(instants))


def labelled_rows(
    module: DelayModule,
    names: Names,
    builder: Builder,
    vocabulary: Vocabulary,
    instants: Int64Array,
    timezone: str,
) -> Iterator[pl.DataFrame]:
    """Yield predictions with observed delays, for every next event that was observed later. A frame may be empty.

    Columns: see `prediction.columns.ROW_SCHEMA`, and `evaluation.quantiles` for those of the quantiles.
    Sorted by instant, then by train and rank.
    """
    batches = SnapshotBatches(builder, instants, BATCH_SIZE, timezone)
    for rows in _rows(module, names, batches, vocabulary, "label_mask"):
        yield rows.drop("journey", "event")


def _reporting(frames: Iterable[pl.DataFrame], n_snapshots: int) -> Iterator[pl.DataFrame]:
    """Pass on the frames of `n_snapshots` snapshots, and log progress."""
    began, pace = time.monotonic(), Pace()
    for number, frame in enumerate(frames, start=1):
        yield frame
        done = number * BATCH_SIZE
        if done < n_snapshots and pace.due():
            left = duration((time.monotonic() - began) / done * (n_snapshots - done))
            log.info("evaluation: %s of %s snapshots predicted, at most %s left", f"{done:,}", f"{n_snapshots:,}", left)


def next_event_rows(
    trained: TrainedModel, module: DelayModule, builder: Builder, names: Names, instants: Int64Array
) -> pl.DataFrame:
    """Predictions for every next event, observed later or not.

    Columns: those of `labelled_rows` except the observed delay; `journey` and `event` (rows of the table).
    """
    batches = SnapshotBatches(builder, instants, BATCH_SIZE, trained.config.data.timezone)
    rows = pl.concat(list(_rows(module, names, batches, trained.statistics.vocabulary, "next_mask")))
    return rows.drop("observed_delay_s")


def _rows(
    module: DelayModule, names: Names, batches: SnapshotBatches, vocabulary: Vocabulary, mask: str
) -> Iterator[pl.DataFrame]:
    """Yield for each batch the rows of the next events that `mask` chooses."""
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
        planned = instant + arrays["next_planned"][b, s, f].astype(np.int64)
        rows = pl.DataFrame(
            {
                "event": event,
                "snapshot_ts": instant * 1_000_000,
                "journey": journey,
                "op_id": points[arrays["next_point"][b, s, f]],
                "event_type": types[arrays["next_type"][b, s, f]],
                "rank": (f + 1).astype(np.int16),
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
        of_journey = names(journey).select("service_date", "train_id", "train_number", "train_type")
        yield pl.concat([rows, of_journey], how="horizontal")
