"""A mail server that keeps what it receives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailbox:
    """Messages in the order of arrival, and the Airflow connection of the server."""

    def __init__(self) -> None:
        self.messages: list[Message | EmailMessage] = []
        self.connection = ""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.messages.append(message_from_bytes(envelope.content or b"", policy=default))
        return "250 OK"

    def subjects(self) -> list[str]:
        return [str(message["subject"]) for message in self.messages]


@contextmanager
def mail_server(port: int) -> Iterator[Mailbox]:
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    settings = "disable_ssl=true&disable_tls=true&timeout=5&retry_limit=1&from_email=airflow%40example.org"
    mailbox.connection = f"smtp://127.0.0.1:{port}?{settings}"
    try:
        yield mailbox
    finally:
        controller.stop()
