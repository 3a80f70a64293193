"""A proxy between clients and a server. Its subclasses lose, change or delay what passes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

PIECE = 1 << 16  # bytes read at once


class Forwarder:
    """Accepts connections on `port` of this machine, and opens one to the server for each."""

    def __init__(self, port: int) -> None:
        self._service = ("127.0.0.1", port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Accept no connection any more, and end those that are open."""
        _close(self._listener)
        self.hang_up()

    def hang_up(self) -> None:
        """End every open connection."""
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            _close(end)

    def _admits(self) -> bool:
        """Whether a new connection is served. Otherwise it is closed at once."""
        return True

    def _directions(self, client: socket.socket, service: socket.socket) -> Iterable[Callable[[], None]]:
        """Two functions that pass on what the client sends and what the server sends. Each runs in a thread."""
        raise NotImplementedError

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    if not self._admits():
                        raise ConnectionRefusedError
                    service = socket.create_connection(self._service)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, service}
                for direction in self._directions(client, service):
                    threading.Thread(target=direction, daemon=True).start()


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
