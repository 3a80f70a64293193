"""A program in a fork ends as it does in a process of its own, and a client that goes ends nothing else."""

import os
import time
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.patience import wait_until

# A library that keeps its pool leaves idle threads, as MLflow's client does.
PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.kept = ThreadPoolExecutor(1)
sys.kept.submit(print, "from the pool").result()
print("end of the program")
"""


def test_a_program_with_an_idle_pool_ends(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    process = commands.start(str(tmp_path / "program.py"))
    assert process.communicate()[0] == "from the pool\nend of the program\n"
    assert process.wait() == 0


@pytest.mark.parametrize("program", ["", "import time; time.sleep(60)"], ids=["ended", "running"])
def test_a_client_that_waits_for_no_end_ends_its_program_alone(tmp_path: Path, program: str) -> None:
    """A test that fails leaves such clients."""
    (tmp_path / "program.py").write_text(program)
    process = commands.start(str(tmp_path / "program.py"))
    pid = process.pid
    if not program:
        process.stdout.read()  # to its end
        time.sleep(0.2)  # for the status, which nobody reads
    del process
    wait_until(lambda: not _runs(pid), "the end of the program")
    assert commands.run("json.tool", "--help").returncode == 0


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
