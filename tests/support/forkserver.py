"""Runs Python modules and programs in forks of one process that has already imported the heavy libraries.

    python -m tests.support.forkserver SOCKET

The imports of a training take nine seconds of CPU time, more than a small training itself. A fork has them at once.
`tests.support.commands` asks for forks. A request is one message with three open files: standard input, output and
error of the fork. The first answer is the process id of the fork, and the second is its exit status.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    "boto3",
    "mlflow",
    "optuna",
    "lightning.pytorch",
    "matplotlib.figure",
    "transformer.cli",
    "transformer.stages",
)
# Threads that these imports start. Those of jemalloc survive a fork, and the one of Polars sleeps.
HARMLESS_THREADS = {"jemalloc_bg_thd", "polars-ooc-clea"}
REQUEST_BYTES = 1 << 20  # the environment and the arguments of one command


def main(address: Path) -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    others = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    threads = {(task / "comm").read_text().strip() for task in others}
    assert threads <= HARMLESS_THREADS, f"a fork would lack {threads - HARMLESS_THREADS}, and keep the locks they hold"
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    gc.set_threshold(100_000, 20, 20)  # as of `python -m transformer`
    request = _serve(address)
    status = 0
    try:
        _run(request)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # there is an exception
        status = 1
    _end(status)


def _serve(address: Path) -> dict[str, Any]:
    """Answer requests until SIGINT. In each fork, return its request."""
    wake, awake = socket.socketpair()
    wake.setblocking(False)
    awake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(awake.fileno())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    unready = address.with_name("unready")
    listener.bind(str(unready))
    listener.listen(64)
    unready.rename(address)  # who sees the socket is answered
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    clients: dict[int, socket.socket] = {}  # by the process id of the fork
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if ready is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            if ready is wake:
                with suppress(BlockingIOError):
                    wake.recv(4096)
                _report_ends(clients)
                continue
            try:
                message, files, _, _ = socket.recv_fds(ready, REQUEST_BYTES, 3)
            except ConnectionResetError:  # the client has gone without reading our answer
                message, files = b"", []
            if not message:  # the client has gone
                selector.unregister(ready)
                ready.close()
                _kill_forks(clients, ready)
            elif pid := os.fork():
                for file in files:
                    os.close(file)
                clients[pid] = ready
                with suppress(OSError):  # the client has gone, which the next event says
                    ready.send(json.dumps({"pid": pid}).encode())
            else:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, file in enumerate(files):
                    os.dup2(file, number)
                    os.close(file)
                for connection in (listener, wake, awake, ready, *clients.values()):
                    connection.close()
                selector.close()
                return dict(json.loads(message))


def _report_ends(clients: dict[int, socket.socket]) -> None:
    while clients:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with suppress(OSError):  # the client has gone
            clients.pop(pid).send(json.dumps({"returncode": os.waitstatus_to_exitcode(status)}).encode())


def _kill_forks(clients: dict[int, socket.socket], gone: socket.socket) -> None:
    for pid, client in clients.items():
        if client is gone:
            os.kill(pid, signal.SIGKILL)


def _run(request: dict[str, Any]) -> None:
    """Do the same as `python -m MODULE ARGUMENTS` or `python PROGRAM ARGUMENTS`."""
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a file
    sys.modules["numpy"].random.seed()  # Python's own generator reseeds itself in a fork
    program, *arguments = request["arguments"]
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def _end(status: int) -> NoReturn:
    """End like Python, without its half second for the destruction of all objects of the libraries."""
    # It also wakes the idle threads of pools, for which a join would never end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
