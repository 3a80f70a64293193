"""One PostgreSQL server for all tests that need it, each with its own database, and servers that fail over."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.support.patience import PATIENCE_S, wait_until
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

    def offer_tls(self) -> Path:
        """Let clients that ask for it connect with TLS, and demand it of the user `encrypted`.

        Returns the certificate of the server, which is its own authority.
        """
        return Path(once("postgres-tls", lambda _: self._offer_tls()))

    def _offer_tls(self) -> str:
        folder = Path(str(self.admin("SHOW data_directory")[0][0]))
        key, certificate = folder / "server.key", folder / "server.crt"
        make_certificate(key, certificate)
        for path in (key, certificate):
            shutil.chown(path, folder.owner())
        self.admin(f"CREATE ROLE encrypted LOGIN PASSWORD '{self.password}'")
        rules = folder / "pg_hba.conf"
        rules.write_text(f"hostnossl all encrypted all reject\n{rules.read_text()}")
        self.admin("ALTER SYSTEM SET ssl = on")
        self.admin("SELECT pg_reload_conf()")
        return str(certificate)


def make_certificate(key: Path, certificate: Path) -> None:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    key.chmod(0o600)


def postgres_server() -> Postgres:
    """The server of this test run. Without PostgreSQL, the test is skipped, or fails if `CI` is set."""
    programs = require(POSTGRESQL)
    return Postgres(**once("postgres", lambda folder: _start(programs, folder)))


def _start(programs: Path, made: Path) -> dict[str, object]:
    folder, password = _initialized(programs)
    server = Postgres(free_port(), password)
    _run(programs, folder, server, made / "server.log", folder / "data")
    server.admin(f"CREATE ROLE {server.user} LOGIN PASSWORD '{password}'")
    return {"port": server.port, "password": password}


def server_user() -> dict[str, object]:
    """Options of a process. Servers of databases refuse to run as root, and other users cannot read its folders."""
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def _initialized(programs: Path) -> tuple[Path, str]:
    """A folder with `data`, the files of a new server, and the password of the superuser `admin`."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    password = secrets.token_hex(12)
    (folder / "password").write_text(password)
    user = server_user()
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, "nobody")
    initdb = [str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username=admin", "--auth=scram-sha-256"]
    initdb += [f"--pwfile={folder / 'password'}", "--no-locale", "--encoding=UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **user)
    return folder, password


def _run(
    programs: Path, folder: Path, server: Postgres, log: Path, data: Path, *options: str, waits: bool = True
) -> subprocess.Popen[bytes]:
    """Start a server on the files in `data`. With `waits`, return when it answers."""
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(server.port), "-k", str(folder)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", *options]
    process = start_server(command, log, os.environ, scratch=folder, cwd=folder, **server_user())
    if waits:
        wait_until(lambda: answers(server), "PostgreSQL", process, log)
    return process


class FailoverPostgres:
    """A server of one test, whose data another server can take over, at the same address.

    Attributes:
        server: the address, as of a server that stays.
    """

    def __init__(self) -> None:
        self._programs = require(POSTGRESQL)
        self._folder, password = _initialized(self._programs)
        self.server = Postgres(free_port(), password)
        self._generation = 0
        self._data = self._folder / "data"
        self._process = self._start()
        self.server.admin(f"CREATE ROLE {self.server.user} LOGIN PASSWORD '{password}'")

    def stop(self, how: signal.Signals) -> None:
        """SIGINT ends each session with an error, and writes all data. SIGQUIT is as if the server had crashed."""
        self._process.send_signal(how)
        self._process.wait(PATIENCE_S)

    def take_over(self, *, reads: bool) -> None:
        """Start a standby on a copy of the data of the stopped server.

        Args:
            reads: True = it answers, and refuses to write. False = it says that it starts.
        """
        self._generation += 1
        copy = self._folder / f"data-{self._generation}"
        shutil.copytree(self._data, copy, ignore=shutil.ignore_patterns("postmaster.pid"))
        (copy / "standby.signal").touch()
        if server_user():
            for path in (copy, *copy.rglob("*")):
                shutil.chown(path, "nobody", "nogroup")
        copy.chmod(0o700)
        self._data = copy
        self._process = self._start("-c", f"hot_standby={'on' if reads else 'off'}", waits=reads)

    def promote(self) -> None:
        """Let the standby write."""
        command = [str(self._programs / "pg_ctl"), "promote", "--wait", "-D", str(self._data)]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **server_user())
        wait_until(lambda: answers(self.server), "the promoted server", self._process)

    def _start(self, *options: str, waits: bool = True) -> subprocess.Popen[bytes]:
        log = self._folder / f"server-{self._generation}.log"
        return _run(self._programs, self._folder, self.server, log, self._data, *options, waits=waits)


def answers(server: Postgres) -> bool:
    """Whether the server lets its superuser in."""
    try:
        server.admin("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
