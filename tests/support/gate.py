"""A proxy between a client and a service, which can make the service vanish."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

OPEN, CLOSED, FAILING, SILENT = "open", "closed", "failing", "silent"
_ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Gate:
    """OPEN forwards connections, CLOSED ends them, FAILING answers 500, and SILENT does not answer."""

    def __init__(self, port: int) -> None:
        self.state = OPEN
        self._service = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

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
                threading.Thread(target=self._requests, args=(client, service), daemon=True).start()
                threading.Thread(target=self._answers, args=(service, client), daemon=True).start()

    def _requests(self, client: socket.socket, service: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self.state == OPEN:
                    service.sendall(data)
                elif self.state != SILENT:
                    if self.state == FAILING:
                        client.sendall(_ANSWER)
                    client.shutdown(socket.SHUT_RDWR)

    def _answers(self, service: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := service.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
