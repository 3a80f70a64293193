"""Predictions of a trained model as rows: one per snapshot, train and next event."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import torch

from transformer.data.datamodule import SnapshotBatches
from transformer.data.event_table import Int64Array, LoadedTable, Vocabulary
from transformer.data.snapshots import SnapshotBuilder
from transformer.data.tables import EVENT_TYPES, TIMESTAMP
from transformer.model.module import DelayModule

BATCH_SIZE = 16  # snapshots; does not change a prediction


def labelled_rows(
    module: DelayModule,
    loaded: LoadedTable,
    builder: SnapshotBuilder,
    vocabulary: Vocabulary,
    instants: Int64Array,
    timezone: str,
) -> pl.DataFrame:
    """Predictions beside what was observed, for every next event that was observed in the end.

    Columns: see `evaluation.metrics.ROW_SCHEMA`. Sorted by instant, then by train and rank.
    """
    batches = SnapshotBatches(builder, instants, BATCH_SIZE, timezone)
    return pl.concat(list(_rows(module, loaded, batches, vocabulary)))


def _rows(
    module: DelayModule, loaded: LoadedTable, batches: SnapshotBatches, vocabulary: Vocabulary
) -> Iterator[pl.DataFrame]:
    table = loaded.table
    points = np.concatenate([[0], vocabulary.op_ids]).astype(np.int32)
    types = np.array(["", *EVENT_TYPES])
    for index in range(len(batches)):
        batch = batches[index]
        with torch.inference_mode():
            predicted = module(batch).numpy()
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        b, s, f = np.nonzero(arrays["label_mask"])
        event = arrays["next_event"][b, s, f]
        journey = arrays["journey"][b, s]
        instant = arrays["instant"][b]
        planned = np.asarray(table.planned[event])
        rows = pl.DataFrame(
            {
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
        ).with_columns(pl.col("snapshot_ts", "planned_ts").cast(TIMESTAMP))
        names = loaded.journeys[journey].select("service_date", "train_id", "train_number", "train_type")
        yield pl.concat([rows.drop("journey"), names], how="horizontal")
