"""Gradient-boosted trees with the inputs of the network: they show how much attention adds.

Every labelled (snapshot, train, next event) is a row. Its columns come from the SnapshotBatch that the network reads,
so both see the same information up to the same instant. But the trees cannot look at the other trains one by one.

The trees get every input, also those that the network's defaults leave out, with two exceptions. The day of the week
identifies the date, and the points and types of past events identify the line. Few dates are not enough to learn from
them.

Trees that learn from months of data see as many snapshots as the network does, or as many as fit into memory. Their
parameters can be searched on the validation dates, with the budget of trials of a study of the network.

Legend of dimensions: B snapshots, S trains, P = n_prev, F = n_foll, N rows, C columns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.config import TrainingConfig
from transformer.data.event_table import Int64Array
from transformer.features.batches import Builder
from transformer.features.history import CUMULATIVE_FEATURES, FEATURES
from transformer.features.live_state import LIVE_FEATURES
from transformer.features.snapshots import SnapshotBatch, utc_offset_s
from transformer.model.coherence import earliest_delay
from transformer.model.network import HISTORY_DELAYS

if TYPE_CHECKING:
    import lightgbm as lgb
    import optuna

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

BATCH_SIZE = 16  # snapshots built at a time
# Arrays of a batch that become columns unchanged. If an array has a further dimension, the names along it.
EVENT_ARRAYS: Mapping[str, Sequence[str]] = {
    "next_planned": (),
    "next_type": (),
    "next_features": FEATURES,
    "next_live": LIVE_FEATURES,
}
TRAIN_ARRAYS = ("translation", "last_delay", "departed", "train_type")
PAST_ARRAYS = ("past_delay", "past_observed")
# Parameters that a study searches, and how a trial draws each of them.
SEARCHED: Mapping[str, Callable[[optuna.Trial, str], float | int]] = {
    "learning_rate": lambda trial, name: trial.suggest_float(name, 0.02, 0.2, log=True),
    "num_leaves": lambda trial, name: trial.suggest_int(name, 15, 255, log=True),
    "min_data_in_leaf": lambda trial, name: trial.suggest_int(name, 20, 2_000, log=True),
    "feature_fraction": lambda trial, name: trial.suggest_float(name, 0.3, 1.0),
    "bagging_fraction": lambda trial, name: trial.suggest_float(name, 0.4, 1.0),
}


FEWEST_SNAPSHOTS = 400  # on six dates, 800 were no better, see docs/log.md
SNAPSHOTS_PER_DATE = 64  # on 131 dates, 3,000 snapshots were 11 s better than 400
GIB = 2**30
ROW_BYTES = 64  # of a training row beyond a byte per column: label, score, gradients, the leaf that it is in


@dataclass(frozen=True)
class TreeSettings:
    """Parameters of LightGBM, and what the trees learn from. See the documentation of LightGBM for the parameters."""

    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {
            "learning_rate": 0.06,
            "num_leaves": 63,
            "min_data_in_leaf": 200,
            "feature_fraction": 0.6,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
        }
    )
    max_rounds: int = 2_000
    patience: int = 60  # rounds without a better validation MAE
    snapshots: int | Literal["all"] | None = None  # see `n_snapshots`
    memory_gib: float = 4.0  # of LightGBM for the training rows; rows beyond it are left out
    tuning_trials: int = 0  # of a study on the validation dates, see `tune`; 0 = the parameters above

    def n_snapshots(self, n_dates: int, training: TrainingConfig) -> int:
        """The number of snapshots that the trees learn from.

        `all` = as many as the network sees in all its epochs. None = as many as the training dates can use: 64 a date,
        at least 400, and no more than the network sees if it sees as many as 400.
        """
        seen = training.max_epochs * training.snapshots_per_epoch
        if self.snapshots == "all":
            return seen
        return self.snapshots or max(FEWEST_SNAPSHOTS, min(SNAPSHOTS_PER_DATE * n_dates, seen))


@dataclass(frozen=True)
class TreeRows:
    """Labelled next events: the inputs of the trees, and the values that predictions are computed from. In seconds."""

    columns: tuple[str, ...]
    inputs: FloatArray  # [N, C]; NaN = the train has fewer past events
    instant: Int64Array  # [N]; instant, journey and rank identify snapshot, train and event
    journey: Int64Array  # [N]
    rank: Int64Array  # [N]
    translation: FloatArray  # [N]
    planned: FloatArray  # [N] planned time - t
    label: FloatArray  # [N]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def correction(self) -> FloatArray:
        """Target of the trees [N]: observed delay − translation."""
        return self.label - self.translation


def tree_rows(
    builder: Builder,
    instants: Int64Array,
    point_vectors: FloatArray,
    n_train_types: int,
    timezone: str,
    *,
    context: bool,
) -> Iterator[TreeRows]:
    """Yield the rows of the snapshots at `instants`, some snapshots at a time, in the order of `labelled_rows`.

    Args:
        point_vectors: one row per point of the vocabulary, as in the network; row 0 is the unknown point.
        n_train_types: number of train types in the vocabulary.
        context: add columns on the rest of the train, see `_context_columns`.
    """
    for first in range(0, len(instants), BATCH_SIZE):
        batch = builder.build(instants[first : first + BATCH_SIZE])
        b, s, f = chosen = np.nonzero(batch.label_mask)
        columns = _columns(batch, chosen, point_vectors, n_train_types, timezone)
        if context:
            columns |= _context_columns(batch, chosen, point_vectors)
        inputs = np.column_stack([np.asarray(values, np.float32) for values in columns.values()])
        keys = batch.instant[b], batch.journey[b, s], f + 1
        truth = batch.translation[b, s], batch.next_planned[b, s, f], batch.label[b, s, f]
        yield TreeRows(tuple(columns), inputs, *keys, *truth)


def gathered(parts: Iterable[TreeRows], file: Path, memory_gib: float = math.inf) -> TreeRows:
    """Join parts of rows. The inputs are written to `file`, and mapped into memory from there.

    LightGBM reads the inputs once, and keeps a byte of each.

    Args:
        memory_gib: memory that LightGBM may need for the rows. Parts beyond it are left out, and not made.
    """
    kept: list[TreeRows] = []
    rows, fit_all = 0, True
    with file.open("wb") as to:
        for part in parts:
            rows += len(part)
            fit_all = rows * (len(part.columns) + ROW_BYTES) <= memory_gib * GIB
            if not fit_all and kept:
                break
            part.inputs.tofile(to)
            kept.append(replace(part, inputs=part.inputs[:0]))
    names = ("instant", "journey", "rank", "translation", "planned", "label")
    joined = {name: np.concatenate([getattr(part, name) for part in kept]) for name in names}
    columns, n_rows = kept[0].columns, len(joined["label"])
    if memory_gib < math.inf:
        snapshots = f"{n_rows:,} rows of {len(columns)} columns from {len(np.unique(joined['instant'])):,} snapshots"
        log.info("tree: %s; %s fit into %g GiB", snapshots, "all" if fit_all else "no more", memory_gib)
    return TreeRows(columns, np.memmap(file, np.float32, "r", shape=(n_rows, len(columns))), **joined)


def datasets(training: TreeRows, validation: TreeRows, seed: int) -> tuple[lgb.Dataset, lgb.Dataset]:
    """The rows as LightGBM keeps them: a byte for each input. Several trees may be fitted to them."""
    import lightgbm as lgb  # it needs libgomp1: that of the system, or that of PyTorch if PyTorch is imported before

    names, parameters = list(training.columns), _fixed(seed)
    # LightGBM reads the parts of a list where they are. It would copy a single array.
    data = lgb.Dataset([training.inputs], training.correction, feature_name=names, params=parameters)
    held_out = lgb.Dataset(
        [validation.inputs], validation.correction, reference=data, feature_name=names, params=parameters
    )
    return data.construct(), held_out.construct()


def fit(data: lgb.Dataset, held_out: lgb.Dataset, settings: TreeSettings, seed: int) -> lgb.Booster:
    """Fit trees that predict the correction with the least absolute error. They stop at the lowest validation MAE."""
    import lightgbm as lgb

    booster = lgb.train(
        {**_fixed(seed), **settings.parameters},
        data,
        settings.max_rounds,
        valid_sets=[held_out],
        callbacks=[lgb.early_stopping(settings.patience, verbose=False), _progress],
    )
    log.info("tree: %d rounds, validation MAE %.1f s", booster.best_iteration, validation_mae_s(booster))
    return booster


def validation_mae_s(booster: lgb.Booster) -> float:
    """The lowest validation MAE, in seconds. Predictions are not rounded, and may lie in the past."""
    return float(booster.best_score["valid_0"]["l1"])


def tune(data: lgb.Dataset, held_out: lgb.Dataset, settings: TreeSettings, seed: int) -> pl.DataFrame:
    """Search the parameters with the lowest validation MAE. The first trial has the parameters of `settings`.

    Returns:
        A row per trial: the searched parameters, `validation_mae_s` and `rounds`.
    """
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the trials have log lines of our own
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.enqueue_trial({name: settings.parameters[name] for name in SEARCHED if name in settings.parameters})
        rows = []
        for number in range(settings.tuning_trials):
            trial = study.ask()
            found = {name: suggest(trial, name) for name, suggest in SEARCHED.items()}
            booster = fit(data, held_out, replace(settings, parameters={**settings.parameters, **found}), seed)
            study.tell(trial, mae := validation_mae_s(booster))
            rows.append({**found, "validation_mae_s": mae, "rounds": booster.best_iteration})
            log.info(
                "tree: trial %d/%d, best validation MAE %.1f s", number + 1, settings.tuning_trials, study.best_value
            )
    finally:
        optuna.logging.set_verbosity(verbosity)
    return pl.DataFrame(rows)


def tuned(settings: TreeSettings, trials: pl.DataFrame) -> TreeSettings:
    """The settings with the parameters of the best trial of `tune`."""
    best = trials.sort("validation_mae_s", maintain_order=True).select(*SEARCHED).row(0, named=True)
    return replace(settings, parameters={**settings.parameters, **best})


def predict(booster: lgb.Booster, rows: TreeRows, round_to_s: float, resolution_s: float) -> npt.NDArray[np.float64]:
    """Return predicted delays [N] in seconds. As those of the network, they are rounded and coherent along a train.

    Args:
        round_to_s: step of the predicted delays; 0 = not rounded.
        resolution_s: step of the observed delays.
    """
    correction = np.asarray(booster.predict(rows.inputs), np.float64) if len(rows) else np.zeros(0)
    planned = rows.planned.astype(np.float64)
    delay = rows.translation + correction
    if round_to_s:
        delay = np.round(delay / round_to_s) * round_to_s
    forecasts = pl.DataFrame(
        {
            "instant": rows.instant,
            "journey": rows.journey,
            "time": planned + np.maximum(delay, earliest_delay(planned, resolution_s)),
        }
    )
    times = forecasts.select(pl.col("time").cum_max().over("instant", "journey"))["time"].to_numpy()
    return np.asarray(times - planned, np.float64)


def _fixed(seed: int) -> dict[str, Any]:
    """Parameters that no setting changes."""
    return {
        "objective": "l1",
        "metric": "l1",
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,  # by default LightGBM times two algorithms, and the faster one changes the result
        "feature_pre_filter": False,  # with it, the rows would fit one min_data_in_leaf only
        "verbosity": -1,
    }


def _progress(state: lgb.callback.CallbackEnv) -> None:
    if (state.iteration + 1) % 100 == 0 and state.evaluation_result_list:
        log.info("tree: round %d, validation MAE %.1f s", state.iteration + 1, state.evaluation_result_list[0][2])


def _columns(
    batch: SnapshotBatch,
    chosen: tuple[npt.NDArray[np.intp], ...],
    point_vectors: FloatArray,
    n_train_types: int,
    timezone: str,
) -> dict[str, npt.NDArray[Any]]:
    """Return each column [N] of the chosen cells (b, s, f) by its name."""
    b, s, f = chosen
    columns: dict[str, npt.NDArray[Any]] = {"rank": f + 1}
    for name, parts in EVENT_ARRAYS.items():
        values = getattr(batch, name)[b, s, f]
        columns |= {part: values[:, i] for i, part in enumerate(parts)} if parts else {name: values}
    columns |= {f"input_{i}": values for i, values in enumerate(batch.next_inputs[b, s, f].T)}  # optional inputs
    columns |= {name: getattr(batch, name)[b, s] for name in TRAIN_ARRAYS}
    columns["expected"] = columns["next_planned"] + columns["translation"]
    columns["gap"] = np.diff(batch.next_planned, axis=-1, prepend=batch.next_planned[..., :1])[b, s, f]
    columns["overdue"] = columns["translation"] - columns["last_delay"]
    for name in HISTORY_DELAYS:
        columns[f"{name}_beyond_translation"] = columns[name] - columns["translation"]
    for name in PAST_ARRAYS:
        values = np.where(batch.past_mask, getattr(batch, name), np.nan)[b, s]
        columns |= {f"{name}_{i}": values[:, -i] for i in range(1, values.shape[1] + 1)}  # 1 = the last known
    point = batch.next_point[b, s, f]
    columns |= {f"point_{i}": vector[point] for i, vector in enumerate(point_vectors.T)}

    present = batch.train_mask.astype(np.float32)
    count = present.sum(axis=1)
    columns["running"] = count[b]
    for kind in range(n_train_types + 1):  # 0 = unknown
        columns[f"running_{kind}"] = (present * (batch.train_type == kind)).sum(axis=1)[b]
    columns["mean_delay"] = ((batch.translation * present).sum(axis=1) / np.maximum(count, 1))[b]
    local = batch.instant + utc_offset_s(batch.instant, timezone)
    columns["hour"] = (local % 86_400 / 3_600)[b]
    return columns


def _context_columns(
    batch: SnapshotBatch, chosen: tuple[npt.NDArray[np.intp], ...], point_vectors: FloatArray
) -> dict[str, npt.NDArray[Any]]:
    """Return columns [N] on the rest of the train: the section before the event, the next event, the end, the trend."""
    b, s, f = chosen
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in CUMULATIVE_FEATURES:
        sums = batch.next_features[..., FEATURES.index(name)]
        columns[f"section_{name}"] = np.diff(sums, axis=-1, prepend=0)[b, s, f]
        columns[f"first_{name}"] = sums[b, s, 0]
    n_next = batch.next_mask.sum(axis=-1)
    columns["n_next"] = n_next[b, s]
    columns["first_planned"] = batch.next_planned[b, s, 0]
    columns["last_planned"] = batch.next_planned[b, s, n_next[b, s] - 1]
    n_past = batch.past_mask.sum(axis=-1)
    columns["n_past"] = n_past[b, s]
    columns["past_delay_mean"] = (batch.past_delay.sum(axis=-1) / np.maximum(n_past, 1))[b, s]
    for steps in range(1, min(4, batch.past_delay.shape[-1]), 2):
        columns[f"past_change_{steps}"] = (batch.past_delay[..., -1] - batch.past_delay[..., -1 - steps])[b, s]
    point = batch.past_point[b, s, -1]
    columns |= {f"last_point_{i}": vector[point] for i, vector in enumerate(point_vectors.T)}
    return columns
