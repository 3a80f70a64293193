"""Training: the Lightning Trainer, its callbacks, warm start and resume."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from transformer.config import Config, TrainingConfig, flatten, to_dict
from transformer.data.datamodule import SnapshotDataModule
from transformer.data.events import Split
from transformer.durations import duration
from transformer.embeddings import PointEmbeddings, extend
from transformer.errors import Terminated, UserError
from transformer.evaluation.drift import profile_dates
from transformer.files import atomic_path, read_json, write_json, writing
from transformer.inputs import INPUTS, TrainingInputs
from transformer.model.module import DelayModule, input_scales
from transformer.model.network import NetworkShape
from transformer.precomputed import Embeddings, timetable_edges
from transformer.statistics import Statistics
from transformer.tracking import AIRFLOW_RUN, CONFIG_ARTIFACT, RunLog, mlflow_errors

log = logging.getLogger(__name__)
# Lightning sets its own logger to INFO when imported; a task log is for what the pipeline says.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # snapshots need none
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # Lightning 2.6 on torch 2.13
warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")  # a retry, on purpose

BEST, LAST = "best.ckpt", "last.ckpt"  # fixed names: whoever resumes or evaluates need not search
CHECKPOINTS = "checkpoints"  # folder in the run's artifacts and in its local folder
HISTORY = "history.json"
MONITORED = "val/mae_s"
POINT_VECTORS = "network.point_vectors"  # a buffer, not learned
CHECKPOINTS_OF = "checkpoints_of"  # tag: the Airflow run whose training the run's checkpoints are of
# Where and how a training runs may differ when it is resumed; what it computes may not.
_FREE_ON_RESUME = (
    "data.local_folder", "data.bucket_", "data.endpoint_url", "data.download_", "data.save_", "data.split.",
    "evaluation.", "search.", "compute.", "paths.",
    "training.accelerator", "training.devices", "training.strategy", "training.num_workers", "training.log_every_s",
    "training.allow_changes_on_resume", "training.use_precomputed.", "training.mlflow.",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingResult:
    best_val_mae_s: float
    val_translation_mae_s: float
    epochs: int
    seconds: float

    @property
    def best_val_skill(self) -> float:
        return 1 - self.best_val_mae_s / self.val_translation_mae_s if self.val_translation_mae_s else 0.0


def train(
    config: Config,
    split: Split,
    statistics: Statistics,
    embeddings: Embeddings,
    run: RunLog,
    folder: Path,
    *,
    warm_start: Path | None = None,
    resume: Path | None = None,
    callbacks: Sequence[Callback] = (),
    resumable: bool = True,
) -> TrainingResult:
    """Train, leaving `best.ckpt`, `last.ckpt` and `history.json` in `folder/checkpoints` and in the MLflow run.

    Before the first epoch both get what the training is given, so that whoever finds a checkpoint finds its inputs.

    Args:
        warm_start: checkpoint whose weights to begin with.
        resume: `last.ckpt` of the training to continue, optimizer, epoch and random numbers too.
        callbacks: more of them, called after each epoch's row is in the history and before its checkpoint is saved.
        resumable: copy `last.ckpt` to the MLflow run too.

    Raises:
        UserError: a checkpoint that does not fit, hardware that is not there, or a training that diverges.
    """
    training = config.training
    L.seed_everything(training.seed, workers=True, verbose=False)
    data = SnapshotDataModule(config, split, statistics)
    module = create_module(config, split, statistics, embeddings)
    if warm_start is not None:
        load_weights(module, warm_start, embeddings.edges)
    identity = training_identity(config, split)
    if resume is not None and not training.allow_changes_on_resume:
        refuse_changes(identity, resume)
    target = folder / CHECKPOINTS
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    history = History(target / HISTORY, identity)
    upload = CheckpointUpload(run, target, resumable)
    trainer = _trainer(config, run, [history, *callbacks], upload)
    if trainer.is_global_zero:
        reference = profile_dates(config.data, split.train)
        TrainingInputs(config, split, statistics, embeddings, reference).save(folder)
        run.artifact(folder / CONFIG_ARTIFACT, str(Path(CONFIG_ARTIFACT).parent))
        run.artifacts(folder / INPUTS, INPUTS)
    n_parameters = sum(p.numel() for p in module.parameters())
    log.info(
        "training: %s parameters, %d service dates, %d × %d snapshots, %s, %s",
        f"{n_parameters:,}",
        len(split.train),
        training.max_epochs,
        training.snapshots_per_epoch,
        trainer.accelerator.__class__.__name__,
        trainer.precision,
    )
    began = time.monotonic()
    try:
        trainer.fit(module, data, ckpt_path=str(resume) if resume else None, weights_only=True)
    except Terminated:
        upload.copy_changed()
        log.info("terminated after %d whole epochs; resume or retry continues from there", len(history.rows))
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not history.rows:
        raise UserError(f"training.max_epochs={training.max_epochs} is reached already; raise it to train on")
    best = min(history.rows, key=lambda row: row["val_mae_s"])
    return TrainingResult(
        best_val_mae_s=best["val_mae_s"],
        val_translation_mae_s=best["val_translation_mae_s"],
        epochs=len(history.rows),
        seconds=time.monotonic() - began,
    )


def create_module(config: Config, split: Split, statistics: Statistics, embeddings: Embeddings) -> DelayModule:
    """An untrained module for these inputs."""
    vocabulary = statistics.vocabulary
    points = extend(embeddings.points, timetable_edges(config, split.validation))
    shape = NetworkShape(
        n_prev=config.data.snapshot.n_prev,
        n_foll=config.data.snapshot.n_foll,
        train_types=list(vocabulary.train_types),
        op_ids=vocabulary.op_ids.tolist(),
        embedding_dims={kind: vectors.shape[1] for kind, vectors in points.vectors.items()},
        scales=input_scales(statistics),
    )
    vectors = torch.from_numpy(points.matrix(vocabulary.op_ids))
    return DelayModule.create(config.model, config.training, shape, vectors)


def load_module(checkpoint: Path) -> DelayModule:
    """A trained module, ready to predict.

    Raises:
        UserError: not a checkpoint of this model.
    """
    try:
        module = DelayModule.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{checkpoint} does not exist; train the model first") from None
    except Exception as error:
        if "loading state_dict" in str(error):
            raise UserError(f"{checkpoint} is of another version of the network; train the model again") from None
        raise UserError(f"{checkpoint} is no checkpoint of this model ({_first_line(error)})") from None
    return module.eval()


def training_identity(config: Config, split: Split) -> dict[str, str]:
    """What must stay the same for a training to be continued: the configuration that matters and the service dates."""
    values = {key: str(value) for key, value in flatten(to_dict(config)).items()}
    kept = {key: value for key, value in values.items() if not key.startswith(_FREE_ON_RESUME)}
    return {**kept, **{f"data.split.{name}": ", ".join(days) for name, days in split.as_dict().items()}}


def refuse_changes(identity: dict[str, str], checkpoint: Path) -> None:
    """Raises UserError with every difference between this training and the one that wrote `checkpoint`."""
    try:
        states = torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"]
        before: dict[str, str] = states[History.__qualname__]["identity"]
    except Exception as error:
        raise UserError(f"{checkpoint} is no checkpoint of this model ({_first_line(error)})") from None
    changed = sorted(key for key in before.keys() | identity.keys() if before.get(key) != identity.get(key))
    if changed:
        listed = "; ".join(f"{key}: {before.get(key, 'absent')} → {identity.get(key, 'absent')}" for key in changed)
        raise UserError(
            f"resume: the configuration differs from that of the run: {listed}; "
            "give the same, or set training.allow_changes_on_resume=true"
        )


def load_weights(module: DelayModule, checkpoint: Path, edges: pl.DataFrame) -> None:
    """Warm start: take over the weights of a checkpoint, and its vectors of the points that both know.

    Its weights have learned to read its own vectors: those of another computation mean other directions. Points it did
    not know get the mean of their neighbours over `edges` (see `graph.edge_counts`).

    Raises:
        UserError: naming every input that differs, or the first weight that does not fit.
    """
    given = load_module(checkpoint)
    if differences := _input_differences(given, module):
        raise UserError(
            f"warm start: the inputs of that model differ: {'; '.join(differences)}; use the same, or train without it"
        )
    weights, own = given.state_dict(), module.state_dict()
    unfit = [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name != POINT_VECTORS and (name not in weights or weights[name].shape != own[name].shape)
    ]
    if unfit:
        raise UserError(
            f"warm start: {len(unfit)} weights do not fit this configuration, first: {unfit[0]}; "
            "use the model configuration of that run"
        )
    op_ids = module.network.shape.op_ids
    known = point_embeddings(given)
    weights[POINT_VECTORS] = torch.from_numpy(extend(known, edges).matrix(op_ids))
    module.load_state_dict(weights)
    shared = len(set(op_ids) & set(given.network.shape.op_ids))
    log.info("warm start: weights taken over; %d of %d points were known to that model", shared, len(op_ids))


def point_embeddings(module: DelayModule) -> PointEmbeddings:
    """The point vectors a module holds, by kind."""
    shape = module.network.shape
    parts = torch.split(module.network.point_vectors[1:].cpu(), list(shape.embedding_dims.values()), dim=1)
    vectors = {kind: part.numpy().copy() for kind, part in zip(shape.embedding_dims, parts, strict=True)}
    return PointEmbeddings(np.array(shape.op_ids, np.int32), vectors)


def _input_differences(given: DelayModule, own: DelayModule) -> list[str]:
    """`name: theirs → ours` of everything that gives the same numbers another meaning."""

    def inputs(module: DelayModule) -> dict[str, Any]:
        shape = module.network.shape
        return {
            "data.snapshot.n_prev": shape.n_prev,
            "data.snapshot.n_foll": shape.n_foll,
            "embeddings": shape.embedding_dims,
            "train types": shape.train_types,
            **{f"model.use_inputs.{name}": on for name, on in to_dict(module.network.use).items()},
        }

    theirs, ours = inputs(given), inputs(own)
    return [f"{name}: {theirs[name]} → {ours[name]}" for name in ours if theirs[name] != ours[name]]


class History(Callback):
    """One row per epoch in `history.json`; checkpoints keep the rows and the training's identity for who resumes."""

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path = path
        self.identity = identity
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        figures = trainer.callback_metrics
        row = {
            "epoch": trainer.current_epoch,
            "train_loss": float(figures["train/loss"]),
            "val_mae_s": float(figures["val/mae_s"]),
            "val_translation_mae_s": float(figures["val/translation_mae_s"]),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
        }
        for name in ("train_loss", "val_mae_s"):
            if not math.isfinite(row[name]):
                raise UserError(
                    f"training diverged in epoch {trainer.current_epoch + 1}: {name} is {row[name]}; "
                    "lower training.learning_rate"
                )
        self.rows.append(row)
        if trainer.is_global_zero:
            write_json(self.path, self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "identity": self.identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class FixedCheckpoint(ModelCheckpoint):
    """Keeps one file of a fixed name; resumed on another machine or in another folder it still knows the best score.

    The last epoch has one of its own: the option `save_last` leaves out epochs that are no new best.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(
            folder,
            filename=name.removesuffix(".ckpt"),
            monitor=monitor,
            mode="min",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        moved = {name: self._moved(state_dict[name]) for name in state_dict if name.endswith("_path")}
        models = {self._moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": self.dirpath})

    def _moved(self, path: str) -> str:
        return str(Path(self.dirpath or "") / Path(path).name) if path else path


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one before it and renames it: Lightning copies over that one, from another disk.

    A full disk or a kill in the middle then costs an epoch and not the training.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        with atomic_path(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class CheckpointUpload(Checkpoint):
    """Copies the checkpoints of each epoch to MLflow. A `Checkpoint`, so that it runs after the one that saves them."""

    def __init__(self, run: RunLog, folder: Path, resumable: bool = True) -> None:
        self.run = run
        self.folder = folder
        # `last` at the end: whoever sees it finds the others as new.
        self._names = (BEST, HISTORY, LAST) if resumable else (BEST, HISTORY)
        self._uploaded: dict[str, int] = {}
        self._owned = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.copy_changed()

    def copy_changed(self) -> None:
        """Copy what was written since the last call. The server shows a file only once it has arrived whole."""
        for name in self._names:
            path = self.folder / name
            changed = path.stat().st_mtime_ns if path.is_file() else 0
            if changed and changed != self._uploaded.get(name):
                self.run.artifact(path, CHECKPOINTS)
                self._uploaded[name] = changed
        if not self._owned:
            self.run.tags({CHECKPOINTS_OF: self.run.tag(AIRFLOW_RUN)})
            self._owned = True


class ProgressLines(Callback):
    """Progress for a task log: a line every few seconds, and one per epoch."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = self._last = time.monotonic()
        self._first_step = trainer.global_step
        self._snapshots = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._snapshots += len(batch["instant"]) * trainer.world_size  # each process has an equal share, or nearly
        now = time.monotonic()
        if now - self._last < self.every_s or not trainer.is_global_zero:
            return
        self._last = now
        elapsed = now - self._began
        done = trainer.global_step - self._first_step
        left = elapsed / max(done, 1) * max(int(trainer.estimated_stepping_batches) - trainer.global_step, 0)
        log.info(
            "epoch %d/%s, step %d/%d: loss %.3f, %.0f snapshots/s, at most %s left",
            trainer.current_epoch + 1,
            trainer.max_epochs,
            batch_idx + 1,
            int(trainer.num_training_batches),
            float(outputs["loss"]),
            self._snapshots / elapsed,
            duration(left),
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        figures = trainer.callback_metrics
        if trainer.is_global_zero:
            log.info(
                "epoch %d/%s done: training loss %.3f, validation MAE %.1f s (translation %.1f s, skill %.3f)",
                trainer.current_epoch + 1,
                trainer.max_epochs,
                float(figures["train/loss"]),
                float(figures["val/mae_s"]),
                float(figures["val/translation_mae_s"]),
                float(figures["val/skill"]),
            )


class RunLogger(MLFlowLogger):
    """Lightning's MLflow logger without its end: the DAG's last task closes the run, not the training."""

    def __init__(self, config: Config, run_id: str) -> None:
        super().__init__(run_id=run_id, tracking_uri=config.training.mlflow.tracking_uri)
        self._config = config

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with mlflow_errors(self._config):
            super().log_metrics(metrics, step)

    def finalize(self, status: str = "success") -> None:
        del status

    def log_hyperparams(self, params: Any) -> None:
        del params  # the run has the whole configuration since it was opened


def read_history(path: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = read_json(path)
    return rows


def _trainer(config: Config, run: RunLog, callbacks: list[Callback], upload: CheckpointUpload) -> L.Trainer:
    training = config.training
    target = upload.folder
    on_terminal = sys.stderr.isatty()
    callbacks.append(TQDMProgressBar() if on_terminal else ProgressLines(training.log_every_s))
    if training.early_stopping.enabled:
        callbacks.append(
            EarlyStopping(
                MONITORED,
                min_delta=training.early_stopping.min_delta_s,
                patience=training.early_stopping.patience,
                check_on_train_epoch_end=True,
            )
        )
    callbacks += [FixedCheckpoint(target, BEST, MONITORED), FixedCheckpoint(target, LAST), upload]
    logger = RunLogger(config, run.run_id) if run.run_id else False
    try:
        return L.Trainer(
            accelerator=training.accelerator,
            devices=int(training.devices) if training.devices.isdigit() else training.devices,
            strategy=training.strategy,
            precision=_precision(training),
            max_epochs=training.max_epochs,
            gradient_clip_val=training.gradient_clip_norm or None,
            callbacks=callbacks,
            logger=logger,
            plugins=[WholeCheckpoints()],
            log_every_n_steps=1,
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data module shares each batch out itself
            reload_dataloaders_every_n_epochs=1,  # new random instants
            default_root_dir=target,
        )
    except (ValueError, RuntimeError) as error:  # Lightning's MisconfigurationException is a plain Exception
        raise UserError(_hardware_message(training, error)) from None
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise UserError(_hardware_message(training, error)) from None


def _hardware_message(training: TrainingConfig, error: Exception) -> str:
    return (
        f"training.accelerator={training.accelerator}, devices={training.devices}, strategy={training.strategy} "
        f"cannot be had here ({_first_line(error)}); use auto"
    )


def _precision(training: TrainingConfig) -> Any:
    if training.precision != "auto":
        return training.precision
    if training.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return "32-true"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


__all__ = ["TrainingResult", "create_module", "load_module", "load_weights", "train"]
