"""Service dates: the available ones, their notation, and their split."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.support.events import DAY, refusal, whole_date
from tests.support.messages import assert_names
from transformer.config import Config, RollingConfig, SplitConfig, with_values
from transformer.data.dates import Split, available_dates, parse_dates, resolve_split
from transformer.data.tables import events_path
from transformer.data.whole_dates import Hours


def folder_with(tmp_path: Path, *days: str) -> Path:
    """A data folder with empty events files of these dates."""
    (tmp_path / "events").mkdir()
    for day in days:
        events_path(tmp_path, date.fromisoformat(day)).touch()
    return tmp_path


def test_available_dates_are_sorted_and_need_their_name(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "2024-12-14", "2024-12-13")
    (folder / "events" / ".events_2024-12-15.parquet.123.tmp").touch()
    (folder / "events" / "notes.txt").touch()
    assert available_dates(folder) == [date(2024, 12, 13), date(2024, 12, 14)]


@pytest.mark.parametrize("name", ["events_20241213.parquet", "events_2024-12-32.parquet", "events_.parquet"])
def test_a_misnamed_events_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path)
    (folder / "events" / name).touch()
    message = refusal(lambda: available_dates(folder))
    assert_names(message, f"/{name}", "events_YYYY-MM-DD.parquet", "rename or remove")


@pytest.mark.parametrize("folder", ["none", "."])
def test_a_folder_without_events_is_refused(tmp_path: Path, folder: str) -> None:
    message = refusal(lambda: available_dates(tmp_path / folder))
    names = (
        f"data.local_folder={tmp_path / folder}",
        "events/events_YYYY-MM-DD.parquet",
        "python -m transformer simulate",
    )
    assert_names(message, *names)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], []),
        (["2024-12-13"], ["2024-12-13"]),
        (["2024-12-14", "2024-12-13", "2024-12-14"], ["2024-12-13", "2024-12-14"]),
        (["2024-12-30..2025-01-02"], ["2024-12-30", "2024-12-31", "2025-01-01", "2025-01-02"]),
        ([" 2024-12-13 .. 2024-12-13 "], ["2024-12-13"]),
        (["2024-12-13..2024-12-15", "2024-12-15..2024-12-16"], [f"2024-12-{day}" for day in (13, 14, 15, 16)]),
    ],
)
def test_dates_and_ranges(entries: list[str], expected: list[str]) -> None:
    assert [day.isoformat() for day in parse_dates(entries, "data.split.train")] == expected


@pytest.mark.parametrize(
    "entry", ["tomorrow", "2024-12-32", "13.12.2024", "", "2024-12-13..", "2024-12-13...2024-12-14", "2024-12-13/14"]
)
def test_what_is_no_date_is_named(entry: str) -> None:
    message = refusal(lambda: parse_dates([entry], "data.split.test"))
    assert_names(message, "data.split.test", repr(entry), "write 2024-12-13 or 2024-12-16..2024-12-19")


def test_a_range_of_dates_has_an_end() -> None:
    message = refusal(lambda: parse_dates(["0001-01-01..9999-12-31"], "data.split.train"))
    assert_names(message, "data.split.train", "'0001-01-01..9999-12-31'", "century", "write 2024-12-16..2024-12-19")


def test_a_range_must_not_end_before_it_starts() -> None:
    message = refusal(lambda: parse_dates(["2024-12-14..2024-12-13"], "data.split.train"))
    assert_names(message, "data.split.train", "'2024-12-14..2024-12-13'", "ends before")


def test_a_configured_split_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, *[f"2024-12-{day}" for day in range(13, 22)])
    split = SplitConfig(
        train=["2024-12-13..2024-12-14", "2024-12-16..2024-12-19"], validation=["2024-12-20"], test=["2024-12-21"]
    )
    resolved = resolve_split(split, folder, True, "UTC")
    assert resolved.as_dict() == {
        "train": [f"2024-12-{day}" for day in (13, 14, 16, 17, 18, 19)],
        "validation": ["2024-12-20"],
        "test": ["2024-12-21"],
    }
    assert len(resolved.all) == 8


@pytest.mark.parametrize(
    ("split", "named"),
    [
        (
            SplitConfig(train=["2024-12-13"], validation=["2024-12-14"], test=[]),
            ("data.split.test", "empty", "set all three or none"),
        ),
        (
            SplitConfig(train=["2024-12-13..2024-12-14"], validation=["2024-12-14"], test=["2024-12-15"]),
            ("data.split", "2024-12-14", "train and validation", "one split"),
        ),
        (
            SplitConfig(train=["2024-12-13"], validation=["2024-12-14"], test=["2024-12-13..2024-12-15"]),
            ("data.split", "2024-12-13", "train and test", "one split"),
        ),
        (
            SplitConfig(train=["2024-12-13"], validation=["2024-12-14"], test=["2024-12-16..2024-12-18"]),
            ("data.split.test", "{folder}", "no events of 2024-12-16", "2024-12-13 to 2024-12-15"),
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, split: SplitConfig, named: tuple[str, ...]) -> None:
    folder = folder_with(tmp_path, "2024-12-13", "2024-12-14", "2024-12-15")
    message = refusal(lambda: resolve_split(split, folder, True, "UTC"))
    assert_names(message, *(name.format(folder=folder) for name in named))


@pytest.mark.parametrize(("dates", "sizes"), [(3, (1, 1, 1)), (9, (7, 1, 1)), (20, (16, 2, 2)), (31, (25, 3, 3))])
def test_an_automatic_split_is_by_order(tmp_path: Path, dates: int, sizes: tuple[int, int, int]) -> None:
    days = [DAY + timedelta(days=offset) for offset in range(dates)]
    split = resolve_split(SplitConfig(), folder_with(tmp_path, *map(str, days)), skip_partial=False, timezone="UTC")
    assert (len(split.train), len(split.validation), len(split.test)) == sizes
    assert [*split.train, *split.validation, *split.test] == days


def test_two_dates_are_too_few(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "2024-12-13", "2024-12-14")
    message = refusal(lambda: resolve_split(SplitConfig(), folder, skip_partial=False, timezone="UTC"))
    assert_names(message, str(folder), "2 usable service dates", "at least 3")


def test_a_date_that_is_not_whole_is_left_out_with_a_warning(
    written: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    days = [whole_date(offset) for offset in range(5)]
    days[1] = whole_date(1, hours=range(7, 23))
    folder = written(*days)
    dates = available_dates(folder)
    split = resolve_split(SplitConfig(), folder, skip_partial=True, timezone="UTC")
    assert split == Split((dates[0], dates[2]), (dates[3],), (dates[4],))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert_names(warning, "2024-12-14", "left out", "4–7 h", "data.validation.skip_partial_dates")
    assert dates[1] in resolve_split(SplitConfig(), folder, skip_partial=False, timezone="UTC").train


def test_a_date_that_is_not_over_is_left_out(written: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = written(*[whole_date(offset) for offset in range(5)])
    dates = available_dates(folder)
    split = resolve_split(SplitConfig(), folder, skip_partial=True, timezone="UTC", today=dates[3])
    assert split.all == tuple(dates[:3])
    assert [day for day in map(str, dates) if any(f"{day} is left out" in line for line in caplog.messages)] == [
        "2024-12-16",
        "2024-12-17",
    ]


def test_a_range_means_the_dates_that_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_with(tmp_path, *[f"2024-12-{day}" for day in (13, 14, 17, 18, 19)])
    split = SplitConfig(train=["2024-12-13..2024-12-17"], validation=["2024-12-18"], test=["2024-12-19"])
    resolved = resolve_split(split, folder, True, "UTC")
    assert [day.day for day in resolved.train] == [13, 14, 17]
    assert_names(caplog.messages[-1], "data.split.train", "2024-12-15..2024-12-16")


def test_a_date_by_itself_must_exist(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, *[f"2024-12-{day}" for day in (13, 14, 17)])
    split = SplitConfig(train=["2024-12-13", "2024-12-15"], validation=["2024-12-14"], test=["2024-12-17"])
    message = refusal(lambda: resolve_split(split, folder, True, "UTC"))
    assert_names(message, "data.split.train", "2024-12-15")


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (pl.DataFrame({"planned": [1]}), ("'planned_ts'", "missing")),
        (pl.DataFrame({"planned_ts": ["12:00"], "observed_ts": [None]}), ("'planned_ts'", "String", "timestamps")),
    ],
)
def test_an_automatic_split_names_the_file_it_cannot_read(
    written: Callable[..., Path], frame: pl.DataFrame, named: tuple[str, ...]
) -> None:
    folder = written(whole_date(0), whole_date(1), frame)
    message = refusal(lambda: resolve_split(SplitConfig(), folder, skip_partial=True, timezone="UTC"))
    assert_names(message, str(events_path(folder, DAY + timedelta(days=2))), *named)


# --- rolling ---------------------------------------------------------------------------------------------------------
BUSY = dict.fromkeys(range(5, 23), 10)
WHOLE, PARTIAL = Hours(BUSY, BUSY), Hours(BUSY, {hour: n for hour, n in BUSY.items() if hour < 12})


class Feed:
    """Dates with a feed that had stopped on some of them. It notes which dates are fetched, and which are read."""

    def __init__(self, dates: int, partial: tuple[int, ...] = ()) -> None:
        """`partial` numbers the dates from the end; the last one is 0."""
        self.days = [DAY + timedelta(days=offset) for offset in range(dates)]
        self.partial = {self.days[-1 - back] for back in partial}
        self.fetched: list[date] = []
        self.read: list[date] = []

    def split(self, train: int, validation: int = 2, test: int = 3, skip_partial: bool = True, over: int = 0) -> Split:
        """The rolling split of the day after the last date, or `over` days before that."""
        rolling = RollingConfig(train=train, validation=validation, test=test)
        today = self.days[-1] + timedelta(days=1 - over)
        config = SplitConfig(rolling=rolling)
        return resolve_split(
            config, Path("data"), skip_partial, "UTC", self.days, self._hours, today, self.fetched.extend
        )

    def _hours(self, folder: Path, day: date, timezone: str) -> Hours:
        assert day in self.fetched
        self.read.append(day)
        return PARTIAL if day in self.partial else WHOLE


def test_a_rolling_split_ends_at_the_last_whole_date() -> None:
    feed = Feed(60, partial=(0, 4))
    split, days = feed.split(train=30), feed.days
    assert split.test == (days[-4], days[-3], days[-2])
    assert split.validation == (days[-7], days[-6])
    assert split.train == tuple(days[-37:-7])


def test_a_rolling_split_leaves_out_what_is_not_over() -> None:
    feed = Feed(40)
    for skip_partial in (True, False):
        assert feed.split(train=30, over=2, skip_partial=skip_partial).test == tuple(feed.days[-5:-2])


def test_only_the_last_dates_of_many_are_fetched_and_read(caplog: pytest.LogCaptureFixture) -> None:
    feed = Feed(1_096, partial=(0, 50, 60, 1_000))
    split = feed.split(train=95)
    assert (len(split.train), len(split.all)) == (95, 100)
    assert sorted(feed.read) == sorted(feed.fetched) == feed.days[-103:]  # as many more as there are partial ones
    assert [line.split()[0] for line in caplog.messages] == [str(feed.days[back]) for back in (-61, -51, -1)]


def test_few_dates_are_compared_with_some_weeks() -> None:
    """Five dates alone would hold one Saturday, which nothing could be compared with."""
    feed = Feed(60)
    assert len(feed.split(train=1, validation=1, test=1).all) == 3
    assert feed.read == feed.days[-28:]


def test_a_young_feed_trains_on_the_dates_that_there_are(caplog: pytest.LogCaptureFixture) -> None:
    feed = Feed(21, partial=(20,))
    split = feed.split(train=365)
    assert (split.train, len(split.all)) == (tuple(feed.days[1:16]), 20)
    assert_names(caplog.messages[-1], "data.split.rolling", "20 usable service dates", "15 train in place of 365")
    caplog.clear()
    assert len(Feed(6).split(train=1).train) == 1
    assert not caplog.messages


def test_a_feed_that_cannot_fill_a_rolling_split_is_refused() -> None:
    feed = Feed(6, partial=(0,))
    message = refusal(lambda: feed.split(train=365))
    assert_names(message, "data.split.rolling", "data has 5 usable service dates", "2 for validation, 3 for test", "6")
    assert_names(refusal(lambda: feed.split(train=365, over=6)), "data has 0 usable service dates")


def test_the_dates_of_a_split_replace_a_rolling_one() -> None:
    config = with_values(Config(), {"data.split.rolling.train": 30}, "test")
    feed = Feed(60)
    split = feed.split(train=30)
    named = with_values(config, split.as_values(), "test")
    assert resolve_split(named.data.split, Path("data"), True, "UTC", feed.days) == split
