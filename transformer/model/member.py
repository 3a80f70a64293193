"""One member of the network: an encoder over the trains of a snapshot, and a head over the next events of each train.

Legend of dimensions: B snapshots, S trains of the fullest snapshot, D = d_model, H = d_head, K bins of the change of a
delay; without padding, T trains of all snapshots and C next events of all trains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformer.config import ModelConfig
from transformer.model.dropout import ByteDropout


class Member(nn.Module):
    """Reads trains and events, and scores the bins of each event's change of delay, see `distribution`."""

    def __init__(self, config: ModelConfig, d_token: int, d_event: int, n_foll: int, prior: Tensor) -> None:
        """
        Args:
            prior: scores [K] with untrained weights.
        """
        super().__init__()
        self.token = nn.Sequential(
            nn.Linear(d_token, config.d_model), nn.GELU(), nn.Linear(config.d_model, config.d_model)
        )
        self.encoder = nn.ModuleList([EncoderLayer(config) for _ in range(config.n_layers)])
        self.encoder_norm = nn.LayerNorm(config.d_model)
        # One head for every next event reads the train in its snapshot (context) and this event.
        self.head_context = nn.Linear(config.d_model, config.d_head)
        self.head_event = nn.Linear(d_event, config.d_head, bias=False)
        self.head_rank = nn.Parameter(torch.zeros(n_foll, config.d_head))
        self.head_hidden = nn.Linear(config.d_head, config.d_head)
        self.head_out = nn.Linear(config.d_head, len(prior))
        self.head_dropout = ByteDropout(config.head_dropout)
        nn.init.zeros_(self.head_out.weight)
        with torch.no_grad():
            self.head_out.bias.copy_(prior)

    def forward(
        self,
        token_TX: Tensor,
        event_CX: Tensor,
        around_CX: Tensor,
        cells: tuple[Tensor, Tensor],
        present_BS: Tensor,
    ) -> Tensor:
        """Scores [C, K] of the bins.

        Args:
            token_TX: inputs of each train.
            event_CX: inputs of each next event.
            around_CX: further inputs of each, which no learned weights have made.
            cells: the train and the rank of each next event, both [C].
            present_BS: the slots of the snapshots that hold the T trains.
        """
        x_TD = self.token(token_TX)
        for layer in self.encoder:
            x_TD = layer(x_TD, present_BS)
        train, rank = cells
        context_TH = self.head_context(self.encoder_norm(x_TD))
        context_CH = context_TH.index_select(0, train) + self.head_rank.index_select(0, rank)
        # Two products, since the further inputs need no gradient.
        weight, first = self.head_event.weight, event_CX.shape[1]
        event_CH = nn.functional.linear(event_CX, weight[:, :first])
        event_CH = event_CH + nn.functional.linear(around_CX, weight[:, first:])
        hidden = self.head_dropout(nn.functional.gelu(context_CH + event_CH))
        hidden = self.head_dropout(nn.functional.gelu(self.head_hidden(hidden)))
        scores: Tensor = self.head_out(hidden)
        return scores


class EncoderLayer(nn.Module):
    """One pre-norm transformer layer. Source: Xiong et al. 2020, arXiv 2002.04745.

    Dropout acts on the two residual branches and not on the attention weights. On the attention weights it would keep
    the fused attention kernel from running on a CPU, and a step would take twice as long.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.norm_attention = nn.LayerNorm(config.d_model)
        self.query_key_value = nn.Linear(config.d_model, 3 * config.d_model)
        self.attention_out = nn.Linear(config.d_model, config.d_model)
        self.norm_feedforward = nn.LayerNorm(config.d_model)
        self.feedforward = nn.Sequential(
            nn.Linear(config.d_model, config.d_feedforward), nn.GELU(), nn.Linear(config.d_feedforward, config.d_model)
        )
        self.dropout = ByteDropout(config.dropout)

    def forward(self, x_TD: Tensor, present_BS: Tensor) -> Tensor:
        """Let each train attend to the trains of its snapshot."""
        # Not `view`, which cannot infer the last size if there is no train.
        heads = self.query_key_value(self.norm_attention(x_TD)).unflatten(-1, (3, self.n_heads, -1))
        seen_TD = _attend(heads, present_BS).flatten(1)
        x_TD = x_TD + self.dropout(self.attention_out(seen_TD))
        x_TD = x_TD + self.dropout(self.feedforward(self.norm_feedforward(x_TD)))
        return x_TD


def _attend(heads: Tensor, present_BS: Tensor) -> Tensor:
    """Attention within each snapshot: query, key and value [T, 3, heads, D / heads] → [T, heads, D / heads]."""
    if heads.device.type == "cpu":
        return attend_in_turn(heads, present_BS)
    return attend_padded(heads, present_BS)


def attend_in_turn(heads: Tensor, present_BS: Tensor) -> Tensor:
    """Attention for a CPU: one snapshot after the other, without any computation for padding."""
    parts = [part for part in torch.split(heads, present_BS.sum(1).tolist()) if len(part)]
    if not parts:
        return heads[:, 0]
    seen = [nn.functional.scaled_dot_product_attention(*part.permute(1, 2, 0, 3)[:, None]) for part in parts]
    return torch.cat([part[0].transpose(0, 1) for part in seen])


def attend_padded(heads: Tensor, present_BS: Tensor) -> Tensor:
    """Attention for a GPU: all snapshots at once, padded to the fullest."""
    padded = heads.new_zeros(*present_BS.shape, *heads.shape[1:])
    padded[present_BS] = heads
    # A snapshot without any train needs keys to attend to, or softmax divides by zero.
    attend_B11S = (present_BS | ~present_BS.any(dim=1, keepdim=True))[:, None, None]
    query, key, value = padded.permute(2, 0, 3, 1, 4)
    seen_BhSd = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attend_B11S)
    return seen_BhSd.transpose(1, 2)[present_BS]
