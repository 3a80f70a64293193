"""The attention weights of a forward pass: how much each train attends to each other train of its snapshot.

The fused kernels of the network return no weights. So hooks read the queries and keys of each layer during a normal
forward pass, and the weights are computed from them. Afterwards the hooks are removed. The network does not change.

Legend of dimensions: B snapshots, S trains of the fullest snapshot, T trains of all snapshots, M members, N layers,
H heads, d = D / H.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from transformer.features.batches import Batch
from transformer.model.member import EncoderLayer
from transformer.model.network import DelayTransformer


def attention_weights(network: DelayTransformer, batch: Batch) -> Tensor:
    """Return the weights [B, M, N, H, S, S] of a network in evaluation mode.

    Entry (i, j) is how much train i attends to train j. The row of a train sums to 1 over the trains of its snapshot.
    Rows and columns of padding are 0.
    """
    assert not network.training, "in training mode, dropout changes the layers at random"
    layers = [module for module in network.modules() if isinstance(module, EncoderLayer)]  # member by member
    present_BS = batch["train_mask"]
    weights: dict[int, Tensor] = {}

    def take(at: int, _module: nn.Module, _inputs: object, out_TX: Tensor) -> None:
        n_heads = layers[at].n_heads
        heads = out_TX.reshape(len(out_TX), 3, n_heads, out_TX.shape[1] // (3 * n_heads))
        weights[at] = _weights(heads, present_BS)

    with ExitStack() as hooks, torch.inference_mode():
        for at, layer in enumerate(layers):
            hooks.enter_context(layer.query_key_value.register_forward_hook(partial(take, at)))
        network.changes(batch)
    stacked = torch.stack([weights[at] for at in range(len(layers))], dim=1)
    n_members = len(network.members)
    return stacked.reshape(len(stacked), n_members, len(layers) // n_members, *stacked.shape[2:])


def _weights(heads: Tensor, present_BS: Tensor) -> Tensor:
    """Return softmax(query · key / √d) within each snapshot, [B, H, S, S]. `heads`: query, key, value [T, 3, H, d]."""
    padded = heads.new_zeros(*present_BS.shape, *heads.shape[1:])
    padded[present_BS] = heads
    query, key, _ = padded.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / math.sqrt(heads.shape[-1])
    absent = ~(present_BS[:, None, :, None] & present_BS[:, None, None, :])
    weights: Tensor = scores.masked_fill(absent, -math.inf).softmax(-1).masked_fill(absent, 0.0)
    return weights
