"""Dropout that draws one random byte per unit. PyTorch's own dropout costs a fifth of a training step on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BYTES = 8  # bytes of a random word
_VALUES = 256  # values of a byte


class ByteDropout(nn.Module):
    """`nn.Dropout`, with `p` in steps of 1/256 on a CPU. On other devices it is PyTorch's own, fused dropout."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped = min(round(p * _VALUES), _VALUES - 1)  # values of a byte that drop its unit

    def forward(self, x: Tensor) -> Tensor:
        """Set each unit to 0 with probability `p`, else scale it to keep its expectation; in evaluation return `x`."""
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p, self.training)
        if not self.training or not self.dropped:
            return x
        # By default `random_` leaves the sign bit 0, so every eighth byte would be below 128.
        words = torch.empty(-(-x.numel() // _BYTES), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * kept.to(x.dtype).mul_(_VALUES / (_VALUES - self.dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
