"""The network: a transformer encoder over the trains of a snapshot.

Each train is one token; there is no positional encoding, so the trains form a set and the prediction of one does not
depend on the order of the others. Source: "Transformers à Grande Vitesse", arXiv 2105.08526.

Legend of dimensions: B snapshots, S trains, P = n_prev, F = n_foll, D = d_model, E = d_point, K event features.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from transformer.config import ModelConfig
from transformer.data.tables import EVENT_TYPES
from transformer.statistics import FEATURES, HISTORY_FEATURES, SECTION_FEATURES

N_EVENT_TYPES = len(EVENT_TYPES) + 1  # 0 = padding
TIME_SCALE_S = 600.0  # ten minutes: where times to and from events begin to be compressed


@dataclass(frozen=True)
class NetworkShape:
    """What the network needs to know of the data beside its configuration, and what its integer codes mean."""

    n_prev: int
    n_foll: int
    train_types: list[str]  # code = position + 1; 0 = unknown
    op_ids: list[int]  # code = position + 1; 0 = unknown
    embedding_dims: dict[str, int]  # of each kind of point embedding, in their order
    scales: dict[str, float] = field(default_factory=dict)  # what inputs are divided by, see `input_scales`

    @property
    def n_train_types(self) -> int:
        return len(self.train_types) + 1

    @property
    def n_points(self) -> int:
        return len(self.op_ids) + 1

    @property
    def d_embedding(self) -> int:
        return sum(self.embedding_dims.values())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class DelayTransformer(nn.Module):
    """Predicts the delay of each train at each of its next events.

    `forward` takes the tensors of a SnapshotBatch and returns delays in seconds [B, S, F]. `correction` is what it adds
    to the translation baseline; with untrained weights it is zero.
    """

    point_vectors: Tensor  # [points, embedding] a buffer: row 0 is the unknown point

    def __init__(self, config: ModelConfig, shape: NetworkShape, point_vectors: Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.use = config.use_inputs
        self.scales = shape.scales
        self.round_to_s = shape.scales["resolution"] if config.round_predictions else 0.0
        vectors = point_vectors if point_vectors is not None else torch.zeros(shape.n_points, shape.d_embedding)
        if vectors.shape != (shape.n_points, shape.d_embedding):
            raise ValueError(f"point vectors {tuple(vectors.shape)}, expected {(shape.n_points, shape.d_embedding)}")
        self.register_buffer("point_vectors", vectors.float())
        self.point_projection = nn.Linear(max(shape.d_embedding, 1), config.d_point, bias=False)
        d_event = self._event_size(config.d_point)
        self.token = nn.Sequential(
            nn.Linear(self._token_size(config.d_point), config.d_model),
            nn.GELU(),
            nn.Linear(config.d_model, config.d_model),
        )
        self.encoder = nn.ModuleList([EncoderLayer(config) for _ in range(config.n_layers)])
        self.encoder_norm = nn.LayerNorm(config.d_model)
        d_head = config.d_model // 2
        # One head for every next event: what the train and the network are like, and what this event is like.
        self.head_context = nn.Linear(config.d_model, d_head)
        self.head_event = nn.Linear(d_event, d_head, bias=False)
        self.head_rank = nn.Parameter(torch.zeros(shape.n_foll, d_head))
        self.head_hidden = nn.Linear(d_head, d_head)
        self.head_out = nn.Linear(d_head, 1)
        nn.init.zeros_(self.head_out.weight)
        nn.init.zeros_(self.head_out.bias)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Predicted delays in seconds [B, S, F]; none lies in the past of the snapshot's instant."""
        delay = batch["translation"][..., None] + self.correction(batch)
        if self.round_to_s:
            delay = torch.round(delay / self.round_to_s) * self.round_to_s
        return not_in_the_past(delay, batch["next_planned"])

    def correction(self, batch: dict[str, Tensor]) -> Tensor:
        """Seconds to add to the translation of each next event [B, S, F]; 0 where there is no train or event."""
        points_PE, points_FE = self._points(batch)
        events_BSFE = self._events(batch, points_FE)
        x_BSD = self.token(self._tokens(batch, points_PE, events_BSFE))
        attend_B11S = batch["train_mask"][:, None, None]
        # A snapshot without any train still needs one key to attend to, or softmax divides by zero.
        attend_B11S = attend_B11S | ~attend_B11S.any(dim=-1, keepdim=True)
        for layer in self.encoder:
            x_BSD = layer(x_BSD, attend_B11S)
        x_BSD = self.encoder_norm(x_BSD)
        hidden = self.head_context(x_BSD)[:, :, None] + self.head_event(events_BSFE) + self.head_rank
        hidden = self.head_hidden(nn.functional.gelu(hidden))
        correction_BSF: Tensor = self.head_out(nn.functional.gelu(hidden))[..., 0] * self.scales["change"]
        return correction_BSF * batch["next_mask"]

    # --- inputs ------------------------------------------------------------------------------------------------------
    def _event_size(self, d_point: int) -> int:
        use = self.use
        return (
            1
            + 3 * use.following_times
            + d_point * use.following_points
            + N_EVENT_TYPES * use.event_types
            + len(SECTION_FEATURES) * use.section_statistics
            + len(HISTORY_FEATURES) * use.train_history
        )

    def _token_size(self, d_point: int) -> int:
        use, shape = self.use, self.shape
        per_past = 1 + 2 * use.past_delays + d_point * use.past_points + N_EVENT_TYPES * use.event_types
        per_train = (
            3
            + shape.n_train_types * use.train_type
            + (4 + 7) * use.calendar
            + (shape.n_train_types + 2) * use.network_load
        )
        return shape.n_prev * per_past + shape.n_foll * self._event_size(d_point) + per_train

    def _points(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Projected point embeddings of past [B, S, P, E] and next [B, S, F, E] events."""
        vectors = self.point_vectors if self.shape.d_embedding else self.point_vectors.new_zeros(self.shape.n_points, 1)
        projected = self.point_projection(vectors)
        return (
            nn.functional.embedding(batch["past_point"], projected),
            nn.functional.embedding(batch["next_point"], projected),
        )

    def _events(self, batch: dict[str, Tensor], points_BSFE: Tensor) -> Tensor:
        """What is known of each next event [B, S, F, *]; zero where there is none."""
        use, mask = self.use, batch["next_mask"][..., None]
        parts = [mask.float()]
        if use.following_times:
            planned = batch["next_planned"]
            expected = planned + batch["translation"][..., None]
            gap = torch.diff(planned, dim=-1, prepend=planned[..., :1])
            parts += [squash(time, TIME_SCALE_S)[..., None] for time in (planned, expected, gap)]
        if use.following_points:
            parts.append(points_BSFE)
        if use.event_types:
            parts.append(nn.functional.one_hot(batch["next_type"], N_EVENT_TYPES).float())
        for wanted, names in ((use.section_statistics, SECTION_FEATURES), (use.train_history, HISTORY_FEATURES)):
            if wanted:
                parts += [self._feature(batch, name)[..., None] for name in names]
        return torch.cat(parts, dim=-1) * mask

    def _feature(self, batch: dict[str, Tensor], name: str) -> Tensor:
        values = batch["next_features"][..., FEATURES.index(name)]
        if name == "history_weight":
            return values
        if name == "history_delay":  # against what is already known of the train
            values = values - batch["translation"][..., None]
        return squash(values, self.scales["change"])

    def _tokens(self, batch: dict[str, Tensor], points_BSPE: Tensor, events_BSFE: Tensor) -> Tensor:
        """Everything known of each train in one vector [B, S, *]."""
        use, mask_BSP = self.use, batch["past_mask"]
        past = [mask_BSP.float()[..., None]]
        if use.past_delays:
            past.append(squash(batch["past_delay"], self.scales["delay"])[..., None])
            past.append(squash(batch["past_observed"], TIME_SCALE_S)[..., None])
        if use.past_points:
            past.append(points_BSPE)
        if use.event_types:
            past.append(nn.functional.one_hot(batch["past_type"], N_EVENT_TYPES).float())
        past_BSX = (torch.cat(past, dim=-1) * mask_BSP[..., None]).flatten(2)
        delay_scale = self.scales["delay"]
        train = [
            batch["departed"].float()[..., None],
            squash(batch["translation"], delay_scale)[..., None],
            squash(batch["translation"] - batch["last_delay"], delay_scale)[..., None],
        ]
        kinds_BST = nn.functional.one_hot(batch["train_type"], self.shape.n_train_types).float()
        if use.train_type:
            train.append(kinds_BST)
        n_trains = batch["train_mask"].shape[1]
        network = []
        if use.calendar:
            angle = 2 * math.pi * batch["time_of_day"][:, None]
            network += [torch.sin(angle), torch.cos(angle), torch.sin(2 * angle), torch.cos(2 * angle)]
            network.append(nn.functional.one_hot(batch["day_of_week"], 7).float())
        if use.network_load:
            present = batch["train_mask"].float()
            count = present.sum(1, keepdim=True)
            per_type = (kinds_BST * present[..., None]).sum(1)
            mean_delay = (batch["translation"] * present).sum(1, keepdim=True) / count.clamp(min=1)
            load = torch.cat([count, per_type], dim=-1) / self.scales["running_trains"]
            network += [load, squash(mean_delay, delay_scale)]
        train += [part[:, None].expand(-1, n_trains, -1) for part in network]
        return torch.cat([past_BSX, events_BSFE.flatten(2), *train], dim=-1)


class EncoderLayer(nn.Module):
    """One pre-norm transformer layer. Source: Xiong et al. 2020, arXiv 2002.04745.

    Dropout acts on the two residual branches and not on the attention weights: with it there, no fused attention kernel
    runs on a CPU, and a step takes twice as long.
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
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor, attend_B11S: Tensor) -> Tensor:
        """Let each train look at the trains where `attend` is true [B, 1, 1, S]."""
        n_snapshots, n_trains, d_model = x_BSD.shape
        heads = self.query_key_value(self.norm_attention(x_BSD)).view(n_snapshots, n_trains, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attend_B11S)
        seen = seen.transpose(1, 2).reshape(n_snapshots, n_trains, d_model)
        x_BSD = x_BSD + self.dropout(self.attention_out(seen))
        x_BSD = x_BSD + self.dropout(self.feedforward(self.norm_feedforward(x_BSD)))
        return x_BSD


def squash(values: Tensor, scale: float) -> Tensor:
    """`asinh(values / scale)`: linear near zero, logarithmic beyond `scale`, so that rare huge delays stay readable."""
    return torch.asinh(values / scale)


def not_in_the_past(delay: Tensor, planned: Tensor) -> Tensor:
    """Raise predicted delays so that no event is expected before the snapshot's instant; seconds, [..., F] both."""
    return torch.maximum(delay, -planned)
