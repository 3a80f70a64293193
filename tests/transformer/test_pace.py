"""Lines of progress come some seconds apart."""

from __future__ import annotations

import pytest

from transformer.pace import Pace


def test_a_line_is_due_after_each_pause(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = Pace(5.0)
    due = {}
    for now in (100.0, 104.9, 105.0, 106.0, 109.9, 130.0, 134.0, 135.0):
        due[now] = pace.due()
    assert [at for at, is_due in due.items() if is_due] == [105.0, 130.0, 135.0]
