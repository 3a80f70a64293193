"""Predictions of a trained model for one instant, as rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from polars import selectors as cs

from transformer.config import Config, DataConfig
from transformer.data.event_table import Int64Array, LoadedTable, in_table_order
from transformer.data.events import DayEvents, each_day, joined, read_journeys
from transformer.data.points import read_op_nodes
from transformer.data.reach import dates_running, has_running_train, may_have_running_train
from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.features.graph import edge_counts
from transformer.features.history import History
from transformer.features.inputs.catalogue import Inputs
from transformer.features.snapshots import SnapshotBuilder
from transformer.files import write_json, write_text
from transformer.model.module import DelayModule
from transformer.parquet import write_parquet
from transformer.prediction.columns import TRANSFER_COLUMNS, intervals_of, prediction_columns
from transformer.prediction.journeys import sample_times
from transformer.prediction.rows import next_event_rows
from transformer.prediction.transfers import planned_transfers, probabilities
from transformer.prediction.unknown import unknown_counts, unknown_text
from transformer.training.run_folder import TrainedModel

log = logging.getLogger(__name__)


# --- one instant -----------------------------------------------------------------------------------------------------
def parse_instant(text: str, timezone: str) -> datetime:
    """Read an ISO 8601 time; the result is in UTC.

    A time without an offset is in `timezone`. In an hour that the clock repeats, it is the first of the two.

    Raises:
        UserError: the text is not a time, or daylight saving skips that time.
    """
    try:
        found = datetime.fromisoformat(text)
        if not 1970 < found.year < 2200:  # a mistake; further years overflow
            raise ValueError
    except ValueError:
        raise UserError(f"--at {text!r} is not a time; write 2024-12-21T08:00+01:00, or without the offset") from None
    zone = ZoneInfo(timezone)
    instant = (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    if not found.tzinfo and instant.astimezone(zone).replace(tzinfo=None) != found:
        raise UserError(f"--at {text!r} does not exist in {timezone}: the clock skips that hour; give an offset")
    return instant


def dates_around(instant: datetime, config: Config) -> tuple[date, ...]:
    """Service dates whose trains may run at `instant`, as far from it as reading keeps their events."""
    return dates_running(instant, instant, config.data)


def read_around(
    data: DataConfig,
    days: Sequence[date],
    first: datetime,
    last: datetime,
    keyed: Collection[date] = (),
    known: Mapping[date, DayEvents] = MappingProxyType({}),
    until: datetime | None = None,
) -> list[DayEvents]:
    """Read the dates of `days` that a prediction between `first` and `last` (UTC) needs; at least one.

    Trains of two nights are rare, so most distant dates have no train any more and would only cost time. A date is
    needed as a whole, because a train reads the observations of the other trains of its date. The date of the instants
    and the dates next to it are always needed: their timetable joins points that the model does not know to others.

    Args:
        keyed: dates that are needed even if their trains have ended.
        known: dates that were already read with the same configuration.
        until: later observations are removed before anything is computed; None = all are kept.
    """
    zone, folder = ZoneInfo(data.timezone), Path(data.local_folder)
    soon = last + timedelta(seconds=data.snapshot.lead_s)
    always = {first.astimezone(zone).date() - timedelta(days=1), *(at.astimezone(zone).date() for at in (first, soon))}
    always.update(keyed)
    likely = [day for day in days if day in always or may_have_running_train(folder, day, first, last, data)]
    needed = [
        read
        for read in each_day(data, likely, known, until)
        if read.day in always or has_running_train(read.events, first, last, data.snapshot)
    ]
    return needed or list(each_day(data, days[-1:], known, until))


@dataclass(frozen=True)
class InstantSnapshot:
    """The data known at an instant, and the model for that timetable. A prediction reads nothing else."""

    trained: TrainedModel
    config: Config
    instants: Int64Array  # [1] seconds since the Unix epoch
    days: tuple[date, ...]  # service dates in the table
    events: pl.DataFrame  # in the order of the table, without later observations
    loaded: LoadedTable
    module: DelayModule
    builder: SnapshotBuilder

    @classmethod
    def of(cls, trained: TrainedModel, config: Config, instant: datetime, days: Sequence[date]) -> Self:
        """Read the data. Arguments and errors are those of `predictions_at`."""
        data, second = config.data, int(instant.timestamp())
        folder, now = Path(data.local_folder), datetime.fromtimestamp(second, UTC)
        read = read_around(data, days, now, now, until=now)
        days = tuple(of_day.day for of_day in read)
        events, report = joined(read, folder)
        for line in report.lines():
            log.info(line)
        journeys = read_journeys(folder, days, data.timezone)
        vocabulary = trained.statistics.vocabulary
        loaded = LoadedTable.of(events, journeys, vocabulary)
        inputs = Inputs.read(trained.module.network.use, data, days, vocabulary)
        return cls(
            trained=trained,
            config=config,
            instants=np.array([second]),
            days=days,
            events=in_table_order(events),
            loaded=loaded,
            module=trained.module_for(edge_counts(events)),
            builder=History(trained.statistics, data.statistics).builder(loaded, data.snapshot, inputs),
        )

    @cached_property
    def rows(self) -> pl.DataFrame:
        """Predictions for every train, see `rows.next_event_rows`. Points that the model does not know have numbers."""
        rows = next_event_rows(self.trained, self.module, self.builder, self.loaded.names, self.instants)
        log.info("known from training: %s", unknown_text(rows.height, unknown_counts(rows, self.trained.statistics)))
        return rows.with_columns(self.events["op_id"].gather(rows["event"]))

    def predictions(self) -> pl.DataFrame:
        """Predictions for every train, with `prediction_columns`, and `journey` and `event` (rows of the table)."""
        levels = self.module.network.levels
        ends = {name: pl.col(column) for interval in intervals_of(levels) for name, column in interval.columns.items()}
        whole = pl.col("predicted_delay_s", "translation_delay_s", "last_delay_s", *ends).round().cast(pl.Int32)
        return (
            self._named(self.rows)
            .with_columns(**ends)
            .with_columns(whole)
            .with_columns(pl.when("departed").then("last_delay_s"))
            .sort("service_date", "train_id", "rank")
            .select(*prediction_columns(levels), "journey", "event")
        )

    def transfers(self, minutes: float) -> pl.DataFrame:
        """All transfers within an hour with the probability that they hold, with TRANSFER_COLUMNS.

        Args:
            minutes: time that a transfer needs, see `transfers.check_minutes`.

        Raises:
            UserError: the model predicts no distribution.
        """
        found = planned_transfers(self.rows, minutes)
        times = sample_times(self.rows, self.module.network)
        events = self._named(self.rows)
        arriving, departing = (events[found[end]] for end in ("arrival", "departure"))
        return pl.DataFrame(
            [
                *(arriving[name].alias(f"arriving_{name}") for name in JOURNEY),
                *(departing[name].alias(f"departing_{name}") for name in JOURNEY),
                *(arriving[name] for name in ("op_id", "op_name")),
                *(
                    rows[f"{kind}_ts"].alias(f"{kind}_{end}_ts")
                    for kind in ("planned", "predicted")
                    for end, rows in (("arrival", arriving), ("departure", departing))
                ),
                pl.Series("probability", probabilities(found, times, minutes)),
            ]
        ).sort(*TRANSFER_COLUMNS[:4], "planned_arrival_ts", "planned_departure_ts")

    def _named(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows with names of their points, and with planned and predicted times on the railway's clock."""
        names = read_op_nodes(Path(self.config.data.local_folder)).select("op_id", "op_name")
        planned = pl.col("planned_ts").dt.convert_time_zone(self.config.data.timezone)
        predicted = planned + pl.duration(seconds=pl.col("predicted_delay_s").cast(pl.Int64))  # whole seconds
        return rows.join(names, on="op_id", how="left", maintain_order="left").with_columns(
            planned, predicted.alias("predicted_ts")
        )


def predictions_at(trained: TrainedModel, config: Config, instant: datetime, days: Sequence[date]) -> pl.DataFrame:
    """Predictions for every train in the snapshot at `instant`, from the data known then.

    Columns: `prediction_columns` of the model's levels.

    Args:
        config: `trained.located(…)`.
        days: the dates of `dates_around` that have data in `data.local_folder`.

    Raises:
        UserError: unreadable or invalid data.
    """
    return InstantSnapshot.of(trained, config, instant, days).predictions().drop("journey", "event")


def writer(path: Path) -> Callable[[Path, pl.DataFrame], None]:
    """The function that writes predictions to `path`, in the format of its suffix. It never leaves half a file.

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
    """Write times in ISO 8601 with their offset, as in 2024-12-21T08:03:00+01:00."""
    return predictions.with_columns(
        cs.datetime().dt.to_string("%Y-%m-%dT%H:%M:%S%:z"),
        cs.date().dt.to_string("%Y-%m-%d"),
    )


_WRITERS: dict[str, Callable[[Path, pl.DataFrame], None]] = {
    ".parquet": write_parquet,
    ".csv": _write_csv,
    ".json": _write_json,
}
