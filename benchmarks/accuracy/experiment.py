"""The shared part of the accuracy benchmarks: options, data, and training of network and trees on one split."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from benchmarks.accuracy.tree import TreeRows, TreeSettings, datasets, fit, gathered, tree_rows, tune
from benchmarks.accuracy.tree import predict as predict_tree
from transformer.config import Config, load_config, with_values
from transformer.data.dates import Split, available_dates, read_hours, resolve_split
from transformer.data.event_table import Int64Array, LoadedTable
from transformer.data.simulator.dataset import simulate
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.tables import JOURNEY, TIMESTAMP
from transformer.data.whole_dates import not_whole
from transformer.errors import UserError
from transformer.features.batches import Builder
from transformer.features.cache import Embeddings, obtain_inputs
from transformer.features.dated import DatedSnapshots
from transformer.features.embeddings import extend
from transformer.features.history import History
from transformer.features.inputs.catalogue import Inputs
from transformer.features.instants import evaluation_instants, training_instants
from transformer.features.reading import DateReading, joint_edges, obtain_readings, running_times
from transformer.features.snapshots import SnapshotBuilder
from transformer.features.statistics import Statistics
from transformer.files import content_hash
from transformer.model.module import input_scales
from transformer.parquet import read_parquet, write_parquet
from transformer.prediction.rows import evaluation_rows
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import run_folder
from transformer.training.run_folder import TrainedModel
from transformer.training.trainer import TrainingResult, train

if TYPE_CHECKING:
    import lightgbm

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
FEWEST_TRAINING_DATES = 2  # of a rolling origin
KEY = ("snapshot_ts", *JOURNEY, "rank")  # columns that identify a row


# --- command line ----------------------------------------------------------------------------------------------------
def options_parser(description: str, results: str) -> argparse.ArgumentParser:
    """Return a parser with the options of both benchmarks. `results` names the default folder of the results."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--data", type=Path, help="folder of event tables; default: data.local_folder, simulated if it is empty"
    )
    parser.add_argument("--env", default="local", help="environment in include/config (default: local)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one key of the configuration; may be repeated",
    )
    parser.add_argument(
        "--to", type=Path, default=REPOSITORY / "data" / "benchmarks" / results, help="folder of the results"
    )
    return parser


def configured(env: str, data: Path | None, overrides: Sequence[str]) -> Config:
    """Return the configuration, without MLflow. If `data` is None and the configured folder is empty, simulate data.

    Raises:
        UserError: see `load_config`.
    """
    located = [f"data.local_folder={json.dumps(str(data.resolve()))}"] if data else []
    config = load_config(env, [*overrides, *located, "training.mlflow.use_mlflow=false"])
    folder = Path(config.data.local_folder)
    if data is None and not any(folder.glob("events/*.parquet")):
        log.info("no event tables in %s: simulating a railway", folder)
        simulate(folder, SimulationConfig(timezone=config.data.timezone))
    return config


@contextmanager
def user_errors() -> Iterator[None]:
    """Log to standard error. Exit with 2 and one line on an error that the user must correct, with 130 on Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("transformer.data.event_table").setLevel(logging.WARNING)  # it would repeat its report per split
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


# --- splits ----------------------------------------------------------------------------------------------------------
def own_split(config: Config) -> Split:
    """Return the split that the pipeline would use, without partial dates."""
    data = config.data
    return resolve_split(data.split, Path(data.local_folder), data.validation.skip_partial_dates, data.timezone)


def full_dates(folder: Path, timezone: str) -> list[date]:
    """The service dates of `folder` without partial ones, sorted."""
    available = available_dates(folder)
    left_out = not_whole(
        {day: read_hours(folder, day, timezone) for day in available}, datetime.now(ZoneInfo(timezone)).date()
    )
    return [day for day in available if day not in left_out]


def splits_by_date(folder: Path, timezone: str) -> list[Split]:
    """Return one split per full service date, with that date as test.

    Validation is on the full date before it, as in the pipeline's split; for the first date, on the date after it. All
    other dates train, later ones too. So the results show how accuracy varies with the date, and not the accuracy of a
    model in service.

    Raises:
        UserError: fewer than three full dates.
    """
    full = full_dates(folder, timezone)
    if len(full) < 3:
        raise UserError(f"{folder} holds {len(full)} full service dates; --leave-one-date-out needs at least 3")
    splits = []
    for index, test in enumerate(full):
        validation = full[index - 1] if index else full[1]
        training = tuple(day for day in full if day not in (test, validation))
        splits.append(Split(training, (validation,), (test,)))
    return splits


def rolling_splits(folder: Path, timezone: str, origins: int) -> list[Split]:
    """Return one split for each of the last `origins` full service dates, with that date as test.

    Validation is on the full date before it, and the full dates before that one train. So each date is predicted as by
    a model in service: from the past alone.

    Raises:
        UserError: the first test date has fewer than two training dates. Statistics leave out the date of a training
            example, so with one there would be no history.
    """
    full = full_dates(folder, timezone)
    most = max(len(full) - FEWEST_TRAINING_DATES - 1, 0)
    if not 0 < origins <= most:
        raise UserError(
            f"{folder} holds {len(full)} full service dates; --rolling-origin {origins} is not possible, "
            f"since each test date needs {FEWEST_TRAINING_DATES + 1} before it; "
            + (f"give a number from 1 to {most}" if most else "name a folder with more dates")
        )
    return [
        Split(tuple(full[: index - 1]), (full[index - 1],), (full[index],))
        for index in range(len(full) - origins, len(full))
    ]


# --- training --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Experiment:
    """One split with its statistics and embeddings, which network and trees share."""

    config: Config
    split: Split
    statistics: Statistics
    embeddings: Embeddings

    @classmethod
    def of(cls, config: Config, split: Split) -> Self:
        config = with_values(config, split.as_values(), "the benchmark's split")
        return cls(config, split, *obtain_inputs(config, split))

    @property
    def resolution_s(self) -> float:
        """The step of the observed delays in seconds."""
        return input_scales(self.statistics)["resolution"]

    @property
    def round_to_s(self) -> float:
        """The step in seconds that predictions are rounded to; 0 = not rounded."""
        return self.resolution_s if self.config.model.round_predictions else 0.0

    def train_network(self, seed: int) -> tuple[TrainingResult, Path]:
        """Train the network as the pipeline does, without MLflow. Return the result and the run folder."""
        config = with_values(self.config, {"training.seed": seed}, "the benchmark's seed")
        folder = run_folder(config, "")
        return train(config, self.split, self.statistics, self.embeddings, RunLog(config, ""), folder), folder

    def network_predictions(
        self, seed: int, days: Sequence[date], judge: Mapping[str, Any] = MappingProxyType({})
    ) -> pl.DataFrame:
        """Train the network and predict the grid instants of `days`. Columns: see `prediction.rows.evaluation_rows`.

        Args:
            judge: values of the configuration for the predictions alone, by key, for example another grid.
        """
        _, folder = self.train_network(seed)
        trained = TrainedModel.load(folder)
        located = with_values(trained.located(self.config), judge, "the benchmark's options")
        return pl.concat(evaluation_rows(trained, located, days))

    def tree_predictions(
        self, seed: int, days: Sequence[date], settings: TreeSettings, *, context: bool
    ) -> pl.DataFrame:
        """Fit trees on the dates that the network trains on, and predict the grid instants of `days`.

        Columns: KEY, `translation_delay_s`, `observed_delay_s`, `predicted_delay_s`, `unrounded_delay_s`.
        """
        booster = self.fitted_tree(seed, settings, context=context)
        readings, builder = self._snapshots(days)
        frames = []
        for rows in self._tree_rows(readings, builder, self.grid(days), context=context):
            frames.append(
                builder.names(rows.journey)
                .select(JOURNEY)
                .with_columns(
                    snapshot_ts=pl.Series(rows.instant * 1_000_000).cast(TIMESTAMP),
                    rank=pl.Series(rows.rank).cast(pl.Int16),
                    translation_delay_s=pl.Series(rows.translation).cast(pl.Float64),
                    observed_delay_s=pl.Series(rows.label).cast(pl.Float64),
                    predicted_delay_s=pl.Series(predict_tree(booster, rows, self.round_to_s, self.resolution_s)),
                    unrounded_delay_s=pl.Series(predict_tree(booster, rows, 0.0, self.resolution_s)),
                )
            )
        return pl.concat(frames)

    def tree_trials(self, seed: int, settings: TreeSettings, *, context: bool) -> pl.DataFrame:
        """The trials of a study of the trees' parameters on the validation dates, see `tree.tune`."""
        return tune(*self._tree_datasets(seed, settings, context=context), settings, seed)

    def _tree_datasets(
        self, seed: int, settings: TreeSettings, *, context: bool
    ) -> tuple[lightgbm.Dataset, lightgbm.Dataset]:
        """The training and validation rows of the trees. Training instants are drawn as those of the network."""
        data, training = self.config.data, self.config.training
        readings, builder = self._snapshots(self.split.train)
        count = settings.n_snapshots(len(self.split.train), training)
        instants = training_instants(
            self.split.train,
            count,
            data,
            np.random.default_rng(seed),
            training.sampling,
            lambda: running_times(readings, data),
        )
        cache = Path(self.config.paths.cache)
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="tree-", dir=cache) as folder:
            parts = self._tree_rows(readings, builder, instants, context=context)
            learned = gathered(parts, Path(folder) / "training", settings.memory_gib)
            held_out = self._tree_rows(
                *self._snapshots(self.split.validation), self.grid(self.split.validation), context=context
            )
            return datasets(learned, gathered(held_out, Path(folder) / "validation"), seed)

    def fitted_tree(self, seed: int, settings: TreeSettings, *, context: bool) -> lightgbm.Booster:
        """Fit trees on the dates that the network trains on."""
        return fit(*self._tree_datasets(seed, settings, context=context), settings, seed)

    def grid(self, days: Sequence[date]) -> Int64Array:
        """The instants at which predictions for `days` are evaluated."""
        return evaluation_instants(days, self.config.data)

    def timetable(self, days: Sequence[date]) -> pl.DataFrame:
        """The edges of the railway on `days`, see `joint_edges`."""
        return joint_edges(obtain_readings(self.config.data, days, Path(self.config.paths.cache)))

    def builder(self, loaded: LoadedTable) -> SnapshotBuilder:
        data = self.config.data
        days = [day.item() for day in np.unique(loaded.table.day).astype("datetime64[D]")]
        return History(self.statistics, data.statistics).builder(loaded, data.snapshot, self._inputs(days))

    def rows_for_tree(
        self, builder: Builder, timetable: pl.DataFrame, instants: Int64Array, *, context: bool
    ) -> Iterator[TreeRows]:
        """The rows of the trees for the snapshots of `builder`, see `tree_rows`."""
        vocabulary = self.statistics.vocabulary
        vectors = extend(self.embeddings.points, timetable).matrix(vocabulary.op_ids)
        n_types = len(vocabulary.train_types)
        return tree_rows(builder, instants, vectors, n_types, self.config.data.timezone, context=context)

    def _snapshots(self, days: Sequence[date]) -> tuple[list[DateReading], DatedSnapshots]:
        config = self.config
        readings = obtain_readings(config.data, days, Path(config.paths.cache))
        history = History(self.statistics, config.data.statistics)
        return readings, DatedSnapshots(readings, self.statistics.vocabulary, history, config.data, self._inputs(days))

    def _inputs(self, days: Sequence[date]) -> Inputs:
        """The optional inputs that are on."""
        return Inputs.read(self.config.model.use_inputs, self.config.data, days, self.statistics.vocabulary)

    def _tree_rows(
        self, readings: Sequence[DateReading], builder: DatedSnapshots, instants: Int64Array, *, context: bool
    ) -> Iterator[TreeRows]:
        return self.rows_for_tree(builder, joint_edges(readings), instants, context=context)


@dataclass(frozen=True)
class Kept:
    """Files of predictions, named after the content hash of their configuration.

    The hash does not cover the code, so files are reused only if `resume` is true.
    """

    folder: Path
    resume: bool

    def obtain(self, make: Callable[[], pl.DataFrame], *identity: Any, label: str = "") -> pl.DataFrame:
        """Return the frame of the file with this identity, made first if need be. `label` begins the file's name."""
        path = self.folder / f"{label}{content_hash(*identity)}.parquet"
        if self.resume and path.is_file():
            log.info("reused from %s", path)
            return read_parquet(path, remedy="run without --resume")
        made = make()
        write_parquet(path, made)
        return made
