"""Compare a message by the keys, values and remedies that it names, not by its sentence."""

from __future__ import annotations


def assert_names(message: object, *parts: str) -> None:
    """Fail unless the message is one line that names every part: a key, a value, a file or a command."""
    text = str(message)
    assert len(text.splitlines()) == 1, text
    missing = [part for part in parts if part not in text]
    assert not missing, f"{text!r} does not name {missing}"
