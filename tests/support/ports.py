"""Ports that no two tests get, at whatever time and in whichever process they ask."""

from __future__ import annotations

import socket

FIRST, LAST = 15_000, 32_767  # above the well-known ones, below those that systems give to clients
_claims: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is this process's to give until it ends.

    The port is claimed by its UDP sibling, which no server here wants and which the system gives to one process alone.
    """
    start = FIRST + len(_claims)
    for port in range(start, LAST):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection just closed does not count
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise AssertionError(f"no free port from {FIRST} to {LAST}")
