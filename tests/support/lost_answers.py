"""A proxy in front of a server that loses one answer: the client cannot know whether its request was carried out."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class LosingProxy:
    """Forwards connections. The one that sends the parts of `lose` in their order is cut off.

    Attributes:
        lost: number of connections that were cut off.
    """

    def __init__(self, port: int) -> None:
        self.lost = 0
        self._parts: tuple[bytes, ...] = ()
        self._carried_out = True
        self._lock = threading.Lock()
        self._service = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, *parts: bytes, carried_out: bool = True) -> None:
        """Cut off the next connection that sends these parts.

        Args:
            carried_out: True = the server gets the last part, and only its answer is lost.
        """
        with self._lock:
            self._parts, self._carried_out = parts, carried_out

    def stop(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                service = socket.create_connection(self._service)
                self._sockets += [client, service]
                cut = threading.Event()
                threading.Thread(target=self._requests, args=(client, service, cut), daemon=True).start()
                threading.Thread(target=self._answers, args=(service, client, cut), daemon=True).start()

    def _requests(self, client: socket.socket, service: socket.socket, cut: threading.Event) -> None:
        seen = 0
        with suppress(OSError):
            while data := client.recv(1 << 16):
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
            while data := service.recv(1 << 16):
                if cut.is_set():  # the server has answered, so it has carried out the request
                    break
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
