"""Values as people read them: spans of time, and lines without a password."""

import pytest

from transformer.text import LINE_LENGTH, duration, one_line, redact

SECRET_ADDRESS = "http://me:geheim@host:5000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (75, "1 min 15 s"),
        (1_572, "26 min 12 s"),
        (3_700, "1 h 01 min"),
    ],
)
def test_a_span_of_time_has_its_two_largest_units(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SECRET_ADDRESS, "http://***@host:5000"),
        ("postgresql+psycopg://me:p%40ss@db/studies", "postgresql+psycopg://***@db/studies"),
        ("postgresql://me:geheim@db/studies", "postgresql://***@db/studies"),
        ("postgresql://me@db:geheim@db/studies", "postgresql://***@db/studies"),
        ("postgresql://me@db/studies", "postgresql://me@db/studies"),  # a user alone is no secret
        ("at postgresql://me@db/x and http://me:geheim@h", "at postgresql://me@db/x and http://***@h"),
        ("https://token@host", "https://***@host"),
        ("http://me:pass@word@host", "http://***@host"),
        ("http://me:pass/word@host", "http://***@host"),
        ("request to http://me:geheim@host/x failed", "request to http://***@host/x failed"),
        ("http://host:5000", "http://host:5000"),
        ("someone@example.org", "someone@example.org"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_credentials_in_addresses_are_redacted(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


def test_redaction_reaches_into_dictionaries_and_lists() -> None:
    assert redact({"a": [SECRET_ADDRESS, 1], "b": {"c": None}}) == {"a": ["http://***@host:5000", 1], "b": {"c": None}}


def test_a_failure_is_one_line_of_bounded_length_that_begins_with_the_value_and_ends_with_the_remedy() -> None:
    assert one_line(f"a\nb {SECRET_ADDRESS}") == "a b http://***@host:5000"
    line = one_line("--set: model.d_model=" + "x" * 100_000 + " is not a whole number")
    assert line.startswith("--set: model.d_model=") and line.endswith("is not a whole number")
    assert len(line) <= LINE_LENGTH
    assert one_line(line) == line  # Airflow shows again what a stage has said
    assert "geheim" not in one_line("x" * (LINE_LENGTH // 2 - 12) + SECRET_ADDRESS + "x" * LINE_LENGTH)  # cut in it
