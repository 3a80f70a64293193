"""The processes of a training, on this machine or on several nodes.

Lightning starts the processes of each machine. With `TRANSFORMER_NODES=N`, the same command runs on N machines, each
with its NODE_RANK, and the processes meet at MASTER_ADDR and MASTER_PORT, an address of the first machine.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from datetime import timedelta

import torch.distributed
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from transformer.errors import ServiceError, UserError
from transformer.protocol import NODES_VARIABLE
from transformer.text import duration

log = logging.getLogger(__name__)

_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
# Lightning reads the place of a process from these variables. SLURM, LSF, torchrun and Kubeflow set them for every
# program of a job, also for one that starts its processes itself.
_RANKS = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "JSM_NAMESPACE_RANK",
)  # fmt: skip
_FIRST = "TRANSFORMER_TRAINING_PROCESS"  # id of the first process; those that Lightning starts inherit the variable
_POLL_S = 1.0


class TrainingProcesses(LightningEnvironment):
    """Replaces the cluster that Lightning would detect, so that a batch system changes no training.

    Raises:
        UserError: there are several nodes, and this process does not know where they meet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes = _whole(NODES_VARIABLE, 1)
        if os.environ.setdefault(_FIRST, str(os.getpid())) == str(os.getpid()):
            for name in _RANKS if self.nodes > 1 else (*_RANKS, *_RENDEZVOUS):
                os.environ.pop(name, None)
            if self.nodes > 1:
                self._check()
            self.set_global_rank(self.node_rank())

    def strategy(self, name: str, rendezvous_s: float) -> str | DDPStrategy:
        """The strategy of Lightning with this name, which waits for late nodes for `rendezvous_s`."""
        if self.nodes > 1 and name in ("auto", "ddp"):
            return DDPStrategy(timeout=timedelta(seconds=rendezvous_s))
        return name

    def await_first_node(self, timeout_s: float) -> None:
        """Wait until the first node listens. Torch would wait too, but with pages of warnings and deaf to signals.

        Raises:
            ServiceError: it does not listen in time.
        """
        if self.node_rank() == 0:
            return
        address = (self.main_address, self.main_port)
        log.info("training: node %d of %d waits for node 0 at %s:%d", self.node_rank(), self.nodes, *address)
        end = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection(address, _POLL_S).close()
                return
            except OSError as error:  # node 0 has no address before it is scheduled
                if time.monotonic() > end:
                    where = ":".join(map(str, address))
                    raise ServiceError(
                        f"node 0 of the training did not answer at {where} within {duration(timeout_s)} ({error})"
                    ) from None
            time.sleep(_POLL_S)

    def _check(self) -> None:
        if missing := [name for name in _RENDEZVOUS if name not in os.environ]:
            raise UserError(f"{NODES_VARIABLE}={self.nodes} needs {', '.join(missing)}; set what is missing")
        if not 0 <= _whole("NODE_RANK", 0) < self.nodes:
            rank = os.environ["NODE_RANK"]
            raise UserError(f"NODE_RANK={rank} is no node of {NODES_VARIABLE}={self.nodes}; count from 0")
        _whole("MASTER_PORT", 0)


def lost_process(error: BaseException) -> bool:
    """Whether torch failed because another process of the training has ended or does not answer."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _whole(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal():
        raise UserError(f"{variable}={text} is no whole number; correct the environment variable")
    return int(text)
