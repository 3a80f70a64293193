"""Speed of training: the share of waiting for data, and a comparison with plain PyTorch of the same size.

    .venv/bin/python benchmarks/speed/bench_training.py            # a simulated railway
    .venv/bin/python benchmarks/speed/bench_training.py FOLDER     # event tables of your own

1. The share of Lightning's training loop that waits for the next batch, when the same process builds the snapshots.
2. A step of our network (forward, loss, backward, clipped gradients, AdamW), compared with plain PyTorch on tensors in
   memory:
   - *plain*: `nn.TransformerEncoder` of the same width, heads, layers, feedforward and dropout, with padding, and our
     head for every next event with `nn.Dropout`. It has as many weights as our network.
   - *plain, bare encoder*: that encoder alone. It has no head, does less than half of the arithmetic, and does not read
     the inputs of an event.

   Both are also timed without dropout. PyTorch applies dropout to attention weights, which rules out the fused
   attention kernel. Our network has one member here. With more members, a step takes proportionally longer, and the
   share of 1 gets smaller.
3. Changes that could make our step faster, each compared with the step as it is. They have no targets.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.pairs import Times, take_turns
from benchmarks.speed.railways import Railway, count_trains, railway
from benchmarks.speed.steps import TrainingSteps
from transformer.config import ModelConfig, with_values
from transformer.data.event_table import Int64Array
from transformer.features.batches import Batch
from transformer.model.member import Member
from transformer.training.datamodule import SnapshotDataModule

MOST_WAITING = 0.10  # highest allowed share of the training loop
LEAST_RATIO = 0.9  # lowest allowed ratio of our snapshots/s to those of plain PyTorch with the same dropout
PLAIN, BARE = "plain", "plain, bare encoder"
STEPS = 8  # batches per turn
ROUNDS = 5


class PlainEncoder(nn.Module):
    """The simplest network: a linear layer, `nn.TransformerEncoder` with PyTorch's defaults, and a linear layer."""

    def __init__(self, config: ModelConfig, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(n_inputs, config.d_model)
        layer = nn.TransformerEncoderLayer(
            config.d_model, config.n_heads, config.d_feedforward, config.dropout, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(config.d_model, n_outputs)

    def forward(self, batch: Batch) -> Tensor:
        """One number per train and next event [B, S, F], from `tokens` [B, S, n_inputs] and `train_mask` [B, S]."""
        x_BSD = self.encoder(self.embedding(batch["tokens"]), src_key_padding_mask=~batch["train_mask"])
        predicted_BSF: Tensor = self.head(x_BSD)
        return predicted_BSF


class PlainNetwork(nn.Module):
    """The layers of our member, with padding: `PlainEncoder`, and a head that reads each event."""

    def __init__(self, member: Member, config: ModelConfig) -> None:
        super().__init__()
        n_inputs, n_event = member.token[0].in_features, member.head_event.in_features
        self.token = nn.Sequential(nn.Linear(n_inputs, config.d_model), nn.GELU())
        self.encoder = PlainEncoder(config, config.d_model, config.d_head)
        self.head_event = nn.Linear(n_event, config.d_head)
        self.head = nn.Sequential(
            nn.GELU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.d_head, config.d_head),
            nn.GELU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.d_head, member.head_out.out_features),
        )

    def forward(self, batch: Batch) -> Tensor:
        """One number per train and next event [B, S, F], from `tokens` [B, S, *] and `events` [B, S, F, *]."""
        context_BSH = self.encoder({**batch, "tokens": self.token(batch["tokens"])})
        predicted_BSF: Tensor = self.head(context_BSH[..., None, :] + self.head_event(batch["events"])).mean(-1)
        return predicted_BSF


def main(folder: str | None = None) -> int:
    with railway(folder, overrides=["training.snapshots_per_epoch=256", "model.n_members=1"]) as network:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        share = waiting_share(network)
        print(f"waiting for data: {share:.1%} of the training loop (at most {MOST_WAITING:.0%})")
        size = network.config.training.batch_size
        instants = network.random_instants(STEPS * size)
        batches = network.batches(network.builder("train"), instants, size)
        ratio = against_plain(network, batches)
        what_helps(network, instants, batches)
    return 0 if share <= MOST_WAITING and ratio >= LEAST_RATIO else 1


def waiting_share(network: Railway) -> float:
    """Return the share of an epoch's steps that Lightning's loop waits for the next batch."""
    profiler = SimpleProfiler()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        profiler=profiler,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network.module(), SnapshotDataModule(network.config, network.split, network.statistics))
    waiting = sum(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"])
    return waiting / (waiting + sum(profiler.recorded_durations["run_training_batch"]))


def against_plain(network: Railway, batches: list[Batch]) -> float:
    """Return our snapshots/s divided by those of PLAIN or BARE with the same dropout, whichever trains faster."""
    config, (member,) = network.config.model, network.module().network.members
    n_inputs, n_outputs = inputs_per_train(batches[0]), batches[0]["label"].shape[-1]
    d_token, d_event = member.token[0].in_features, member.head_event.in_features
    tokens = [{**batch, "tokens": torch.randn(*batch["train_mask"].shape, n_inputs)} for batch in batches]
    both = [
        {
            **batch,
            "tokens": torch.randn(*batch["train_mask"].shape, d_token),
            "events": torch.randn(*batch["label"].shape, d_event),
        }
        for batch in batches
    ]
    contestants = {"ours": TrainingSteps(network.module(), batches)}
    without_dropout = config.model_copy(update={"dropout": 0.0, "head_dropout": 0.0})
    for kind, settings in {"": config, ", no dropout": without_dropout}.items():
        contestants[PLAIN + kind] = TrainingSteps(PlainNetwork(member, settings), both)
        contestants[BARE + kind] = TrainingSteps(PlainEncoder(settings, n_inputs, n_outputs), tokens)
    times = take_turns(contestants, ROUNDS)
    print(f"ours: {snapshots_per_second(times, 'ours', batches):.0f} snapshots/s, {count_weights(member):,} weights")
    for name, steps in list(contestants.items())[1:]:
        print(
            f"{name}: {snapshots_per_second(times, name, batches):.0f} snapshots/s, "
            f"{count_weights(steps.network):,} weights; ours trains {times.ratio(name, 'ours'):.2f} times as fast"
            + (f" (at least {LEAST_RATIO})" if name in (PLAIN, BARE) else "")
        )
    return min(times.ratio(name, "ours") for name in (PLAIN, BARE))


def what_helps(network: Railway, instants: Int64Array, batches: list[Batch]) -> None:
    """Print how many times as fast the same steps are with each change."""
    builder, size = network.builder("train"), network.config.training.batch_size
    fuller = instants[np.argsort(count_trains(builder, instants), kind="stable")]
    model = network.config.model
    fewer_heads = replace(
        network, config=with_values(network.config, {"model.n_heads": model.n_heads // 2}, "fewer heads")
    )
    changes: dict[str, Callable[[], object]] = {
        "sorted by number of trains": TrainingSteps(network.module(), network.batches(builder, fuller, size)),
        "AdamW fused": TrainingSteps(network.module(), batches, fused=True),
        "bf16 autocast": TrainingSteps(network.module(), batches, autocast=torch.bfloat16),
        f"{model.n_heads // 2} heads": TrainingSteps(fewer_heads.module(), batches),
    }
    if torch.get_num_threads() > 1:
        changes["1 thread"] = TrainingSteps(network.module(), batches, threads=1)
    if shutil.which("g++"):
        changes["torch.compile"] = TrainingSteps(torch.compile(network.module(), dynamic=True), batches)
    trains, pairs = padding(batches)
    print(f"padding: {trains:.0%} of the trains, {pairs:.0%} of the pairs of trains")
    times = take_turns({"as it is": TrainingSteps(network.module(), batches), **changes}, ROUNDS)
    print("what would help (no targets):")
    for name in changes:
        print(f"  {name}: {times.ratio('as it is', name):.2f} times as fast")


def inputs_per_train(batch: Batch) -> int:
    """Return how many numbers a batch holds for each train, without labels."""
    return sum(
        math.prod(values.shape[2:]) for name, values in batch.items() if values.ndim >= 2 and "label" not in name
    )


def count_weights(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


def padding(batches: list[Batch]) -> tuple[float, float]:
    """Return the share of padding in the trains of the batches, and in the pairs of trains that attention computes."""
    slots = sum(batch["train_mask"].numel() for batch in batches)
    pairs = sum(batch["train_mask"].numel() * batch["train_mask"].shape[1] for batch in batches)
    counts = torch.cat([batch["train_mask"].sum(1) for batch in batches]).double()
    return 1 - float(counts.sum()) / slots, 1 - float(counts.square().sum()) / pairs


def snapshots_per_second(times: Times, name: str, batches: list[Batch]) -> float:
    return sum(len(batch["instant"]) for batch in batches) / times.median_ms(name) * 1e3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
