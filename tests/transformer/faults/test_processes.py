"""Stages as processes: SIGTERM ends them at any moment, and two of them share a cache and a runs folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support import commands
from tests.support.held import PROGRAM
from tests.support.patience import PATIENCE_S
from tests.transformer.faults.conftest import COMPUTE, EVALUATE, TRAIN, arguments, unfinished
from transformer.cli import main
from transformer.config import load_config
from transformer.features.cache import Embeddings
from transformer.features.statistics import load_statistics
from transformer.files import read_json
from transformer.tracking.runs import run_folder
from transformer.training.checkpoints import BEST, CHECKPOINTS, HISTORY, LAST

REPOSITORY = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.slow


def start_anew(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("fetch-files", "data: "),
        (COMPUTE, "statistics: computing"),
        (COMPUTE, "embeddings: computing"),
        (EVALUATE, "rows predicted"),
    ],
)
def test_sigterm_ends_a_stage_in_one_line_and_leaves_nothing_unfinished(
    overrides: list[str], trained_folder: Path, tmp_path: Path, stage: str, line: str
) -> None:
    folder = run_folder(load_config("local", overrides), "")
    if stage == EVALUATE:
        shutil.copytree(trained_folder, folder)
    result = tmp_path / "result.json"
    command = arguments(stage, overrides, "--result", str(result))
    process = start_anew([PROGRAM, line, *command])
    assert process.stderr is not None
    assert any(said == "held\n" for said in process.stderr)
    process.send_signal(signal.SIGTERM)
    log = process.stderr.read()
    assert process.wait(timeout=PATIENCE_S) == 128 + signal.SIGTERM, log
    assert log.splitlines() == ["error: terminated by SIGTERM"]
    assert not unfinished(tmp_path)
    assert not result.exists() and not (folder / "evaluation" / "report.html").exists()
    assert main(command) == 0
    assert result.is_file()


@pytest.mark.parametrize("after_s", [0.05, 0.3])  # no machine runs a stage in so short a time
def test_sigterm_before_a_stage_has_begun(overrides: list[str], tmp_path: Path, after_s: float) -> None:
    """Before Python loads the command line, the signal itself ends the process. The shell reports 143 in both cases."""
    process = start_anew(["-m", "transformer", *arguments(COMPUTE, overrides)])
    time.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), log
    assert process.returncode < 0 or log.splitlines()[-1] == "error: terminated by SIGTERM"
    assert "Traceback" not in log
    assert not unfinished(tmp_path)


SIGNALLED = """
import atexit, importlib.abc, os, runpy, signal, sys

def send():
    os.kill(os.getpid(), signal.SIGTERM)

class OnImport(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "transformer.cli":
            send()

class OnDeletion:
    def __del__(self):
        send()

moment = sys.argv.pop(1)
if moment == "imported":
    sys.meta_path.insert(0, OnImport())
elif moment == "leaving":
    atexit.register(send)
else:
    sys.taken_apart = OnDeletion()
runpy.run_module("transformer", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("moment", "status", "says"),
    [
        ("imported", 128 + signal.SIGTERM, ["error: terminated by SIGTERM"]),
        ("leaving", 0, []),
        ("taken apart", 0, []),
    ],
)
def test_sigterm_just_before_or_after_a_command(tmp_path: Path, moment: str, status: int, says: list[str]) -> None:
    """The status is that of the command, so a command that has succeeded is not repeated."""
    process = start_anew(["-c", SIGNALLED, moment, "config", "--result", str(tmp_path / "result.json")])
    assert process.communicate(timeout=PATIENCE_S)[1].splitlines() == says
    assert process.returncode == status
    assert (tmp_path / "result.json").exists() == (status == 0)


SEARCHED = """
import atexit, gc, importlib.abc, os, runpy, signal, sys

class Terminate(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "transformer.stages":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Terminate())
atexit.register(lambda: print(len(gc.get_objects()), gc.get_freeze_count()))
runpy.run_module("transformer", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("stage", "status"), [("config", 0), ("fetch-files", 128 + signal.SIGTERM)])
def test_python_does_not_search_the_objects_of_a_command_while_it_shuts_down(stage: str, status: int) -> None:
    """These searches kept the process of a training alive for up to a minute after SIGTERM, on a busy node."""
    command = [sys.executable, "-c", SEARCHED, stage]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    searched, frozen = map(int, done.stdout.splitlines()[-1].split())
    assert searched < frozen / 100


def test_two_trainings_at_once_on_one_cache_and_in_one_folder(overrides: list[str], tmp_path: Path) -> None:
    """Neither finds statistics, embeddings or tables. Both end with the weights of a lone training, bit for bit.

    The lone training is a process too, because sums over another number of threads round differently.
    """
    alone = [f"paths.cache={tmp_path}/alone/cache", f"paths.runs={tmp_path}/alone/runs"]
    lone = start_anew(["-m", "transformer", *arguments(TRAIN, [*overrides, *alone])])
    log = lone.communicate(timeout=PATIENCE_S)[1]
    assert lone.returncode == 0, log
    both = [commands.start("transformer", *arguments(TRAIN, overrides)) for _ in range(2)]
    logs = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], logs
    assert not unfinished(tmp_path)
    made = {name: list((tmp_path / "cache" / name).iterdir()) for name in ("statistics", "embeddings")}
    assert [len(folders) for folders in made.values()] == [1, 1]
    lone_folder = run_folder(load_config("local", [*overrides, *alone]), "")
    inputs = lone_folder / "inputs"
    ours, theirs = load_statistics(made["statistics"][0]), load_statistics(inputs / "statistics")
    assert ours.summary() == theirs.summary()
    assert Embeddings.load(made["embeddings"][0]).edges.equals(Embeddings.load(inputs / "embeddings").edges)
    folder = run_folder(load_config("local", overrides), "") / CHECKPOINTS
    assert {path.name for path in folder.iterdir()} == {BEST, LAST, HISTORY}
    one, other = (torch.load(path / BEST, weights_only=True) for path in (folder, lone_folder / CHECKPOINTS))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])
    assert len(read_json(folder / HISTORY)) == 1
