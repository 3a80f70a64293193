"""The processes of a training. Lightning starts all of them on this machine, inside a job of a batch system too."""

from __future__ import annotations

import os

from lightning.fabric.plugins.environments.lightning import LightningEnvironment

# Lightning reads the place of a process from these variables. SLURM, LSF, torchrun and Kubeflow set them for every
# program of a job, also for one that starts its processes itself.
_RANKS = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "JSM_NAMESPACE_RANK",
)  # fmt: skip
_FIRST = "TRANSFORMER_TRAINING_PROCESS"  # id of the first process; those that Lightning starts inherit the variable


class OneMachine(LightningEnvironment):
    """Replaces the cluster that Lightning would detect, so that a batch system changes no training."""

    def __init__(self) -> None:
        super().__init__()
        if os.environ.setdefault(_FIRST, str(os.getpid())) == str(os.getpid()):
            for name in _RANKS:
                os.environ.pop(name, None)
            self.set_global_rank(0)
