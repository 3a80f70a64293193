"""The account of reading adds up, and knows every reason."""

import pytest

from transformer.data.reasons import ReadingReport


def account() -> ReadingReport:
    report = ReadingReport(events=100, kept=90, cancelled=5, unobserved=10, labels=72, inputs=70)
    report.count("dropped", "without train_id", 10)
    report.count("discarded", "in an impossible order", 3)
    report.count("notes", "at a point that op_nodes does not know", 4)
    return report


def test_the_numbers_add_up() -> None:
    report = account()
    assert report.adds_up
    report.add(account())
    assert report.adds_up
    assert report.events == 200
    report.kept -= 1
    assert not report.adds_up


def test_every_number_is_a_line() -> None:
    assert account().lines() == [
        "100  events read",
        " 10  − dropped: without train_id",
        " 90  = events kept",
        "  5  − cancelled",
        " 10  − not observed",
        "  3  − observation discarded: in an impossible order",
        " 72  = used as labels",
        "  2  − out of order",
        " 70  = used as inputs",
        "  4  noted: at a point that op_nodes does not know",
    ]


def test_a_reason_that_the_documentation_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no reason of dropped"):
        ReadingReport().count("dropped", "because", 1)
    assert ReadingReport().as_dict()["dropped"] == {}


def test_a_reason_that_never_occurred_has_no_entry() -> None:
    report = ReadingReport()
    report.count("dropped", "without train_id", 0)
    assert report.dropped == {}
