"""Free ports. No two tests get the same port, also in different processes of a test run."""

from __future__ import annotations

import socket

FIRST, LAST = 15_000, 32_767  # above the well-known ports, below those that systems give to clients
_claims: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is reserved for this process until it ends.

    The reservation is the UDP port of the same number. No server here uses it, and only one process can bind it.
    """
    start = FIRST + len(_claims)
    for port in range(start, LAST):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # recently closed connections do not count
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise AssertionError(f"no free port from {FIRST} to {LAST}")
