"""The instants at which snapshots are taken: a grid, random ones, or those that a file lists.

A file of instants makes a training and an evaluation see exactly the snapshots of somebody else, for example those of a
benchmark. It is YAML, and each of its keys that ends with `snapshots` has a list of times:

    train_snapshots: ["2023-01-02T07:31:05", …]
    test_snapshots: ["2024-01-02T08:00:00", …]

This is the `dataset_core_spec.yaml` of a RIDE Gold core. A time without an offset is in `data.timezone`. The split of
the dates decides which instants train and which test, and not the name of the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import yaml

from transformer.config import DataConfig, GridConfig
from transformer.data.dates import format_dates
from transformer.data.event_table import Int64Array
from transformer.errors import UserError
from transformer.files import file_digest, reading

KEY = "data.snapshot.instants"
_LISTS = "snapshots"  # end of the keys that list times


def training_instants(days: Sequence[date], count: int, data: DataConfig, generator: np.random.Generator) -> Int64Array:
    """Draw `count` instants of dates, in random order: from the file of instants, or else from the hours of the grid.

    No instant of the file is drawn again before all others were.

    Raises:
        UserError: see `listed_instants`.
    """
    if not data.snapshot.instants:
        return random_instants(tuple(days), count, data.grid, data.timezone, generator)
    listed = listed_instants(days, data)
    rounds = -(-count // len(listed))
    return np.concatenate([generator.permutation(listed) for _ in range(rounds)])[:count]


def evaluation_instants(days: Sequence[date], data: DataConfig) -> Int64Array:
    """The fixed instants of dates: those of the file of instants, or else of the grid.

    Raises:
        UserError: see `listed_instants`.
    """
    if data.snapshot.instants:
        return listed_instants(days, data)
    return grid_instants(tuple(days), data.grid, data.timezone)


def listed_instants(days: Sequence[date], data: DataConfig) -> Int64Array:
    """The instants of the file `data.snapshot.instants` on local dates, sorted, as seconds since the Unix epoch.

    Raises:
        UserError: the file cannot be read, a value is no time, or no instant is on one of the dates.
    """
    path = Path(data.snapshot.instants)
    with reading(path):
        digest = file_digest(path)
    instants, dates = _read(path, digest, data.timezone)
    wanted = np.isin(dates, [day.toordinal() for day in days])
    if not wanted.any():
        known = sorted({date.fromordinal(int(day)) for day in dates})
        raise UserError(
            f"{KEY}={path} has no instant on {', '.join(format_dates(days))}; it has instants on "
            f"{', '.join(format_dates(known)[:5])}; correct data.split or name another file"
        )
    return instants[wanted]


@lru_cache(maxsize=4)
def _read(path: Path, digest: str, timezone: str) -> tuple[Int64Array, Int64Array]:  # noqa: ARG001  # it may change
    """All instants of the file with this content digest, sorted, and the local date of each as a proleptic ordinal."""
    try:
        content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{KEY}={path} is not YAML ({str(error).splitlines()[0]}); name another file") from None
    lists = (
        [(str(key), found) for key, found in content.items() if str(key).endswith(_LISTS) and isinstance(found, list)]
        if isinstance(content, dict)
        else []
    )
    if not any(found for _, found in lists):
        raise UserError(f"{KEY}={path} has no list of times under a key that ends with {_LISTS!r}; name another file")
    zone = ZoneInfo(timezone)
    moments = sorted({_moment(value, key, path, zone) for key, found in lists for value in found})
    dates = [datetime.fromtimestamp(moment, zone).date().toordinal() for moment in moments]
    return np.array(moments, np.int64), np.array(dates, np.int64)


def _moment(value: object, key: str, path: Path, zone: ZoneInfo) -> int:
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise UserError(f"{KEY}={path}: {value!r} in {key} is not a time; write 2024-01-02T08:00:00") from None
    return int((found if found.tzinfo else found.replace(tzinfo=zone)).timestamp())


def grid_instants(days: tuple[date, ...], grid: GridConfig, timezone: str) -> Int64Array:
    """The fixed instants of `days`: one every `step_s`, from `start` to `end` inclusive, in local wall-clock time."""
    zone = ZoneInfo(timezone)
    start, end = time.fromisoformat(grid.start), time.fromisoformat(grid.end)
    instants: list[int] = []
    for day in days:
        first = int(datetime.combine(day, start, zone).timestamp())
        last = int(datetime.combine(day, end, zone).timestamp())
        instants.extend(range(first, last + 1, grid.step_s))
    return np.array(instants, np.int64)


def random_instants(
    days: tuple[date, ...], count: int, grid: GridConfig, timezone: str, generator: np.random.Generator
) -> Int64Array:
    """Draw `count` instants evenly from the grid's hours of `days`, to the second, in random order.

    Each successive `len(days)` instants contain every date once, so a short epoch also covers all dates equally.
    """
    zone = ZoneInfo(timezone)
    start, end = time.fromisoformat(grid.start), time.fromisoformat(grid.end)
    spans = np.array(
        [[datetime.combine(day, start, zone).timestamp(), datetime.combine(day, end, zone).timestamp()] for day in days]
    )
    rounds = -(-count // len(days))
    which = np.concatenate([generator.permutation(len(days)) for _ in range(rounds)])[:count]
    low, high = spans[which, 0], spans[which, 1]
    return np.asarray(low + generator.random(count) * (high - low + 1), np.int64)
