"""A PostgreSQL server for the tests that need one."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.support.programs import POSTGRESQL, require


@dataclass(frozen=True)
class Postgres:
    """A server on 127.0.0.1 that asks for passwords; `tuner` may log in and owns what `database` makes."""

    port: int
    password: str
    user: str = "tuner"

    def url(self, database: str, user: str = "") -> str:
        """Address for `search.storage_url`, without the password."""
        return f"postgresql://{user or self.user}@127.0.0.1:{self.port}/{database}"

    def admin(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the superuser and return its rows, if it has any."""
        with psycopg.connect(self.url(database, "admin"), password=self.password, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """Make a new empty database and return its address."""
        name = f"studies_{uuid4().hex[:12]}"
        self.admin(f"CREATE DATABASE {name} OWNER {self.user}")
        return self.url(name)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Started for the block; skips the test where PostgreSQL is not installed, and fails it where `CI` is set."""
    programs = require(POSTGRESQL)
    # The server refuses to run as root, and pytest's own folders are closed to other users.
    user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    password = secrets.token_hex(12)
    (folder / "password").write_text(password)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, "nobody")
    data, log = folder / "data", folder / "server.log"
    initdb = [str(programs / "initdb"), "--pgdata", str(data), "--username=admin", "--auth=scram-sha-256"]
    initdb += [f"--pwfile={folder / 'password'}", "--no-locale", "--encoding=UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, start_new_session=True, **user)
    server = Postgres(port, password)
    try:
        _wait_for(server, process, log)
        server.admin(f"CREATE ROLE {server.user} LOGIN PASSWORD '{password}'")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # does not wait for clients
            process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(server: Postgres, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            server.admin("SELECT 1")
            return
        except psycopg.OperationalError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
