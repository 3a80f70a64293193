"""Stages on a disk that is full or may not be written.

A stage ends in one line and leaves nothing half-written, and the next run succeeds. A limit on the size of files stands
in for a full disk: the limit needs no privilege, and it applies to root too.
"""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tests.support.messages import assert_names
from tests.transformer.faults.conftest import COMPUTE, EVALUATE, TRAIN, arguments, unfinished
from transformer.cli import main
from transformer.config import load_config
from transformer.errors import DiskError
from transformer.files import atomic_folder, writing
from transformer.tracking.runs import run_folder
from transformer.training.checkpoints import BEST, CHECKPOINTS, LAST, load_module

FREE = ("cannot be written (", "free space", "name another folder")
ALLOW = ("cannot be written (", "write there", "name another folder")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """While the context lasts, no file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def trained(trained_folder: Path, overrides: list[str]) -> Path:
    """A copy of the trained run, in the folder that the commands of `overrides` use."""
    return Path(shutil.copytree(trained_folder, run_folder(load_config("local", overrides), "")))


def test_a_full_device_is_named_with_the_remedy() -> None:
    with pytest.raises(DiskError) as caught, writing(Path("mine")):
        Path("/dev/full").write_text("x")
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value).startswith("mine ")
    assert_names(caught.value, *FREE, "(No space left on device)")


def test_an_array_that_did_not_fit_is_a_full_disk(tmp_path: Path) -> None:
    """NumPy's error names neither the reason nor the file."""
    with (
        pytest.raises(DiskError, match="No space left"),
        atomic_folder(tmp_path / "cache") as temporary,
        files_up_to(1_000),
    ):
        np.save(temporary / "a.npy", np.zeros(10_000))
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "none").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "size", "what"),
    [
        (COMPUTE, 20_000, "cache/tables/"),
        (COMPUTE, 30_000, "cache/statistics/"),
        (TRAIN, 10_000, "cache/tables/"),
        (TRAIN, 30_000, "/inputs"),
        (TRAIN, 600_000, f"/{CHECKPOINTS}/{BEST}"),
    ],
)
def test_a_full_disk_ends_a_stage_that_succeeds_with_more(
    overrides: list[str], tmp_path: Path, fails: Callable[..., str], stage: str, size: int, what: str
) -> None:
    command = arguments(stage, overrides)
    if stage == TRAIN:
        assert main(arguments(COMPUTE, overrides)) == 0
    if what == "/inputs":  # another training leaves its tables in the cache
        assert main(arguments(TRAIN, [*overrides, f"paths.runs={tmp_path}/other"])) == 0
        shutil.rmtree(tmp_path / "other")
    computed = content(tmp_path)
    with files_up_to(size):
        message = fails(command)
    assert message.startswith(f"{tmp_path}/") and what in message
    assert_names(message, *FREE)
    assert not unfinished(tmp_path)
    assert content(tmp_path).items() >= computed.items(), "what an earlier stage made was touched"
    assert not list(tmp_path.rglob("*.ckpt"))
    assert main(command) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "what"),
    [(10_000, ".rows-"), (150_000, "evaluation/figures"), (600_000, "evaluation/report.html")],
    ids=["rows", "figures", "report"],
)
def test_a_full_disk_ends_an_evaluation_and_the_model_stays(
    overrides: list[str], trained: Path, tmp_path: Path, fails: Callable[..., str], size: int, what: str
) -> None:
    command = arguments(EVALUATE, overrides)
    assert main(command) == 0  # the tables are in the cache now
    earlier = content(trained)
    with files_up_to(size):
        message = fails(command)
    assert_names(message, str(trained / what), *FREE)
    assert not unfinished(tmp_path)
    assert content(trained).keys() == earlier.keys()
    report = trained / "evaluation" / "report.html"
    assert report.read_bytes() == earlier[str(report.relative_to(trained))]
    assert main(command) == 0


@pytest.mark.slow
def test_half_a_checkpoint_never_replaces_a_whole_one(
    overrides: list[str], trained: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning copies a temporary file over the old checkpoint. On a full disk the copy would be cut off."""
    earlier = content(trained / CHECKPOINTS)
    cut_off = 1_000

    def copy_half(_: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        Path(path).write_bytes(b"x" * cut_off)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(TorchCheckpointIO, "save_checkpoint", copy_half)
        message = fails(arguments(TRAIN, overrides))
    assert message.startswith(f"{trained / CHECKPOINTS / BEST} ")
    assert_names(message, *FREE, "(No space left on device)")
    left = content(trained / CHECKPOINTS)
    assert (left[BEST], left[LAST]) == (earlier[BEST], earlier[LAST])
    load_module(trained / CHECKPOINTS / BEST)
    assert not unfinished(trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "key", "what"),
    [(COMPUTE, "paths.cache", "/hours/"), (TRAIN, "paths.runs", f"/{CHECKPOINTS}")],
)
def test_a_folder_that_may_not_be_written(
    overrides: list[str], fails: Callable[..., str], stage: str, key: str, what: str
) -> None:
    """No user can create folders under /sys, not even root."""
    message = fails(arguments(stage, [*overrides, f"{key}=/sys/fault"]))
    assert message.startswith("/sys/fault/") and what in message
    assert_names(message, *ALLOW)


@pytest.mark.slow
def test_an_evaluation_that_may_not_be_written(overrides: list[str], trained: Path, fails: Callable[..., str]) -> None:
    (trained / "evaluation").write_text("in the way")
    message = fails(arguments(EVALUATE, overrides))
    assert message.startswith(f"{trained / 'evaluation'}/")
    assert_names(message, *ALLOW)
    (trained / "evaluation").unlink()
    assert main(arguments(EVALUATE, overrides)) == 0


@pytest.mark.parametrize("folder", ["/sys/fault", "{tmp_path}/file"])
def test_a_result_that_may_not_be_written(fails: Callable[..., str], tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    path = f"{folder.format(tmp_path=tmp_path)}/result.json"
    message = fails(["config", "--result", path])
    assert message.startswith(f"{path} ")
    assert_names(message, *ALLOW)
