"""Windows of service dates: their options on the command line, and their dates."""

from datetime import date
from pathlib import Path

import pytest

from tests.support.messages import assert_names
from transformer.errors import UserError
from transformer.evaluation.window import Scope, Window, window_name

DAYS = [date(2024, 12, day) for day in (16, 13, 14, 20)]
TODAY = date(2025, 1, 1)


@pytest.mark.parametrize(
    ("options", "days"),
    [
        (("2024-12-14", "2024-12-19", None), [14, 16]),
        (("2024-12-20", "2024-12-20", None), [20]),
        ((None, None, 2), [16, 20]),
        ((None, None, 30), [13, 14, 16, 20]),
    ],
)
def test_a_window_holds_the_dates_that_have_data(options, days: list[int]):
    window = Window.parse(*options)
    assert window is not None
    assert [day.day for day in window.dates(DAYS, TODAY)] == days


def test_the_last_dates_are_over():
    today = date(2024, 12, 20)
    assert [day.day for day in Window(count=2).dates(DAYS, today)] == [14, 16]
    assert Window(today, today).dates(DAYS, today) == (today,)  # a date that is named is meant
    with pytest.raises(UserError) as caught:
        Window(count=2).dates(DAYS, date(2024, 12, 13))
    assert_names(caught.value, "--last 2", "no date with events is over", "2024-12-13")


def test_no_option_is_no_window():
    assert Window.parse(None, None, None) is None


def test_a_window_is_called_by_its_ends():
    assert window_name((date(2024, 12, 14), date(2024, 12, 16))) == "2024-12-14..2024-12-16"
    assert window_name((date(2024, 12, 14),)) == "2024-12-14..2024-12-14"


def test_results_of_windows_and_of_the_test_dates_lie_apart():
    test, window = Scope.of_test((DAYS[3],)), Scope.of_dates((date(2024, 12, 16), date(2024, 12, 20)))
    assert (test.prefix, test.local) == ("test", "evaluation")
    assert window.days == (date(2024, 12, 16), date(2024, 12, 20))
    name = "2024-12-16..2024-12-20"
    assert (window.name, window.prefix) == (name, "window")
    run = Path("run")
    assert test.result_file(run) == run / "evaluation.json"
    assert window.result_file(run) == run / "windows" / f"{name}.json"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("2024-12-14", None, None), ["--from", "--to", "both"]),
        ((None, "2024-12-14", None), ["--from", "--to", "both"]),
        (("2024-12-14", "2024-12-14", 3), ["--last 3", "--from/--to", "one of them"]),
        ((None, None, 0), ["--last 0", "above 0"]),
        (("2024-12-32", "2024-12-14", None), ["--from '2024-12-32'", "not a date", "2024-12-21"]),
        (("2024-12-14", "tomorrow", None), ["--to 'tomorrow'", "not a date"]),
        (("2024-12-14", "2024-12-13", None), ["--from 2024-12-14", "after --to 2024-12-13"]),
    ],
)
def test_a_window_that_makes_no_sense_is_one_line(options, parts: list[str]):
    with pytest.raises(UserError) as caught:
        Window.parse(*options)
    assert_names(caught.value, *parts)


def test_an_empty_window_is_refused_and_says_what_there_is():
    window = Window(date(2024, 12, 17), date(2024, 12, 19))
    with pytest.raises(UserError) as caught:
        window.dates(DAYS, TODAY)
    assert_names(caught.value, "no events", "--from 2024-12-17", "--to 2024-12-19", "2024-12-13 to 2024-12-20")
