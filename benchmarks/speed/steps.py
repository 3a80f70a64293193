"""Training steps and predictions to time, on batches in memory and on any device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from transformer.features.batches import Batch


@dataclass
class TrainingSteps:
    """One training step of `network` on each of `batches`: forward, loss, backward, clipped gradients, AdamW."""

    network: nn.Module
    batches: list[Batch]
    autocast: torch.dtype | None = None
    fused: bool | None = None  # AdamW; None = PyTorch decides
    threads: int = field(default_factory=torch.get_num_threads)

    def __post_init__(self) -> None:
        self.network.train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), fused=self.fused)

    def __call__(self) -> None:
        usual = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        for batch in self.batches:
            loss_of(self.network, batch, self.autocast).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        torch.set_num_threads(usual)
        wait_for(self.batches[0])


def loss_of(network: nn.Module, batch: Batch, autocast: torch.dtype | None = None) -> Tensor:
    """Return the mean absolute error in minutes over the observed events."""
    mask = batch["label_mask"]
    with torch.autocast(mask.device.type, autocast, enabled=autocast is not None):
        predicted = network(batch)
    return nn.functional.l1_loss(predicted.float()[mask] / 60, batch["label"][mask] / 60)


def predict(network: nn.Module, batch: Batch, autocast: torch.dtype | None = None) -> Tensor:
    """Return the delays [B, S, F] that a network in evaluation mode predicts."""
    with (
        torch.inference_mode(),
        torch.autocast(batch["label"].device.type, autocast, enabled=autocast is not None),
    ):
        predicted: Tensor = network(batch)
    wait_for(batch)
    return predicted


def wait_for(batch: Batch) -> None:
    """Wait until the device has finished. A GPU returns before it has computed."""
    if batch["label"].is_cuda:
        torch.cuda.synchronize()
