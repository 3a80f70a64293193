"""A proxy in front of a server that loses one answer: the client cannot know whether its request was carried out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from tests.support.forwarding import PIECE, Forwarder


class LosingProxy(Forwarder):
    """Forwards connections. The one that sends the parts of `lose` in their order is cut off.

    Attributes:
        lost: number of connections that were cut off.
    """

    def __init__(self, port: int) -> None:
        self.lost = 0
        self._parts: tuple[bytes, ...] = ()
        self._carried_out = True
        super().__init__(port)

    def lose(self, *parts: bytes, carried_out: bool = True) -> None:
        """Cut off the next connection that sends these parts.

        Args:
            carried_out: True = the server gets the last part, and only its answer is lost.
        """
        with self._lock:
            self._parts, self._carried_out = parts, carried_out

    def _directions(self, client: socket.socket, service: socket.socket) -> Iterable[Callable[[], None]]:
        cut = threading.Event()
        return partial(self._requests, client, service, cut), partial(self._answers, service, client, cut)

    def _requests(self, client: socket.socket, service: socket.socket, cut: threading.Event) -> None:
        seen = 0
        with suppress(OSError):
            while data := client.recv(PIECE):
                with self._lock:
                    if seen < len(self._parts) and self._parts[seen] in data:
                        seen += 1
                    if self._parts and seen == len(self._parts):
                        self._parts = ()
                        self.lost += 1
                        cut.set()
                if cut.is_set() and not self._carried_out:
                    break
                service.sendall(data)
            if cut.is_set() and not self._carried_out:
                client.shutdown(socket.SHUT_RDWR)
            service.shutdown(socket.SHUT_RDWR)

    def _answers(self, service: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := service.recv(PIECE):
                if cut.is_set():  # the server has answered, so it has carried out the request
                    break
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
