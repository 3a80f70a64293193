"""Values as text for people: durations, numbers, tables, and lines without credentials."""

import math
import re
from collections.abc import Mapping
from typing import Any

LINE_LENGTH = 2_000  # characters of a failure's line; a wrong value in it may be longer


def duration(seconds: float) -> str:
    """`75` → `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def redact(value: Any) -> Any:
    """`value` with the credentials of addresses replaced: `http://user:password@host` → `http://***@host`.

    Texts inside dictionaries and lists are redacted too. Anything before the `@` that may be a password is replaced.
    Only the user name of a PostgreSQL address without a password is kept.
    """
    if isinstance(value, str):
        return re.sub(r"(?<=://)(?!(?<=postgresql://)[\w.-]+@[^\s@]*(?:\s|$))\S*@", "***@", value)
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return value


def one_line(message: str) -> str:
    """The message of a failure as one line without credentials. A very long line lacks its middle."""
    line = str(redact(" ".join(message.split())))
    gap = " … "
    half = (LINE_LENGTH - len(gap)) // 2
    return line if len(line) <= LINE_LENGTH else f"{line[:half]}{gap}{line[-half:]}"  # the remedy stands at the end


def first_line(error: BaseException) -> str:
    """The first line of an error's text without credentials, cut at 300 characters; the error's type if no text."""
    text = str(error).strip() or type(error).__name__
    return str(redact(text.splitlines()[0][:300]))


def aligned(header: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a table: header, rule, body. The first column is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    cells = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (header, *body)
    ]
    lines = ["  ".join(line).rstrip() for line in cells]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def seconds_text(value: float) -> str:
    return f"{value:,.1f} s"


def signed_seconds_text(value: float) -> str:
    return f"{value:+,.1f} s"


def minutes_text(value_s: float) -> str:
    return f"{value_s / 60:,.1f} min"


def share_text(value: float) -> str:
    return f"{value:.1%}"


def score_text(value: float) -> str:
    """A score between 0 and 1."""
    return f"{value:.3f}"


def skill_text(value: float | None) -> str:
    """A skill in percent; a dash if translation made no error."""
    return "-" if value is None or math.isnan(value) else f"{value:+.1%}"
