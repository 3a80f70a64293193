"""Stages on machines without a shared disk: data, statistics and embeddings come from the bucket."""

import shutil
from pathlib import Path

import pytest

from tests.support.messages import assert_names
from tests.transformer.conftest import BUCKET
from transformer import stages
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.evaluation.evaluate import EvaluationRequest
from transformer.evaluation.window import Window

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn_figures")]


def machine(small_overrides: list[str], sample_bucket: str, disk: Path) -> Config:
    """The configuration of a pod with its own, empty disk."""
    return load_config(
        "local",
        [
            *small_overrides,
            f"data.local_folder={disk}/data",
            f"paths.cache={disk}/cache",
            f"paths.runs={disk}/runs",
            "data.download_data_from_s3=true",
            "data.save_results_to_s3=true",
            f"data.bucket_name={BUCKET}",
            "data.bucket_prefix=operator",
            f"data.endpoint_url={sample_bucket}",
        ],
    )


def test_each_stage_on_a_machine_of_its_own(
    small_overrides: list[str], sample_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    disks = [machine(small_overrides, sample_bucket, tmp_path / name) for name in ("fetch", "compute", "train")]
    fetched = stages.fetch_files(disks[0], "")
    assert fetched["split"]["test"] == ["2025-01-13"]
    stages.compute_statistics_and_embeddings(disks[1], "")
    caplog.clear()
    with caplog.at_level("INFO"):
        stages.train_model(disks[2], "")
    assert "statistics: computing" not in caplog.text and "embeddings: computing" not in caplog.text
    found = stages.evaluate_model(disks[2], "")["metrics"]
    assert found["test/n"] > 100

    bare = machine(small_overrides, sample_bucket, tmp_path / "evaluate")
    shutil.copytree(stages.run_folder(disks[2], ""), stages.run_folder(bare, ""))
    assert stages.evaluate_model(bare, "")["metrics"] == found
    stages.evaluate_model(bare, "", EvaluationRequest(Window(count=1)))
    assert [path.name for path in (tmp_path / "evaluate" / "data" / "events").iterdir()] == [
        "events_2025-01-13.parquet"
    ]
    out = tmp_path / "predictions.csv"
    stages.predict(bare, stages.run_folder(bare, ""), "2025-01-12T08:00", out)
    days = sorted(path.stem[-10:] for path in (tmp_path / "evaluate" / "data" / "events").iterdir())
    assert days == [f"2025-01-{day:02}" for day in range(9, 14)]  # all whose trains could still run


def test_only_the_dates_of_the_split_travel(small_overrides: list[str], sample_bucket: str, tmp_path: Path):
    config = machine(
        [
            *small_overrides,
            "data.split.train=[2025-01-06..2025-01-08]",
            "data.split.validation=[2025-01-09]",
            "data.split.test=[2025-01-11]",
        ],
        sample_bucket,
        tmp_path,
    )
    stages.fetch_files(config, "")
    days = sorted(path.stem.removeprefix("events_") for path in (tmp_path / "data" / "events").glob("*.parquet"))
    assert days == ["2025-01-06", "2025-01-07", "2025-01-08", "2025-01-09", "2025-01-11"]


def test_a_rolling_split_follows_the_bucket(small_overrides: list[str], sample_bucket: str, tmp_path: Path):
    rolling = "data.split.rolling={train: 3, validation: 1, test: 2}"
    split = stages.fetch_files(machine([*small_overrides, rolling], sample_bucket, tmp_path), "")["split"]
    assert split == {
        "train": ["2025-01-08", "2025-01-09", "2025-01-10"],
        "validation": ["2025-01-11"],
        "test": ["2025-01-12", "2025-01-13"],
    }


def test_left_over_local_dates_do_not_enter_an_automatic_split(
    small_overrides: list[str], sample_bucket: str, sample_folder: Path, tmp_path: Path
):
    config = machine(small_overrides, sample_bucket, tmp_path)
    events = tmp_path / "data" / "events"
    events.mkdir(parents=True)
    shutil.copy(sample_folder / "events" / "events_2025-01-13.parquet", events / "events_2025-01-14.parquet")
    assert stages.fetch_files(config, "")["split"]["test"] == ["2025-01-13"]


def test_a_date_that_the_bucket_lacks_is_one_line(small_overrides: list[str], sample_bucket: str, tmp_path: Path):
    dates = ["data.split.train=[2025-01-06]", "data.split.validation=[2025-01-07]", "data.split.test=[2026-01-01]"]
    with pytest.raises(UserError) as caught:
        stages.fetch_files(machine([*small_overrides, *dates], sample_bucket, tmp_path), "")
    assert_names(caught.value, "data.split.test", "no events", "2026-01-01")
