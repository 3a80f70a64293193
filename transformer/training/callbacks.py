"""Callbacks of a running training: history, checkpoints, uploads, progress lines, metrics."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from transformer.config import Config
from transformer.errors import UserError
from transformer.files import atomic_path, read_json, write_json
from transformer.memory import give_back_free_memory
from transformer.pace import Pace
from transformer.text import duration
from transformer.tracking.client import connect, mlflow_errors
from transformer.tracking.names import AIRFLOW_RUN
from transformer.tracking.run_log import RunLog
from transformer.training.checkpoints import BEST, CHECKPOINTS, CHECKPOINTS_OF, HISTORY, LAST

log = logging.getLogger(__name__)

MONITORED = "val/mae_s"
FREE_EVERY = 64  # steps of an epoch


class History(Callback):
    """Writes one row per epoch to `history.json`. To resume, checkpoints hold the rows and the training's identity."""

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
        if math.isnan(row["val_translation_mae_s"]):  # translation has no weights, so only labels can be missing
            raise UserError(
                "data.split.validation: no delay is observed at the instants of data.grid, so no epoch can be the "
                "best; name dates with observations, or correct data.grid and data.timezone"
            )
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
    """Keeps one file of a fixed name. A training resumed on another machine or in another folder keeps the best score.

    The last epoch has its own callback, because Lightning's `save_last` skips epochs that are no new best.
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
    """Writes a checkpoint under a temporary name, and then renames it. Lightning would overwrite the previous one.

    A full disk or a kill while writing then costs one epoch and not the training.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        with atomic_path(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class CheckpointUpload(Checkpoint):
    """Copies the checkpoints of each epoch to MLflow. Lightning runs a `Checkpoint` last, so the files are saved."""

    def __init__(self, run: RunLog, folder: Path, resumable: bool = True) -> None:
        self.run = run
        self.folder = folder
        # `last` comes last, so a reader that finds it finds the other files of the same epoch.
        self._names = (BEST, HISTORY, LAST) if resumable else (BEST, HISTORY)
        self._uploaded: dict[str, int] = {}
        self._owned = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.copy_changed()

    def copy_changed(self) -> None:
        """Copy the files written since the last call. The server shows a file only when it is complete."""
        for name in self._names:
            path = self.folder / name
            changed = path.stat().st_mtime_ns if path.is_file() else 0
            if changed and changed != self._uploaded.get(name):
                self.run.log_artifact(path, CHECKPOINTS)
                self._uploaded[name] = changed
        # A retry continues from `last` if the tag names its DAG run, so the tag waits until the server has the file.
        if not self._owned and self._names[-1] in self._uploaded:
            self.run.set_tags({CHECKPOINTS_OF: self.run.get_tag(AIRFLOW_RUN)})
            self._owned = True


class FreeMemory(Callback):
    """Gives freed memory back while a training on the CPU runs, since batches of other sizes come all the time."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cpu" and batch_idx % FREE_EVERY == FREE_EVERY - 1:
            give_back_free_memory()


class ProgressLines(Callback):
    """Logs progress: a line every few seconds, and one per epoch."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began, self._pace = time.monotonic(), Pace(self.every_s)
        self._first_step = trainer.global_step
        self._snapshots = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._snapshots += len(batch["instant"]) * trainer.world_size  # the processes have about equal shares
        if not trainer.is_global_zero or not self._pace.due():
            return
        elapsed = time.monotonic() - self._began
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
    """Lightning's MLflow logger, except that it leaves the run open: the DAG's last task closes it."""

    def __init__(self, config: Config, run_id: str) -> None:
        super().__init__(run_id=run_id, tracking_uri=config.training.mlflow.tracking_uri)
        self._mlflow_client = connect(config)  # Lightning's own does not wait for a server that goes away
        self._config = config

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with mlflow_errors(self._config):
            super().log_metrics(metrics, step)

    def finalize(self, status: str = "success") -> None:
        del status

    def log_hyperparams(self, params: Any) -> None:
        del params  # the run has had the whole configuration since it was opened


def read_history(path: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = read_json(path)
    return rows
