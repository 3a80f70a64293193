"""The network: a transformer encoder over the trains of a snapshot.

Each train is one token. There is no positional encoding, so the trains form a set, and the prediction of one train does
not depend on the order of the others. Source: "Transformers à Grande Vitesse", arXiv 2105.08526.

The network is an ensemble. Its `n_members` encoders and heads (`transformer.model.member`) read the same inputs and
learn independently; the predicted distribution is their mean. Padding is removed before the computation: it would be a
third of the trains, and half of the events and of the attention.

Legend of dimensions: B snapshots, S trains, P = n_prev, F = n_foll, E = d_point, M members, K bins of the change of a
delay, Q quantile levels, X columns of optional inputs. Without padding, T trains of all snapshots and C next events of
all trains.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from transformer.config import ModelConfig
from transformer.data.tables import EVENT_TYPES
from transformer.features.history import FEATURES, HISTORY_FEATURES, SECTION_FEATURES
from transformer.features.inputs.catalogue import input_columns
from transformer.features.live_state import (
    LIVE_FEATURES,
    LIVE_POINT_FEATURES,
    LIVE_SECTION_FEATURES,
    NEIGHBOUR_FEATURES,
)
from transformer.model.calibration import calibrated, no_correction
from transformer.model.coherence import coherent, earliest_delay
from transformer.model.copula import independent
from transformer.model.distribution import ChangeBins
from transformer.model.member import Member

N_EVENT_TYPES = len(EVENT_TYPES) + 1  # 0 = padding
HEADWAY_SCALE_S = 300.0  # divisor of the time between two trains
AGE_SCALE_S = 1_800.0  # divisor of the age of an observation
COUNT_SCALE = 3.0  # divisor of a number of trains
HEARD_OF_S = 900.0  # a train observed within this time was heard of lately
SILENT_S = 14_400.0  # age of the newest observation where there is none
MINUTE_S = 60.0  # divisor of times in the next minutes
FADING_S = 1_200.0  # inputs about the next minutes fade with the time until the event, by a factor e in this time
TIME_SCALE_S = 600.0  # divisor of times to and from events; `squash` compresses times beyond it
# The part of a train's history that its token reads. Only the head of the event reads the rest, and the live state: a
# token that read these of all next events would have half as many inputs again.
TOKEN_HISTORY = ("history_change", "history_delay", "history_weight")
TRAIN_INPUTS = (  # the tensors of a batch that belong to a train
    "train_type", "departed", "last_delay", "translation", "past_mask", "past_delay", "past_observed", "past_point",
    "past_type", "next_mask", "next_planned", "next_point", "next_type", "next_features", "next_live",
)  # fmt: skip
IMMINENCE_EDGES_MIN = (-60, -20, -10, -5, -3, -2, -1, 0, 1, 2, 3, 5, 8, 12, 20, 40)  # see `piecewise`
N_IMMINENCE = 7 * len(IMMINENCE_EDGES_MIN) + N_EVENT_TYPES + 1  # see `DelayTransformer._imminence`
HISTORY_DELAYS = ("history_delay", "history_median", "history_low", "history_high")
HEAD_HISTORY = tuple(name for name in HISTORY_FEATURES if name not in TOKEN_HISTORY)


@dataclass(frozen=True)
class NetworkShape:
    """Properties of the data that the network needs: sizes, scales, and the meaning of integer codes."""

    n_prev: int
    n_foll: int
    train_types: list[str]  # code = position + 1; 0 = unknown
    op_ids: list[int]  # code = position + 1; 0 = unknown
    embedding_dims: dict[str, int]  # size of each kind of point embedding, in their order
    scales: dict[str, float] = field(default_factory=dict)  # divisors of the inputs and seconds, see `input_scales`

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


@dataclass(frozen=True)
class Changes:
    """Distributions of the change of delay until each of C next events."""

    exists: Tensor  # [B, S, F] the slots of the C events
    since: Tensor  # [C] seconds: the translation, raised to the earliest possible delay of an overdue next event
    least: Tensor  # [C] seconds: the least possible change
    log_probability: Tensor  # [C, M, K] see `ChangeBins`

    def observed(self, delay: Tensor) -> Tensor:
        """The changes [C] of delays [B, S, F] in seconds, raised to what is possible by what was known.

        An observation can turn out right that contradicted others when it came, or come late. The event then lies
        before the instant, though it was not known.
        """
        return torch.maximum(delay[self.exists] - self.since, self.least)


class DelayTransformer(nn.Module):
    """Predicts the delay of each train at each of its next events.

    `forward` takes the tensors of a SnapshotBatch, and returns delays in seconds [B, S, F]. `predict` also returns
    their calibrated distribution. `changes` returns the distribution that each member has learned. With untrained
    weights, no change is its median.
    """

    point_vectors: Tensor  # [points, embedding] a buffer: row 0 is the unknown point
    correction: Tensor  # [horizon bins, Q] a buffer: calibration of quantiles, see `transformer.model.calibration`
    rank_correlation: Tensor  # [F, F] a buffer: of delays along a train, see `transformer.model.copula`
    live_scale: Tensor  # [L] divisors of the live features
    input_scale: Tensor  # [X] divisors of the columns of optional inputs
    imminence_edges: Tensor  # seconds

    def __init__(self, config: ModelConfig, shape: NetworkShape, point_vectors: Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.levels = tuple(config.quantiles)  # the Q levels of the predicted distribution, ascending
        self.use = config.use_inputs
        self.scales = shape.scales
        self.round_to_s = shape.scales["resolution"] if config.round_predictions else 0.0
        self.bound = shape.scales["resolution"], shape.scales.get("known_after", 0.0)  # see `earliest_delay`
        vectors = point_vectors if point_vectors is not None else torch.zeros(shape.n_points, shape.d_embedding)
        if vectors.shape != (shape.n_points, shape.d_embedding):
            raise ValueError(f"point vectors {tuple(vectors.shape)}, expected {(shape.n_points, shape.d_embedding)}")
        self.register_buffer("point_vectors", vectors.float())
        self.register_buffer("correction", no_correction(len(self.levels)))
        self.register_buffer("rank_correlation", independent(shape.n_foll))
        wanted = self._live_features()
        self.live_columns = [LIVE_FEATURES.index(name) for name in wanted]
        scales = torch.tensor([self._live_scale(name) for name in wanted])
        self.register_buffer("live_scale", scales, persistent=False)
        given = [shape.scales["delay"] if of.scale == "delay" else of.scale for of in input_columns(self.use)]
        self.register_buffer("input_scale", torch.tensor(given), persistent=False)
        self.train_inputs = (*TRAIN_INPUTS, "next_inputs") if given else TRAIN_INPUTS
        edges_s = 60.0 * torch.tensor(IMMINENCE_EDGES_MIN, dtype=torch.float32)
        self.register_buffer("imminence_edges", edges_s, persistent=False)
        self.point_projection = nn.Linear(max(shape.d_embedding, 1), config.d_point, bias=False)
        d_token, d_event = (
            self._token_size(config.d_point),
            self._event_size(config.d_point) + self._surroundings_size(),
        )
        self.bins = ChangeBins(shape.scales["resolution"])
        prior = self.bins.prior()
        self.members = nn.ModuleList(
            [Member(config, d_token, d_event, shape.n_foll, prior) for _ in range(config.n_members)]
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Predicted delays in seconds [B, S, F], coherent along each train, see `transformer.model.coherence`."""
        return self.predict(batch)[0]

    def predict(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Predicted delays [B, S, F] and their calibrated quantiles [B, S, F, Q], seconds.

        The delays are the learned medians, rounded to the resolution if the configuration says so. The quantiles are
        calibrated. Both are whole seconds and coherent, see `transformer.model.coherence`.
        """
        quantiles_BSFQ, planned = self.quantiles(batch), batch["next_planned"]
        spread = calibrated(quantiles_BSFQ, planned, self.correction)
        return self.point(quantiles_BSFQ, planned), coherent(spread, planned, *self.bound)

    def point(self, quantiles_BSFQ: Tensor, planned_BSF: Tensor) -> Tensor:
        """The predicted delays [B, S, F] of a distribution that is not calibrated."""
        delay = quantiles_BSFQ[..., self.levels.index(0.5)]
        if self.round_to_s:
            delay = torch.round(delay / self.round_to_s) * self.round_to_s
        return coherent(delay[..., None], planned_BSF, *self.bound)[..., 0]

    def quantiles(self, batch: dict[str, Tensor]) -> Tensor:
        """Learned quantiles [B, S, F, Q] of the delays in seconds, not calibrated. 0 where there is no event."""
        changes = self.changes(batch)
        change_CQ = self.bins.quantiles(changes.log_probability.exp().mean(1), self.levels)
        result = change_CQ.new_zeros(*batch["next_mask"].shape, len(self.levels))
        return result.masked_scatter(changes.exists[..., None], change_CQ + changes.since[:, None])

    def changes(self, batch: dict[str, Tensor]) -> Changes:
        """The distribution of each member, of the change of delay until each next event."""
        present = batch["train_mask"]
        slots = present.flatten().nonzero().squeeze(1)
        trains = {name: batch[name].flatten(0, 1).index_select(0, slots) for name in self.train_inputs}
        train, rank = trains["next_mask"].nonzero(as_tuple=True)
        cells = train, rank
        points_TPE, points_TFE = self._points(trains)
        events_TFX = self._events(trains, points_TFE)
        token_TX = torch.cat([self._tokens(trains, points_TPE, events_TFX), self._network(batch)], dim=-1)
        event_CX, around_CX = events_TFX[cells], self._surroundings(trains, cells)
        scores_CMK = torch.stack(
            [member(token_TX, event_CX, around_CX, cells, present) for member in self.members], dim=-2
        )
        earliest_TF = earliest_delay(trains["next_planned"], *self.bound)
        since_C = torch.maximum(trains["translation"], earliest_TF[:, 0]).index_select(0, train)
        least_C = earliest_TF[cells] - since_C
        log_probability = self.bins.log_probabilities(scores_CMK, least_C)
        return Changes(batch["next_mask"] & present[..., None], since_C, least_C, log_probability)

    # --- inputs ------------------------------------------------------------------------------------------------------
    def _event_size(self, d_point: int) -> int:
        use = self.use
        return (
            1
            + 3 * use.following_times
            + d_point * use.following_points
            + N_EVENT_TYPES * use.event_types
            + len(SECTION_FEATURES) * use.section_statistics
            + len(TOKEN_HISTORY) * use.train_history
        )

    def _live_features(self) -> list[str]:
        use = self.use
        groups = (
            (use.live_sections, LIVE_SECTION_FEATURES),
            (use.live_points, LIVE_POINT_FEATURES),
            (use.neighbour_trains, NEIGHBOUR_FEATURES),
        )
        return [name for wanted, names in groups if wanted for name in names]

    def _surroundings_size(self) -> int:
        return (
            len(HEAD_HISTORY) * self.use.train_history
            + len(self.live_columns)
            + N_IMMINENCE * self.use.imminence
            + len(self.input_scale)
        )

    def _live_scale(self, name: str) -> float:
        """The divisor of a live feature. The end of its name says the kind of quantity."""
        scales = {
            "gap": HEADWAY_SCALE_S, "age": AGE_SCALE_S, "count": COUNT_SCALE, "direction": 1.0,
            "delay": self.scales["delay"],
        }  # fmt: skip
        return scales.get(name.rsplit("_", 1)[-1], self.scales["change"])

    def _token_size(self, d_point: int) -> int:
        use, shape = self.use, self.shape
        per_past = 1 + 2 * use.past_delays + d_point * use.past_points + N_EVENT_TYPES * use.event_types
        per_train = (
            3
            + shape.n_train_types * use.train_type
            + (4 + 7) * use.calendar
            + (shape.n_train_types + 2) * use.network_load
            + 2 * use.feed_silence
        )
        return shape.n_prev * per_past + shape.n_foll * self._event_size(d_point) + per_train

    def _points(self, trains: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Projected point embeddings of past [T, P, E] and next [T, F, E] events."""
        vectors = self.point_vectors if self.shape.d_embedding else self.point_vectors.new_zeros(self.shape.n_points, 1)
        projected = self.point_projection(vectors)
        return (
            nn.functional.embedding(trains["past_point"], projected),
            nn.functional.embedding(trains["next_point"], projected),
        )

    def _events(self, trains: dict[str, Tensor], points_TFE: Tensor) -> Tensor:
        """Inputs about each next event [T, F, *]; zero where there is no event."""
        use, mask = self.use, trains["next_mask"][..., None]
        parts = [mask.float()]
        if use.following_times:
            planned = trains["next_planned"]
            expected = planned + trains["translation"][..., None]
            gap = torch.diff(planned, dim=-1, prepend=planned[..., :1])
            parts += [squash(time, TIME_SCALE_S)[..., None] for time in (planned, expected, gap)]
        if use.following_points:
            parts.append(points_TFE)
        if use.event_types:
            parts.append(nn.functional.one_hot(trains["next_type"], N_EVENT_TYPES).float())
        for wanted, names in ((use.section_statistics, SECTION_FEATURES), (use.train_history, TOKEN_HISTORY)):
            if wanted:
                parts += [self._feature(trains, name)[..., None] for name in names]
        return torch.cat(parts, dim=-1) * mask

    def _surroundings(self, trains: dict[str, Tensor], cells: tuple[Tensor, Tensor]) -> Tensor:
        """Inputs about each next event that only the head reads [C, *]."""
        parts = [self._feature(trains, name)[cells][:, None] for name in HEAD_HISTORY if self.use.train_history]
        parts.append(asinh(trains["next_live"][cells][:, self.live_columns] / self.live_scale))
        if self.use.imminence:
            parts.append(self._imminence(trains, cells))
        if len(self.input_scale):
            parts.append(asinh(trains["next_inputs"][cells] / self.input_scale))
        return torch.cat(parts, dim=-1)

    def _imminence(self, trains: dict[str, Tensor], cells: tuple[Tensor, Tensor]) -> Tensor:
        """Inputs about the next minutes [C, N_IMMINENCE].

        Differences of a minute would get lost on their way through the token of the train. Encoded in pieces, they are
        as easy to tell apart as for a tree. The inputs fade with the time until the event, so that the head cannot lean
        on them for distant events.
        """
        last, translation = trains["last_delay"], trains["translation"]
        age = -trains["past_observed"][:, -1]
        delays = nn.functional.pad(trains["past_delay"], (2, 0))[:, -3:]
        known = nn.functional.pad(trains["past_mask"], (2, 0))[:, -3:-1]
        of_train_T5 = torch.cat(
            [torch.stack([last, translation - last, age], dim=-1), delays.diff(dim=-1) * known], dim=-1
        )
        planned = trains["next_planned"][cells]
        due = planned + translation[cells[0]]
        times_C7 = torch.cat([torch.stack([due, planned], dim=-1), of_train_T5[cells[0]]], dim=-1)
        kind = nn.functional.one_hot(trains["past_type"][:, -1], N_EVENT_TYPES).float()[cells[0]]
        fading = torch.exp(-due.clamp(min=0) / FADING_S)[:, None]
        encoded = [squash(times_C7, MINUTE_S), piecewise(times_C7, self.imminence_edges).flatten(1)]
        return torch.cat([*encoded, kind, torch.ones_like(fading)], dim=-1) * fading

    def _feature(self, trains: dict[str, Tensor], name: str) -> Tensor:
        values = trains["next_features"][..., FEATURES.index(name)]
        if name == "history_weight":
            return values
        if name in HISTORY_DELAYS:  # relative to the last known delay of the train
            values = values - trains["translation"][..., None]
        return squash(values, self.scales["change"])

    def _tokens(self, trains: dict[str, Tensor], points_TPE: Tensor, events_TFX: Tensor) -> Tensor:
        """All inputs about each train, in one vector [T, *]."""
        use, mask_TP = self.use, trains["past_mask"]
        past = [mask_TP.float()[..., None]]
        if use.past_delays:
            past.append(squash(trains["past_delay"], self.scales["delay"])[..., None])
            past.append(squash(trains["past_observed"], TIME_SCALE_S)[..., None])
        if use.past_points:
            past.append(points_TPE)
        if use.event_types:
            past.append(nn.functional.one_hot(trains["past_type"], N_EVENT_TYPES).float())
        past_TX = (torch.cat(past, dim=-1) * mask_TP[..., None]).flatten(1)
        delay_scale = self.scales["delay"]
        train = [
            trains["departed"].float()[..., None],
            squash(trains["translation"], delay_scale)[..., None],
            squash(trains["translation"] - trains["last_delay"], delay_scale)[..., None],
        ]
        if use.train_type:
            train.append(self._kinds(trains["train_type"]))
        return torch.cat([past_TX, events_TFX.flatten(1), *train], dim=-1)

    def _network(self, batch: dict[str, Tensor]) -> Tensor:
        """Inputs about the snapshot of each train [T, *]."""
        present, delay_scale = batch["train_mask"].float(), self.scales["delay"]
        network = [present.new_zeros(len(present), 0)]
        if self.use.calendar:
            angle = 2 * math.pi * batch["time_of_day"][:, None]
            network += [torch.sin(angle), torch.cos(angle), torch.sin(2 * angle), torch.cos(2 * angle)]
            network.append(nn.functional.one_hot(batch["day_of_week"], 7).float())
        if self.use.network_load:
            count = present.sum(1, keepdim=True)
            per_type = (self._kinds(batch["train_type"]) * present[..., None]).sum(1)
            mean_delay = (batch["translation"] * present).sum(1, keepdim=True) / count.clamp(min=1)
            load = torch.cat([count, per_type], dim=-1) / self.scales["running_trains"]
            network += [load, squash(mean_delay, delay_scale)]
        if self.use.feed_silence:
            network.append(feed_silence(batch))
        snapshot = batch["train_mask"].nonzero()[:, 0]
        return torch.cat(network, dim=-1)[snapshot]

    def _kinds(self, train_type: Tensor) -> Tensor:
        return nn.functional.one_hot(train_type, self.shape.n_train_types).float()


def feed_silence(batch: dict[str, Tensor]) -> Tensor:
    """How silent the feed is [B, 2]: the age of the newest observation, and the share of departed trains heard of.

    The age is squashed. A train is heard of if its last known event is at most HEARD_OF_S old. Without a departed train
    the share is 0.
    """
    departed = batch["train_mask"] & batch["past_mask"][..., -1]
    age = (-batch["past_observed"][..., -1]).masked_fill(~departed, SILENT_S).clamp(max=SILENT_S)
    heard = (departed & (age <= HEARD_OF_S)).sum(1) / departed.sum(1).clamp(min=1)
    return torch.stack([squash(age.amin(1), TIME_SCALE_S), heard], dim=-1)


def squash(values: Tensor, scale: float) -> Tensor:
    """`asinh(values / scale)`: linear near zero, logarithmic beyond `scale`, so rare huge delays do not dominate."""
    return asinh(values / scale)


def piecewise(values: Tensor, edges: Tensor) -> Tensor:
    """Piecewise linear encoding [*, K] of values [*]: how much of each interval between K + 1 edges lies below, 0…1.

    Source: Gorishniy, Rubachev and Babenko 2022, arXiv 2203.05556.
    """
    return ((values[..., None] - edges[:-1]) / edges.diff()).clamp(0, 1)


def asinh(values: Tensor) -> Tensor:
    """`torch.asinh` to 3e-7, and ten times as fast, by operations that have vector instructions on a CPU."""
    magnitude = values.abs()
    return torch.log(magnitude + torch.sqrt(magnitude.square() + 1)).copysign(values)
