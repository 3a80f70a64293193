"""Servers that tests need: MLflow as a process, and S3 in this process. Each is returned once it answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from moto.server import ThreadedMotoServer

from tests.support.answers import answers
from tests.support.ceph import ceph_server
from tests.support.patience import wait_until
from tests.support.ports import free_port
from tests.support.run_folder import once, start_server


def mlflow_server() -> tuple[str, Path]:
    """Address of the MLflow server of this test run, and the folder of its database and artifacts."""
    made = once("mlflow", _start_mlflow)
    return made["url"], Path(made["folder"])


def _start_mlflow(folder: Path) -> dict[str, str]:
    url = start_mlflow(folder, "--serve-artifacts", "--artifacts-destination", (folder / "artifacts").as_uri())
    return {"url": url, "folder": str(folder)}


def start_mlflow(
    folder: Path,
    *options: str,
    store: str = "",
    prefix: str = "",
    python: Path = Path(sys.executable),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Start an MLflow server until the end of the test run, and return its address.

    Args:
        folder: its working folder, with its log and its database.
        store: address of its database; "" = a file in `folder`.
        prefix: path below which it has its pages and its API.
        python: the Python whose MLflow is the server.
        variables: of its environment.
    """
    port = free_port()
    command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", store or f"sqlite:///{folder}/mlflow.db", *options]
    command += ["--static-prefix", prefix] if prefix else []
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    process = start_server(command, log, {**os.environ, **quiet, **variables}, cwd=folder)
    url = f"http://127.0.0.1:{port}{prefix}"
    wait_until(lambda: answers(f"{url}/health") == b"OK", "MLflow", process, log)
    return url


# Parameters of a fixture that starts each S3 server, see `every_server`.
EVERY_SERVER = ["moto", pytest.param("ceph", marks=pytest.mark.s3)]


@contextmanager
def every_server(kind: str, access_key: str, secret_key: str) -> Iterator[str]:
    """Address of an S3 server of a kind. It knows a user of these keys."""
    if kind == "moto":
        with s3_server() as url:
            yield url
    else:
        yield ceph_server(access_key, secret_key)


@contextmanager
def s3_server() -> Iterator[str]:
    """Address of an S3 server in this process. All such servers share their buckets."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
