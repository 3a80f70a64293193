"""Training: the Lightning Trainer, its callbacks, warm start and resume."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, TQDMProgressBar

from transformer.config import Config, TrainingConfig
from transformer.data.dates import Split
from transformer.errors import Terminated, UserError
from transformer.features.cache import Embeddings
from transformer.features.embeddings import extend
from transformer.features.reading import joint_edges, joint_profile, obtain_readings
from transformer.features.statistics import Statistics
from transformer.files import writing
from transformer.model.module import DelayModule, input_scales
from transformer.model.network import NetworkShape
from transformer.text import first_line
from transformer.tracking.names import CONFIG_ARTIFACT
from transformer.tracking.run_log import RunLog
from transformer.training.callbacks import (
    MONITORED,
    CheckpointUpload,
    FixedCheckpoint,
    FreeMemory,
    History,
    ProgressLines,
    RunLogger,
    WholeCheckpoints,
)
from transformer.training.checkpoints import BEST, CHECKPOINTS, HISTORY, LAST, load_weights
from transformer.training.datamodule import SnapshotDataModule
from transformer.training.processes import TrainingProcesses
from transformer.training.resume import data_identity, refuse_changes, refuse_unfit, training_identity
from transformer.training.run_folder import INPUTS, TrainingInputs
from transformer.training.termination import Termination

log = logging.getLogger(__name__)
# Lightning sets its own logger to INFO when imported, but a task log shows the pipeline's lines.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # snapshots need no workers
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # Lightning 2.6 on torch 2.13
warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")  # true of every retry
warnings.filterwarnings(
    "ignore", message=".*It is recommended to use `self.log\\('val/.*sync_dist=True.*"
)  # synced already


@dataclass(frozen=True)
class TrainingResult:
    best_val_mae_s: float
    val_translation_mae_s: float
    epochs: int
    seconds: float
    is_global_zero: bool = True  # False in the processes that leave it to the first one to write into the MLflow run

    @property
    def best_val_skill(self) -> float:
        return _skill(self.best_val_mae_s, self.val_translation_mae_s)


def best_epoch_metrics(mae_s: float, translation_mae_s: float) -> dict[str, float]:
    """Metrics of the best epoch for an MLflow run: validation MAE of the model and of translation, and skill."""
    return {
        "val/best_mae_s": mae_s,
        "val/best_translation_mae_s": translation_mae_s,
        "val/best_skill": _skill(mae_s, translation_mae_s),
    }


def _skill(mae_s: float, translation_mae_s: float) -> float:
    return 1 - mae_s / translation_mae_s if translation_mae_s else 0.0


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
    """Train, and write `best.ckpt`, `last.ckpt` and `history.json` to `folder/checkpoints` and to the MLflow run.

    The inputs of the training are written to both before the first epoch, so every checkpoint has its inputs.

    Args:
        warm_start: checkpoint whose weights the training begins with.
        resume: `last.ckpt` of the training to continue, with its optimizer, epoch and random numbers.
        callbacks: more callbacks; they run after the epoch's row is in the history, before its checkpoint is saved.
        resumable: copy `last.ckpt` to the MLflow run too.

    Raises:
        UserError: a checkpoint does not fit, the hardware is missing, or the training diverges.
    """
    training = config.training
    L.seed_everything(training.seed, workers=True, verbose=False)
    data = SnapshotDataModule(config, split, statistics)
    module = create_module(config, split, statistics, embeddings)
    if warm_start is not None:
        load_weights(module, warm_start, embeddings.edges)
    identity = training_identity(config, split)
    if resumable:
        identity |= data_identity(config, split)
    if resume is not None:
        if not training.allow_changes_on_resume:
            refuse_changes(identity, resume)
        refuse_unfit(module, resume)
    target = folder / CHECKPOINTS
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    history = History(target / HISTORY, identity)
    upload = CheckpointUpload(run, target, resumable)
    processes, termination = TrainingProcesses(), Termination()
    trainer = _trainer(config, run, [history, *callbacks, termination, FreeMemory()], upload, processes)
    if trainer.is_global_zero:
        reference = joint_profile(obtain_readings(config.data, split.train, Path(config.paths.cache)))
        TrainingInputs(config, split, statistics, embeddings, reference).save(folder)
        run.log_artifact(folder / CONFIG_ARTIFACT, str(Path(CONFIG_ARTIFACT).parent))
        run.log_artifacts(folder / INPUTS, INPUTS)
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
    processes.await_first_node(_rendezvous_s(config))
    try:
        with termination.watching(trainer):
            trainer.fit(module, data, ckpt_path=str(resume) if resume else None, weights_only=True)
    except Terminated:
        if trainer.is_global_zero:
            upload.copy_changed()
        log.info("terminated after %d complete epochs; a resume or retry continues from there", len(history.rows))
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not history.rows:
        raise UserError(f"training.max_epochs={training.max_epochs} epochs are done already; raise it to train more")
    best = min(history.rows, key=lambda row: row["val_mae_s"])
    return TrainingResult(
        best_val_mae_s=best["val_mae_s"],
        val_translation_mae_s=best["val_translation_mae_s"],
        epochs=len(history.rows),
        seconds=time.monotonic() - began,
        is_global_zero=trainer.is_global_zero,
    )


def create_module(config: Config, split: Split, statistics: Statistics, embeddings: Embeddings) -> DelayModule:
    """An untrained module for these inputs."""
    vocabulary = statistics.vocabulary
    timetable = joint_edges(obtain_readings(config.data, split.validation, Path(config.paths.cache)))
    points = extend(embeddings.points, timetable)
    shape = NetworkShape(
        n_prev=config.data.snapshot.n_prev,
        n_foll=config.data.snapshot.n_foll,
        train_types=list(vocabulary.train_types),
        op_ids=vocabulary.op_ids.tolist(),
        embedding_dims={kind: vectors.shape[1] for kind, vectors in points.vectors.items()},
        scales=input_scales(statistics, float(config.data.reporting_delay_s)),
    )
    vectors = torch.from_numpy(points.matrix(vocabulary.op_ids))
    return DelayModule.create(config.model, config.training, shape, vectors)


def _rendezvous_s(config: Config) -> float:
    """The time by which one node may start later than another: its machine is found and starts the container."""
    return config.compute.kubernetes.schedule_timeout_s + config.compute.kubernetes.startup_timeout_s


def _trainer(
    config: Config, run: RunLog, callbacks: list[Callback], upload: CheckpointUpload, processes: TrainingProcesses
) -> L.Trainer:
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
            num_nodes=processes.nodes,
            strategy=processes.strategy(training.strategy, _rendezvous_s(config)),
            precision=_precision(training),
            max_epochs=training.max_epochs,
            gradient_clip_val=training.gradient_clip_norm or None,
            callbacks=callbacks,
            logger=logger,
            plugins=[WholeCheckpoints(), processes],
            log_every_n_steps=1,
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data module divides each batch among the processes itself
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
    given = (training.accelerator, training.devices, training.strategy)
    remedy = "set training.accelerator=cpu and training.devices=1" if set(given) == {"auto"} else "use auto"
    return (
        f"training.accelerator={training.accelerator}, devices={training.devices}, strategy={training.strategy} "
        f"is not available here ({first_line(error)}); {remedy}"
    )


def _precision(training: TrainingConfig) -> Any:
    if training.precision != "auto":
        return training.precision
    if training.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return "32-true"
