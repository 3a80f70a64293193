"""One PostgreSQL server for all tests that need it. Each test has its own database."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.support.patience import wait_until
from tests.support.ports import free_port
from tests.support.programs import POSTGRESQL, require
from tests.support.run_folder import once, start_server


@dataclass(frozen=True)
class Postgres:
    """A server on 127.0.0.1 that asks for passwords. The user `tuner` owns the databases of `database`."""

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

    def offer_tls(self) -> None:
        """Let clients that ask for it connect with TLS. The certificate is the server's own."""
        folder = Path(str(self.admin("SHOW data_directory")[0][0]))
        key, certificate = folder / "server.key", folder / "server.crt"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        key.chmod(0o600)
        for path in (key, certificate):
            shutil.chown(path, folder.owner())
        self.admin("ALTER SYSTEM SET ssl = on")
        self.admin("SELECT pg_reload_conf()")


def postgres_server() -> Postgres:
    """The server of this test run. Without PostgreSQL, the test is skipped, or fails if `CI` is set."""
    programs = require(POSTGRESQL)
    return Postgres(**once("postgres", lambda folder: _start(programs, folder)))


def _start(programs: Path, made: Path) -> dict[str, object]:
    # The server refuses to run as root, and other users cannot read the folders of a test run.
    user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    password = secrets.token_hex(12)
    (folder / "password").write_text(password)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, "nobody")
    data, log = folder / "data", made / "server.log"
    initdb = [str(programs / "initdb"), "--pgdata", str(data), "--username=admin", "--auth=scram-sha-256"]
    initdb += [f"--pwfile={folder / 'password'}", "--no-locale", "--encoding=UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **user)
    server = Postgres(free_port(), password)
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(server.port), "-k", str(folder)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    process = start_server(command, log, os.environ, scratch=folder, cwd=folder, **user)
    wait_until(lambda: _answers(server), "PostgreSQL", process, log)
    server.admin(f"CREATE ROLE {server.user} LOGIN PASSWORD '{password}'")
    return {"port": server.port, "password": password}


def _answers(server: Postgres) -> bool:
    try:
        server.admin("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
