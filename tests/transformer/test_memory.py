"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from transformer.memory import give_back_free_memory

PIECE = 100_000  # bytes; larger ones are mapped, and go back by themselves


def resident_mib() -> float:
    """Memory of this process without that of mapped files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory, and can give it back")
def test_freed_memory_goes_back_although_some_of_it_is_in_use_in_between():
    pieces = [np.ones(PIECE, np.int8) for _ in range(3_000)]
    full = resident_mib()
    kept = pieces[::100]
    del pieces
    give_back_free_memory()
    assert resident_mib() < full - 200
    assert all(piece.all() for piece in kept)


def test_a_c_library_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    give_back_free_memory()
