"""The instants at which snapshots are taken: a grid, random ones, or those that a file lists.

A file of instants makes a training and an evaluation see exactly the snapshots of somebody else, for example those of a
benchmark. It is YAML, and each of its keys that ends with `snapshots` has a list of times:

    train_snapshots: ["2023-01-02T07:31:05", …]
    test_snapshots: ["2024-01-02T08:00:00", …]

This is the `dataset_core_spec.yaml` of a RIDE Gold core. A time without an offset is in `data.timezone`. The split of
the dates decides which instants train and which test, and not the name of the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import yaml

from transformer.config import DataConfig, GridConfig, SamplingConfig
from transformer.data.dates import format_dates
from transformer.data.event_table import Int64Array
from transformer.errors import UserError
from transformer.files import file_digest, reading

KEY = "data.snapshot.instants"
_LISTS = "snapshots"  # end of the keys that list times
DATES_AT_ONCE = 16  # dates that successive training instants are drawn from
PER_DATE = 8  # instants of each of them
DEFAULT_SAMPLING = SamplingConfig()


def training_instants(
    days: Sequence[date],
    count: int,
    data: DataConfig,
    generator: np.random.Generator,
    sampling: SamplingConfig = DEFAULT_SAMPLING,
    running: Callable[[], Sequence[Spans]] | None = None,
) -> Int64Array:
    """Draw `count` instants of dates, in random order: from the file of instants, or else as `sampling` says.

    No instant of the file is drawn again before all others were.

    Args:
        running: returns the times of each date at which a train runs; needed for `sampling.instants=running`.

    Raises:
        UserError: see `listed_instants`.
    """
    if data.snapshot.instants:
        listed = listed_instants(days, data)
        rounds = -(-count // len(listed))
        return np.concatenate([generator.permutation(listed) for _ in range(rounds)])[:count]
    weights = np.ones(len(days))
    if sampling.instants == "running":
        if running is None:
            raise ValueError("training.sampling.instants=running needs the times at which trains run")
        spans = running()
        weights *= [of_day.seconds for of_day in spans]
    else:
        spans = [grid_hours(day, data.grid, data.timezone) for day in days]
    if sampling.half_life_days is not None:
        weights *= [0.5 ** ((max(days) - day).days / sampling.half_life_days) for day in days]
    return random_instants(spans, count, generator, None if (weights == weights[0]).all() else weights)


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


@dataclass(frozen=True)
class Spans:
    """Times of a date, as intervals that do not overlap, in seconds since the Unix epoch."""

    begin: Int64Array  # [I]
    end: Int64Array  # [I] exclusive

    @property
    def seconds(self) -> int:
        return int((self.end - self.begin).sum())

    def at(self, share: npt.NDArray[np.float64]) -> Int64Array:
        """The seconds at these shares [N] (0…1) of all seconds."""
        length = self.end - self.begin
        before = np.cumsum(length) - length
        second = (share * self.seconds).astype(np.int64)
        interval = np.searchsorted(before, second, side="right") - 1
        return np.asarray(self.begin[interval] + second - before[interval], np.int64)


def grid_hours(day: date, grid: GridConfig, timezone: str) -> Spans:
    """The time between the first and the last instant of the grid, both included."""
    zone = ZoneInfo(timezone)
    begin, end = (
        int(datetime.combine(day, time.fromisoformat(clock), zone).timestamp()) for clock in (grid.start, grid.end)
    )
    return Spans(np.array([begin]), np.array([end + 1]))


def running_hours(day: date, timezone: str, first: Int64Array, last: Int64Array) -> Spans:
    """The times of the local date at which at least one train runs.

    Args:
        first: begin of each train [J], seconds since the Unix epoch.
        last: its end [J].
    """
    zone = ZoneInfo(timezone)
    begin, end = (int(datetime.combine(day + timedelta(days=after), time(), zone).timestamp()) for after in (0, 1))
    here = (last >= begin) & (first < end)
    order = np.argsort(first[here], kind="stable")
    starts, ends = np.maximum(first[here], begin)[order], np.minimum(last[here] + 1, end)[order]
    reached = np.maximum.accumulate(ends) if len(ends) else ends
    opens = np.flatnonzero(np.concatenate([[True], starts[1:] > reached[:-1]])) if len(starts) else np.zeros(0, int)
    closes = np.append(opens[1:] - 1, len(starts) - 1) if len(starts) else opens
    return Spans(starts[opens], reached[closes])


def random_instants(
    dates: Sequence[Spans],
    count: int,
    generator: np.random.Generator,
    weights: npt.NDArray[np.float64] | None = None,
) -> Int64Array:
    """Draw `count` instants evenly from the times of each date, to the second, in random order.

    Successive instants contain every date before one is drawn again, so a short epoch also covers all dates equally.
    With more than DATES_AT_ONCE dates, PER_DATE instants are drawn of some dates before others follow, because opening
    a date costs as much as building some snapshots.

    Args:
        weights: how often each date is drawn, up to a common factor; None = all dates alike.
    """
    per_date = 1 if len(dates) <= DATES_AT_ONCE else PER_DATE
    visits = _visits(len(dates), -(-count // per_date), generator, weights)
    if per_date > 1:
        groups = [visits[begin : begin + DATES_AT_ONCE] for begin in range(0, len(visits), DATES_AT_ONCE)]
        visits = np.concatenate([generator.permutation(np.repeat(group, per_date)) for group in groups])
    which = visits[:count]
    share = generator.random(count)
    instants = np.empty(count, np.int64)
    for number in np.unique(which).tolist():
        of_date = which == number
        instants[of_date] = dates[number].at(share[of_date])
    return instants


def _visits(
    n_dates: int, count: int, generator: np.random.Generator, weights: npt.NDArray[np.float64] | None
) -> Int64Array:
    """The numbers of `count` dates in random order. Each is drawn as often as its weight says, up to one time."""
    if weights is None:
        rounds = -(-count // n_dates)
        return np.concatenate([generator.permutation(n_dates) for _ in range(rounds)])[:count]
    order = generator.permutation(n_dates)
    reach = np.cumsum(weights[order]) / weights.sum()
    at = (np.arange(count) + generator.random()) / count
    return generator.permutation(order[np.minimum(np.searchsorted(reach, at, side="right"), n_dates - 1)])
