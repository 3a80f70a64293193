"""The plain way to build snapshots: a loop over the trains. The yardstick of the vectorised builder, and its test.

Written as one would without columns in mind: plain Python lists per journey, one train after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer.config import SnapshotConfig
from transformer.data.event_table import NEVER, EventTable
from transformer.data.snapshots import EventFeatures


@dataclass(frozen=True)
class Journey:
    """One journey as lists: planned and observed seconds (None = not observed), point and event type codes."""

    index: int
    first_event: int
    train_type: int
    planned: list[int]
    observed: list[int | None]
    point: list[int]
    event_type: list[int]
    features: list[list[float]]


def journeys_of(table: EventTable, features: EventFeatures) -> list[Journey]:
    """Every journey of a table, as lists."""
    result = []
    for index in range(table.n_journeys):
        events = slice(int(table.start[index]), int(table.end[index]))
        observed = [None if value == NEVER else value for value in table.observed[events].tolist()]
        result.append(
            Journey(
                index,
                int(table.start[index]),
                int(table.train_type[index]),
                table.planned[events].tolist(),
                observed,
                table.point[events].tolist(),
                table.event_type[events].tolist(),
                features.values[events].tolist(),
            )
        )
    return result


def train_at(journey: Journey, t: int, config: SnapshotConfig, n_cumulative: int) -> dict[str, Any] | None:
    """What a snapshot at `t` holds of a journey, or None when its train is not running."""
    planned, observed = journey.planned, journey.observed
    if planned[0] - config.lead_s > t:
        return None
    last = -1
    for i, seen in enumerate(observed):
        if seen is not None and seen <= t:
            last = i
    if last == len(planned) - 1:
        return None
    last_delay = observed[last] - planned[last] if last >= 0 else 0
    if t > planned[-1] + last_delay + config.end_grace_s:
        return None
    if t > planned[last + 1] + last_delay + config.silence_s:
        return None

    past = []
    earliest_later = None
    for i in range(len(planned) - 1, -1, -1):  # observed in order: nothing later in the journey was observed before
        seen = observed[i]
        if seen is not None and (earliest_later is None or seen <= earliest_later):
            earliest_later = seen
            if i <= last and seen <= t:
                past.append((seen - planned[i], seen - t, journey.point[i], journey.event_type[i]))
                if len(past) == config.n_prev:
                    break
    past.reverse()

    base = journey.features[last][:n_cumulative] if last >= 0 else [0.0] * n_cumulative
    following = []
    for i in range(last + 1, min(last + 1 + config.n_foll, len(planned))):
        values = journey.features[i]
        relative = [value - start for value, start in zip(values, base, strict=False)] + values[n_cumulative:]
        label = None if observed[i] is None else observed[i] - planned[i]
        following.append(
            (journey.first_event + i, planned[i] - t, journey.point[i], journey.event_type[i], relative, label)
        )
    return {
        "journey": journey.index,
        "train_type": journey.train_type,
        "departed": last >= 0,
        "last_delay": last_delay,
        "translation": max(last_delay, t - planned[last + 1]),
        "past": past,
        "next": following,
    }


def snapshots_by_loop(
    journeys: Sequence[Journey], instants: Sequence[int], config: SnapshotConfig, features: EventFeatures
) -> dict[str, np.ndarray[Any, Any]]:
    """Padded arrays of snapshots at `instants`, by the same names and in the same shapes as a SnapshotBatch."""
    snapshots = []
    for t in instants:
        trains = [train_at(journey, t, config, features.n_cumulative) for journey in journeys]
        snapshots.append([train for train in trains if train is not None])
    return _padded(snapshots, instants, config, features.values.shape[1])


def _padded(
    snapshots: list[list[dict[str, Any]]], instants: Sequence[int], config: SnapshotConfig, n_features: int
) -> dict[str, np.ndarray[Any, Any]]:
    n_trains = max(1, *(len(trains) for trains in snapshots))
    per_train, n_prev, n_foll = (len(snapshots), n_trains), config.n_prev, config.n_foll
    arrays: dict[str, np.ndarray[Any, Any]] = {"instant": np.array(instants, np.int64)}
    for name, dtype in (
        ("train_mask", bool), ("journey", np.int64), ("train_type", np.int64), ("departed", bool),
        ("last_delay", np.float32), ("translation", np.float32),
    ):  # fmt: skip
        arrays[name] = np.zeros(per_train, dtype)
    for name, dtype in (
        ("past_mask", bool), ("past_delay", np.float32), ("past_observed", np.float32), ("past_point", np.int64),
        ("past_type", np.int64),
    ):  # fmt: skip
        arrays[name] = np.zeros((*per_train, n_prev), dtype)
    for name, dtype in (
        ("next_mask", bool), ("next_event", np.int64), ("next_planned", np.float32), ("next_point", np.int64),
        ("next_type", np.int64), ("label_mask", bool), ("label", np.float32),
    ):  # fmt: skip
        arrays[name] = np.zeros((*per_train, n_foll), dtype)
    arrays["next_features"] = np.zeros((*per_train, n_foll, n_features), np.float32)
    for b, trains in enumerate(snapshots):
        for s, train in enumerate(trains):
            arrays["train_mask"][b, s] = True
            for name in ("journey", "train_type", "departed", "last_delay", "translation"):
                arrays[name][b, s] = train[name]
            offset = n_prev - len(train["past"])
            for p, (delay, observed, point, kind) in enumerate(train["past"], start=offset):
                arrays["past_mask"][b, s, p] = True
                arrays["past_delay"][b, s, p] = delay
                arrays["past_observed"][b, s, p] = observed
                arrays["past_point"][b, s, p] = point
                arrays["past_type"][b, s, p] = kind
            for f, (event, planned, point, kind, values, label) in enumerate(train["next"]):
                arrays["next_mask"][b, s, f] = True
                arrays["next_event"][b, s, f] = event
                arrays["next_planned"][b, s, f] = planned
                arrays["next_point"][b, s, f] = point
                arrays["next_type"][b, s, f] = kind
                arrays["next_features"][b, s, f] = values
                if label is not None:
                    arrays["label_mask"][b, s, f] = True
                    arrays["label"][b, s, f] = label
    return arrays
