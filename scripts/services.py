"""The local servers: MLflow and Airflow in the background, with pid files and logs in `.run/`, and sample data.

    .venv/bin/python scripts/services.py up      # what `make up` runs
    .venv/bin/python scripts/services.py down    # what `make down` runs

Settings of other Airflow and MLflow installations in the shell's environment are ignored.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also for the scripts that import this module

from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.protocol import ENV_VARIABLE, TRACKING_VARIABLE

REPOSITORY = Path(__file__).resolve().parents[1]
RUN_FOLDER = REPOSITORY / ".run"
AIRFLOW_HOME = REPOSITORY / ".airflow"
MLFLOW_FOLDER = REPOSITORY / "data" / "mlflow"
EVENT_FILES = "events/*.parquet"
HOST = "127.0.0.1"
START_LIMIT_S = 600  # Airflow needs about 40 s on two cores, and 240 s next to ten busy processes a core
STOP_GRACE_S = 8  # a stage needs up to 4 s to save its work


class CommandError(Exception):
    """An error that the command prints as one line, before it exits with status 2."""


@dataclass(frozen=True)
class Service:
    """A server that this repository starts.

    Attributes:
        folder: folder of the server's data.
        healthy: returns whether the server on this port is ready for use.
        port_variable: environment variable that sets another port.
    """

    name: str
    port: int
    port_variable: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    healthy: Callable[[int], bool]

    @property
    def pid_file(self) -> Path:
        return RUN_FOLDER / f"{self.name.lower()}.json"

    @property
    def log_file(self) -> Path:
        return RUN_FOLDER / f"{self.name.lower()}.log"

    def running(self) -> tuple[psutil.Process, int] | None:
        """Return the server's process and port, or None if the server does not run."""
        try:
            record = json.loads(self.pid_file.read_text(encoding="utf-8"))
            process = psutil.Process(record["pid"])
            # The system reuses a pid some day, but not together with its start time.
            if process.create_time() == record["started"] and process.status() != psutil.STATUS_ZOMBIE:
                return process, record["port"]
        except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
            pass
        return None

    def start(self) -> bool:
        """Start the server and wait until it is healthy. Return False if it already ran.

        Raises:
            CommandError: the port is taken, or the server does not become healthy.
        """
        if running := self.running():
            if running[1] != self.port:
                raise CommandError(
                    f"{self.name} is already up on port {running[1]}, not {self.port}; "
                    f"run `make down` first or leave {self.port_variable} out"
                )
            return False
        require_free_port(self.port, self.name, self.port_variable)
        for folder in (RUN_FOLDER, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("wb") as log:
            process = subprocess.Popen(
                self.command,
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C in the terminal does not stop the server
            )
        record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "port": self.port}
        self.pid_file.write_text(json.dumps(record), encoding="utf-8")
        try:
            self._wait_until_healthy(process)
        except BaseException:
            self.stop()
            raise
        return True

    def stop(self) -> bool:
        """Stop the server. Return False if it did not run."""
        running = self.running()
        if running:
            stop_tree(running[0])
        self.pid_file.unlink(missing_ok=True)
        return running is not None

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self.healthy(self.port):
            if process.poll() is not None:
                raise CommandError(f"{self.name} ended while it started; read the reason in {self.log_file}")
            if time.monotonic() > deadline:
                raise CommandError(f"{self.name} is not healthy after {START_LIMIT_S} s; read {self.log_file}")
            time.sleep(0.5)


def stop_tree(process: psutil.Process) -> None:
    """Send SIGTERM to a process and all its descendants. After `STOP_GRACE_S` send SIGKILL to those that still run."""
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in tree:
        _signal(member.terminate)
    _, alive = psutil.wait_procs(tree, timeout=STOP_GRACE_S)
    for member in alive:
        _signal(member.kill)
    psutil.wait_procs(alive, timeout=STOP_GRACE_S)


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        send()


def require_free_port(port: int, name: str, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that was just closed does not count
        try:
            probe.bind((HOST, port))
        except OSError:
            raise CommandError(
                f"port {port} for {name} is taken by {_holder(port)}; stop it or set {variable} to a free port"
            ) from None


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                command = " ".join(psutil.Process(connection.pid).cmdline())
                return f"process {connection.pid} ({command[:80]})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass  # the process of another user
    return "another program"


def port_from(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise CommandError(f"{variable}={text!r} is not a port; give a number from 1 to 65535")
    return int(text)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the shell's environment without its Airflow and MLflow settings, without telemetry, and without a proxy
    for this machine.
    """
    foreign = ("AIRFLOW__", "AIRFLOW_HOME", "AIRFLOW_CONFIG", "_AIRFLOW", "MLFLOW_", "PYTHONHOME", "PYTHONPATH")
    credentials = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")  # remote servers
    kept = {name: value for name, value in environ.items() if name in credentials or not name.startswith(foreign)}
    direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), HOST, "localhost"]))
    return kept | {"NO_PROXY": direct, "no_proxy": direct, "MLFLOW_DISABLE_TELEMETRY": "true"}


def airflow_environment(environ: Mapping[str, str], database: str) -> dict[str, str]:
    """Return the environment of this repository's Airflow, with its metadata in `.airflow/<database>.db`."""
    return clean_environment(environ) | {
        "AIRFLOW_HOME": str(AIRFLOW_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME / database}.db",
        # `airflow standalone` starts its components by name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)]),
    }


def mlflow_service(environ: Mapping[str, str]) -> Service:
    port = port_from(environ, "MLFLOW_PORT", 5000)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{MLFLOW_FOLDER / 'mlflow.db'}"]
    command += ["--serve-artifacts", "--artifacts-destination", (MLFLOW_FOLDER / "artifacts").as_uri()]
    command += ["--workers", "1"]  # a worker needs 280 MB, and SQLite allows one writer at a time
    environment = clean_environment(environ) | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # true starts eight processes that evaluate language models
    }
    return Service("MLflow", port, "MLFLOW_PORT", command, environment, MLFLOW_FOLDER, _mlflow_healthy)


def airflow_service(environ: Mapping[str, str]) -> Service:
    port = port_from(environ, "AIRFLOW_PORT", 8080)
    environment = airflow_environment(environ, "airflow") | {
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "4",  # tasks at a time, one process each; the default is 32
        # A changed DAG file is read at once, an unchanged one only this often (s): it costs CPU. The default is 30 s.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",  # a DAG that is not paused runs when it is triggered
        TRACKING_VARIABLE: f"http://{HOST}:{mlflow_service(environ).port}",
    }
    command = [sys.executable, "-m", "airflow", "standalone"]
    return Service("Airflow", port, "AIRFLOW_PORT", command, environment, AIRFLOW_HOME, _airflow_healthy)


def _mlflow_healthy(port: int) -> bool:
    return _get(f"http://{HOST}:{port}/health") == b"OK"


def _airflow_healthy(port: int) -> bool:
    answer = _get(f"http://{HOST}:{port}/api/v2/monitor/health")
    parts = json.loads(answer) if answer else {}
    names = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    return all((parts.get(name) or {}).get("status") == "healthy" for name in names) and _dags_read()


def _dags_read() -> bool:
    """Return whether Airflow has read each DAG file. Until then, the page of its DAG answers that there is none."""
    query = "SELECT relative_fileloc FROM dag JOIN serialized_dag USING (dag_id)"
    query += " UNION SELECT filename FROM import_error"  # a broken file is read too
    try:
        with closing(sqlite3.connect(f"{(AIRFLOW_HOME / 'airflow.db').as_uri()}?mode=ro", uri=True)) as database:
            read = {Path(name).name for (name,) in database.execute(query)}
    except sqlite3.OperationalError:
        return False
    return read >= {path.name for path in (REPOSITORY / "dags").glob("*.py")}


def _get(url: str) -> bytes | None:
    """Send a GET that bypasses proxies, and return the body, or None if the server does not answer with success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return response.read()
    except (urllib.error.URLError, OSError, ValueError):
        return None


def ensure_sample_data(config: Config) -> None:
    """Simulate the sample railway if the configured folder is empty and no stage will download data into it.

    Raises:
        CommandError: the simulator failed; the folder then does not exist.
    """
    folder = REPOSITORY / config.data.local_folder
    if config.data.download_data_from_s3 or any(folder.glob(EVENT_FILES)):
        return
    print(f"No event tables in {folder}: simulating a railway", flush=True)
    command = [sys.executable, "-m", "transformer", "simulate", "--to", str(folder)]
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
        raise CommandError("the simulator failed; the reason is above")


def up(environ: Mapping[str, str]) -> None:
    config = load_config(environ.get(ENV_VARIABLE) or "local")  # of the first trigger, if it names no other one
    mlflow, airflow = mlflow_service(environ), airflow_service(environ)
    for service in (mlflow, airflow):
        if not service.running():
            require_free_port(service.port, service.name, service.port_variable)
    require_one_server(airflow)
    ensure_sample_data(config)
    for service in (mlflow, airflow):
        print(
            f"{service.name}: {'started' if service.start() else 'already up'}, log in {service.log_file}", flush=True
        )
    passwords = json.loads((AIRFLOW_HOME / "simple_auth_manager_passwords.json.generated").read_text(encoding="utf-8"))
    print(f"\nAirflow  http://{HOST}:{airflow.port}   user admin, password {passwords['admin']}")
    print(f"MLflow   http://{HOST}:{mlflow.port}")
    if mlflow.port != 5000:
        print(f"         for commands in a shell: export {TRACKING_VARIABLE}=http://{HOST}:{mlflow.port}")
    print("\n`make down` stops both.")


def require_one_server(airflow: Service) -> None:
    """Refuse an Airflow that runs already and sends its stages to another MLflow server.

    Raises:
        CommandError: as above.
    """
    if running := airflow.running():
        wanted = airflow.environment[TRACKING_VARIABLE]
        known = running[0].environ().get(TRACKING_VARIABLE, "another address")
        if known != wanted:
            raise CommandError(f"Airflow is already up and uses MLflow at {known}, not {wanted}; run `make down` first")


def down(environ: Mapping[str, str]) -> None:
    for service in (airflow_service(environ), mlflow_service(environ)):
        print(f"{service.name}: {'stopped' if service.stop() else 'was not up'}", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Start or stop the local MLflow and Airflow servers.")
    parser.add_argument("action", choices=["up", "down"])
    action = parser.parse_args(argv).action
    try:
        {"up": up, "down": down}[action](os.environ)
    except (CommandError, UserError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
