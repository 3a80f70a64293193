"""A program in a fork ends as it does in a process of its own."""

from pathlib import Path

from tests.support import commands

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
