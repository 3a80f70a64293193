"""Dropout that draws one random byte for each unit: on a CPU PyTorch's own costs a fifth of a training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BYTES = 8  # of a random word
_VALUES = 256  # of a byte


class ByteDropout(nn.Module):
    """`nn.Dropout`, with `p` in steps of 1/256 on a CPU; elsewhere PyTorch's own, fused, draws the units itself."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped = min(round(p * _VALUES), _VALUES - 1)  # values of a byte that drop its unit

    def forward(self, x: Tensor) -> Tensor:
        """Each unit 0 with probability `p`, else scaled to keep its expectation; in evaluation mode `x` itself."""
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p, self.training)
        if not self.training or not self.dropped:
            return x
        # `random_` alone leaves the sign bit 0, and with it every eighth byte below 128.
        words = torch.empty(-(-x.numel() // _BYTES), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * kept.to(x.dtype).mul_(_VALUES / (_VALUES - self.dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
