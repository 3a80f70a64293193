"""The end of the processes that a training started does not end the training."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from transformer.training.termination import end

# A training process with one child, as Lightning starts and watches it. Lightning looks every 5 seconds; here, at once.
TRAINING = """
import atexit, os, subprocess, sys, time
from types import SimpleNamespace
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from transformer.training import termination

# Less than in reality.
termination._GRACE_S = 1.0
launcher = _SubprocessScriptLauncher(None, 2, 1)
launcher.procs.append(subprocess.Popen(sys.argv[1:]))
_ChildProcessObserver(os.getpid(), launcher.procs, sleep_period=0.01).start()

# An interpreter has to do something at its end. This is done last.
atexit.register(time.sleep, 0.5)
trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(launcher=launcher))
with termination.Termination().watching(trainer):
    time.sleep(0.1)

# A checkpoint is copied.
time.sleep(0.5)
print("copied", flush=True)
"""


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", script, *arguments]


@pytest.mark.parametrize(
    "child",
    [
        pytest.param("import time; time.sleep(60)", id="it outlives the grace"),
        pytest.param("import sys, time; time.sleep(0.3); sys.exit(1)", id="it fails after the last epoch"),
        pytest.param("import time; time.sleep(0.3)", id="it ends well"),
    ],
)
def test_a_training_that_ended_well_is_not_killed_for_its_children(child: str):
    done = subprocess.run(python(TRAINING, *python(child)), check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "copied\n"), done.stderr


def test_children_have_the_grace_to_end_and_no_more():
    quick = subprocess.Popen(python("import time; time.sleep(0.5)"))
    slow = subprocess.Popen(python("import time; time.sleep(60)"))
    began = time.monotonic()
    end([quick, slow], 5.0)
    assert 4.5 < time.monotonic() - began < 30
    assert quick.returncode == 0
    assert slow.wait(10) == -signal.SIGKILL
