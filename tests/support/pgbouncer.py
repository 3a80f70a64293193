"""A pooler in front of a PostgreSQL server, in transaction mode: each transaction may have another connection."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.support.patience import wait_until
from tests.support.ports import free_port
from tests.support.postgres import Postgres, answers, server_user
from tests.support.programs import PGBOUNCER, require
from tests.support.run_folder import start_server

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {connections}
server_login_retry = 1
"""


def pooler(server: Postgres, connections: int) -> Postgres:
    """The same server behind a pooler with that many connections per database. Without PgBouncer, skip the test."""
    program = require(PGBOUNCER)
    pooled = replace(server, port=free_port())
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    (folder / "users").write_text(f'"{server.user}" "{server.password}"\n"admin" "{server.password}"\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(server=server.port, port=pooled.port, folder=folder, connections=connections)
    )
    user = server_user()
    if user:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "nobody")
    log = folder / "log"
    process = start_server([str(program), str(configuration)], log, os.environ, scratch=folder, cwd=folder, **user)
    wait_until(lambda: answers(pooled), "PgBouncer", process, log)
    return pooled
