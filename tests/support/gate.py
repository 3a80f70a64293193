"""A proxy between a client and a service, which can make the service vanish."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from tests.support.forwarding import PIECE, Forwarder

OPEN, CLOSED, FAILING, SILENT = "open", "closed", "failing", "silent"
_ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Gate(Forwarder):
    """OPEN forwards connections, CLOSED ends them, FAILING answers 500, and SILENT does not answer."""

    def __init__(self, port: int) -> None:
        self.state = OPEN
        super().__init__(port)

    def _directions(self, client: socket.socket, service: socket.socket) -> Iterable[Callable[[], None]]:
        return partial(self._requests, client, service), partial(self._answers, service, client)

    def _requests(self, client: socket.socket, service: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(PIECE):
                if self.state == OPEN:
                    service.sendall(data)
                elif self.state != SILENT:
                    if self.state == FAILING:
                        client.sendall(_ANSWER)
                    client.shutdown(socket.SHUT_RDWR)

    def _answers(self, service: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := service.recv(PIECE):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
