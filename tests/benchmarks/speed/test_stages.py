"""A stage is measured with the processes that it starts, and its failure is shown."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.speed.stages import Memory, StageError, Usage, drop_from_page_cache, memory_of_tree, run_stage

MIB = 2**20
# A process with 200 MiB that its two children share, and 50 MiB of a mapped file.
PARENT = """
import mmap, os, sys, time
shared = bytearray(os.urandom(2**20)) * 200
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
read = sum(mapped[::4096])
if os.fork() and os.fork():
    print("ready", flush=True)
time.sleep(60)
"""


def test_shared_pages_count_once_and_pages_of_files_are_counted_apart(tmp_path: Path):
    (tmp_path / "file").write_bytes(bytes(50 * MIB))
    command = [sys.executable, "-c", PARENT, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        tree = psutil.Process(process.pid).children(recursive=True)
        found = memory_of_tree(process.pid)
        for one in [*tree, process]:
            one.kill()
    assert len(tree) == 2
    assert 200 * MIB < found.total - found.files < 300 * MIB
    assert 50 * MIB < found.files < 100 * MIB


def test_a_process_that_has_ended_has_no_memory():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert memory_of_tree(process.pid) == Memory()


def test_two_stages_add_up_to_the_larger_memory():
    first, second = Usage(1, Memory(10, 8), 100), Usage(2, Memory(20, 1), 50)
    assert first + second == second + first == Usage(3, Memory(20, 1), 150)


def test_a_dropped_file_is_read_from_disk(tmp_path: Path):
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if kind.strip() == "tmpfs":
        pytest.skip("the folder of the tests is in memory")
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_bytes(bytes(20 * MIB))
    reads = psutil.Process().io_counters
    before = reads().read_bytes
    file.read_bytes()
    assert reads().read_bytes - before < 10 * MIB
    drop_from_page_cache(tmp_path)
    file.read_bytes()
    assert reads().read_bytes - before >= 20 * MIB


def test_a_stage_is_measured_and_its_log_passed_on(tmp_path: Path):
    lines: list[str] = []
    usage = run_stage(["simulate", "--service-dates", "3", "--to", str(tmp_path / "data")], lines.append)
    assert lines[-1].endswith("(3/3)")
    assert usage.seconds > 0
    assert usage.peak.total > 20 * MIB


def test_a_stage_ends_at_the_awaited_line(tmp_path: Path):
    lines: list[str] = []
    run_stage(["simulate", "--service-dates", "3660", "--to", str(tmp_path / "data")], lines.append, r"\(2/3660\)")
    assert any("(2/3660)" in line for line in lines) and len(lines) < 100
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "until", "reason"),
    [(["fetch-files", "--env", "nowhere"], "", "exit status 2"), (["config"], "no such line", "'no such line'")],
)
def test_a_failed_stage_is_shown(arguments: list[str], until: str, reason: str):
    with pytest.raises(StageError, match=reason) as failure:
        run_stage(arguments, lambda line: None, until)
    assert str(failure.value).startswith(f"{arguments[0]} ended")
    assert len(str(failure.value).splitlines()) > 1
