"""Memory that a process has freed, and that its allocator keeps."""

from __future__ import annotations

import ctypes
import gc


def give_back_free_memory() -> None:
    """Give the pages of freed memory back to the system, where the C library can.

    glibc keeps them for later, in pieces that fit less and less as arrays of other sizes come. So the memory of a long
    computation grows with its length, though it needs no more. A process that is forked holds the pages as well, and
    for good.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
