"""The end of a training in several processes: all of them end soon after SIGTERM or after the loss of one of them."""

from __future__ import annotations

import atexit
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
        try:
            yield
        except RuntimeError as error:
            if not lost_process(error):
                raise
            raise ServiceError(f"{LOST_PROCESS} ({_cause(error)})") from None
        finally:
            reacts.set()
            # Not now: Lightning ends a process whose children have ended, and this one may have a checkpoint to copy.
            atexit.register(_end_children, trainer)
            signal.set_wakeup_fd(before)
            os.close(writing)
            watcher.join()
            os.close(reading)


def _watch(reading: int, reacts: threading.Event, trainer: L.Trainer) -> None:
    """Read the numbers of the signals that this process gets."""
    while numbers := os.read(reading, 16):
        if signal.SIGTERM in numbers and not reacts.wait(_DEAF_S):
            _end_children(trainer)
            os.write(2, Terminated.LINE)
            os._exit(Terminated.STATUS)


def _cause(error: RuntimeError) -> str:
    """The first sentence of torch's message, without the place in its source."""
    return re.sub(r"^\[[^\]]*\] ", "", first_line(error)).partition(". ")[0]


def _end_children(trainer: L.Trainer) -> None:
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        trainer.strategy.launcher.kill(signal.SIGKILL)
