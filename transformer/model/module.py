"""The Lightning module: loss, validation metrics, optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from transformer.config import ModelConfig, TrainingConfig, from_dict, to_dict
from transformer.features.batches import Batch
from transformer.features.statistics import Statistics
from transformer.model.calibration import QuantileCalibration, trusted
from transformer.model.copula import RankCorrelation
from transformer.model.losses import distribution_loss
from transformer.model.network import DelayTransformer, NetworkShape


def input_scales(statistics: Statistics, reporting_delay_s: float = 0.0) -> dict[str, float]:
    """Divisors of the inputs: stds (s) and the mean number of running trains. Also two properties of the observations.

    These are the resolution of delays, and the time after which an observation is known, both in seconds.
    """
    return {
        "delay": statistics.inputs["delay"].std,
        "change": statistics.inputs["change"].std,
        "running_trains": max(statistics.inputs["running_trains"].mean, 1.0),
        "resolution": float(max(statistics.resolution_s, 1)),
        "known_after": reporting_delay_s,
    }


class DelayModule(LightningModule):
    """Trains a DelayTransformer. Its checkpoints hold everything needed to predict, with scales and embeddings."""

    def __init__(
        self,
        model: dict[str, Any],
        training: dict[str, Any],
        shape: dict[str, Any],
        point_vectors: Tensor | None = None,
    ) -> None:
        """The arguments are plain dictionaries, so that a checkpoint loads with `weights_only=True`."""
        super().__init__()
        self.save_hyperparameters("model", "training", "shape")
        self.training_config = from_dict(TrainingConfig, training, "training")
        self.network = DelayTransformer(from_dict(ModelConfig, model, "model"), NetworkShape(**shape), point_vectors)
        self.val_mae = MeanMetric()
        self.val_translation_mae = MeanMetric()
        self.val_calibration = QuantileCalibration(self.network.levels)
        self.val_correlation = RankCorrelation(self.network.levels, self.network.shape.n_foll)
        self.val_dates: set[int] = set()  # local days with labels, since 1970; every process has a share of each date

    @classmethod
    def create(
        cls, model: ModelConfig, training: TrainingConfig, shape: NetworkShape, point_vectors: Tensor
    ) -> DelayModule:
        return cls(to_dict(model), to_dict(training), shape.as_dict(), point_vectors)

    def forward(self, batch: Batch) -> Tensor:
        """Predicted delays in seconds [B, S, F]."""
        predicted: Tensor = self.network(batch)
        return predicted

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted delays [B, S, F] and their calibrated quantiles [B, S, F, Q], seconds."""
        predicted: tuple[Tensor, Tensor] = self.network.predict(batch)
        return predicted

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout depends only on the step's number, so a resumed training equals an uninterrupted one.
        torch.manual_seed(hash((self.training_config.seed, self.global_step, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        del batch_index
        changes = self.network.changes(batch)
        labelled = batch["label_mask"][changes.exists]
        change = changes.observed(batch["label"])[labelled]
        loss = distribution_loss(
            self.training_config.loss, self.network.bins, changes.log_probability[labelled], change
        ) * self._share_of_labels(batch["label_mask"])
        # Each process has the same weight, so the mean over processes and steps is the mean over whole steps.
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def _share_of_labels(self, mask: Tensor) -> Tensor | float:
        """Number of labels / mean number per process. With it, averaged gradients equal those of one process."""
        if self.trainer.world_size == 1:
            return 1.0
        count = mask.sum()
        return count * self.trainer.world_size / self.trainer.strategy.reduce(count, reduce_op="sum").clamp(min=1)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        del batch_index
        mask = batch["label_mask"]
        label = batch["label"][mask]
        if label.numel() == 0:
            return
        quantiles, planned = self.network.quantiles(batch), batch["next_planned"]
        self.val_mae.update((self.network.point(quantiles, planned)[mask] - label).abs())
        self.val_dates.update(batch["local_day"][mask.flatten(1).any(1)].tolist())
        self.val_calibration.update(quantiles[mask], label, planned[mask])
        self.val_correlation.update(quantiles, batch["label"], mask)
        translation = batch["translation"][..., None].expand_as(batch["label"])[mask]
        self.val_translation_mae.update((translation - label).abs())

    def on_validation_epoch_end(self) -> None:
        mae, translation = self.val_mae.compute(), self.val_translation_mae.compute()
        self.val_mae.reset()
        self.val_translation_mae.reset()
        self.network.correction.copy_(trusted(self.val_calibration.compute(), len(self.val_dates)))
        self.val_calibration.reset()
        self.network.rank_correlation.copy_(self.val_correlation.compute())
        self.val_correlation.reset()
        self.val_dates.clear()
        self.log("val/mae_s", mae, prog_bar=True)
        self.log("val/translation_mae_s", translation)
        self.log("val/skill", 1 - mae / translation.clamp(min=1e-9), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config = self.training_config
        decayed = [p for p in self.parameters() if p.ndim >= 2]
        plain = [p for p in self.parameters() if p.ndim < 2]  # biases and norms get no weight decay
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
        )
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(config, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _schedule(config: TrainingConfig, total: int) -> Any:
    """Share of the learning rate at each step: linear warm-up, then half a cosine to zero; or constant."""
    warmup = max(round(config.scheduler.warmup_share * total), 1)

    def share(step: int) -> float:
        if config.scheduler.name == "constant":
            return 1.0
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))

    return share
