"""The end of a training in several processes: all of them end soon after SIGTERM or after the loss of one of them."""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import lightning as L
import torch.distributed
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from transformer.errors import ServiceError, Terminated
from transformer.protocol import LOST_PROCESS
from transformer.text import first_line
from transformer.training.processes import lost_process

# A process waits for the others this long. Rank 0 lets them wait longest, while it copies the checkpoints of an epoch
# to MLflow. Torch's own limit for gloo is 30 minutes, in which every node would be idle.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
# Python runs no handler while torch waits for other processes. If they are well, such a wait takes less than this.
_DEAF_S = 10.0
# After its last epoch, a process has only its interpreter to end.
_GRACE_S = 10.0


class Termination(Callback):
    """Ends the processes of a training. It does nothing in a training of one process."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size == 1:
            return
        world = torch.distributed.group.WORLD
        assert world is not None, "several processes are a process group"
        world.set_timeout(COLLECTIVE_TIMEOUT)  # until here, the limit is that of late nodes
        # Lightning's handler sends a message to the other processes. They take it for another one, and hang or exit
        # with 0.
        signal.signal(signal.SIGTERM, self._handler)

    @contextmanager
    def watching(self, trainer: L.Trainer) -> Iterator[None]:
        """Let a process end after SIGTERM in the block, even if it waits for the others. End its own processes too.

        Raises:
            ServiceError: another process of the training has ended, or does not answer.
        """
        if trainer.world_size == 1:
            yield
            return
        reacts = threading.Event()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing)
        watcher = threading.Thread(target=_watch, args=(reading, reacts, trainer), daemon=True)
        watcher.start()
        grace_s = 0.0  # after a failure the other processes wait for this one, and would for minutes
        try:
            yield
            grace_s = _GRACE_S
        except RuntimeError as error:
            if not lost_process(error):
                raise
            raise ServiceError(f"{LOST_PROCESS} ({_cause(error)})") from None
        finally:
            reacts.set()
            # They end with this process, which may have a checkpoint to copy first.
            atexit.register(end, take_children(trainer), grace_s)
            signal.set_wakeup_fd(before)
            os.close(writing)
            watcher.join()
            os.close(reading)


def _watch(reading: int, reacts: threading.Event, trainer: L.Trainer) -> None:
    """Read the numbers of the signals that this process gets."""
    while numbers := os.read(reading, 16):
        if signal.SIGTERM in numbers and not reacts.wait(_DEAF_S):
            end(take_children(trainer), 0.0)
            os.write(2, Terminated.LINE)
            os._exit(Terminated.STATUS)


def _cause(error: RuntimeError) -> str:
    """The first sentence of torch's message, without the place in its source."""
    return re.sub(r"^\[[^\]]*\] ", "", first_line(error)).partition(". ")[0]


def take_children(trainer: L.Trainer) -> list[subprocess.Popen[bytes]]:
    """The processes that Lightning started here. From now on, it watches them no longer.

    A thread of Lightning kills this process as soon as it sees one of them ended with another status than 0.
    """
    if not isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        return []
    watched = trainer.strategy.launcher.procs
    children = list(watched)
    watched.clear()  # the thread has the same list
    return children


def end(children: Sequence[subprocess.Popen[bytes]], grace_s: float) -> None:
    """Kill the children that do not end by themselves within `grace_s` seconds."""
    last = time.monotonic() + grace_s
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, last - time.monotonic()))
        child.kill()
