"""A stage reads and hashes each events file once. The files are large, and a year has hundreds of files."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from transformer import stages
from transformer.config import Config, load_config
from transformer.data import events
from transformer.evaluation.evaluate import EvaluationRequest
from transformer.evaluation.window import Window
from transformer.prediction import ride

FIRST = date(2025, 1, 6)
TRAIN, VALIDATION, TEST = range(6), range(6, 7), range(7, 8)  # of the eight dates of the sample


@dataclass
class FileUse:
    """How often events files were read and hashed, by name."""

    read: Counter[str] = field(default_factory=Counter)
    scanned: Counter[str] = field(default_factory=Counter)  # for the first and last planned time only
    hashed: Counter[str] = field(default_factory=Counter)


def names(*days: range) -> list[str]:
    return [f"events_{FIRST + timedelta(days=day)}.parquet" for chosen in days for day in chosen]


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, sample_folder: Path) -> Callable[[], Any]:
    """A context that counts the use of events files. It begins as a new process does: no file is known."""
    use = FileUse()

    def counting(function: Callable[..., Any], counts: str) -> Callable[..., Any]:
        def call(source: Any, *arguments: Any, **options: Any) -> Any:
            for each in source if isinstance(source, list) else [source]:
                path = Path(each.name if hasattr(each, "read") else each)
                if path.parent == sample_folder / "events":
                    getattr(use, counts)[path.name] += 1
            return function(source, *arguments, **options)

        return call

    for reader, counts in (("read_parquet", "read"), ("scan_parquet", "scanned")):
        monkeypatch.setattr(pl, reader, counting(getattr(pl, reader), counts))
    monkeypatch.setattr(hashlib, "file_digest", counting(hashlib.file_digest, "hashed"))

    @contextmanager
    def begin() -> Iterator[FileUse]:
        events._digest.cache_clear()
        use.read, use.scanned, use.hashed = Counter(), Counter(), Counter()
        yield use

    return begin


@pytest.fixture
def config(small_overrides: list[str], tmp_path: Path) -> Config:
    own = [f"paths.cache={tmp_path}/cache", f"paths.runs={tmp_path}/runs", "training.max_epochs=1"]
    return load_config("local", [*small_overrides, *own])


def test_every_stage_of_a_training_reads_and_hashes_once(config: Config, process: Callable[[], Any]) -> None:
    everything = names(TRAIN, VALIDATION, TEST)
    with process() as use:
        stages.fetch_files(config, "")
    assert use.read == Counter(everything) and use.hashed == Counter(everything) and not use.scanned
    with process() as use:
        stages.compute_statistics_and_embeddings(config, "")
    assert use.read == Counter(names(TRAIN)) and use.hashed == Counter(everything)
    with process() as use:
        stages.train_model(config, "")
    assert use.read == Counter(names(VALIDATION)) and use.hashed == Counter(everything)
    with process() as use:
        stages.evaluate_model(config, "")
    assert use.read == Counter(names(TEST)) and use.hashed == Counter(names(TEST)) and not use.scanned


def test_a_training_that_is_tried_again_reads_nothing(config: Config, process: Callable[[], Any]) -> None:
    stages.train_model(config, "")
    with process() as use:
        stages.train_model(config, "")
    assert not use.read and set(use.hashed.values()) == {1}


def test_a_second_fetch_reads_nothing(config: Config, process: Callable[[], Any]) -> None:
    first = stages.fetch_files(config, "")
    with process() as use:
        again = stages.fetch_files(config, "")
    assert again == first
    assert not use.read


def test_a_fetch_reads_what_its_hours_were_known_of(config: Config, process: Callable[[], Any]) -> None:
    first = stages.fetch_files(config, "")
    shutil.rmtree(Path(config.paths.cache) / "reports")
    with process() as use:
        again = stages.fetch_files(config, "")
    assert again == first
    assert use.read == Counter(names(TRAIN, VALIDATION, TEST))


def test_one_date_more_is_read_alone(config: Config, process: Callable[[], Any]) -> None:
    """The window of the next night: the test date becomes a validation date, and the validation date trains."""

    def split(train: range, validation: range, test: range) -> None:
        days = {"train": train, "validation": validation, "test": test}
        for name, chosen in days.items():
            setattr(config.data.split, name, [str(FIRST + timedelta(days=day)) for day in chosen])

    for again, splits in enumerate(((range(5), range(5, 6), range(6, 7)), (range(1, 6), range(6, 7), range(7, 8)))):
        split(*splits)
        with process() as use:
            stages.compute_statistics_and_embeddings(config, "")
            stages.train_model(config, "")
        train, validation, _ = splits
        # The former validation date has a table, and no statistics.
        assert use.read == Counter(names(validation, train[-1:] if again else train))


@pytest.mark.usefixtures("undrawn_figures")
@pytest.mark.parametrize("window", [Window(count=2), Window(FIRST + timedelta(days=6), FIRST + timedelta(days=7))])
def test_a_window_is_read_once_though_the_newest_observation_is_looked_for(
    trained_folder: Path, small_config: Config, process: Callable[[], Any], tmp_path: Path, window: Window
) -> None:
    config = copy.deepcopy(small_config)
    config.paths.cache, config.paths.runs = str(tmp_path / "cache"), str(tmp_path / "runs")
    config.evaluation.freshness.max_age_s = 10**9
    shutil.copytree(trained_folder, stages.run_folder(config, ""))
    with process() as use:
        stages.evaluate_model(config, "", EvaluationRequest(window=window, again=True, allow_training_dates=True))
    assert set(names(VALIDATION, TEST)) <= set(use.read)
    assert set(use.read.values()) == set(use.hashed.values()) == {1}


def test_predictions_read_once(
    trained_folder: Path, small_config: Config, process: Callable[[], Any], tmp_path: Path
) -> None:
    with process() as use:
        stages.predict(small_config, trained_folder, "2025-01-13T08:00+01:00", tmp_path / "predictions.parquet")
    assert use.read == Counter(names(range(6, 8))) and not use.hashed
    assert use.scanned == Counter(names(range(4, 6)))  # earlier dates that a train could still run from


def test_keys_of_neighbouring_dates_are_predicted_from_one_reading(
    trained_folder: Path, small_config: Config, process: Callable[[], Any], tmp_path: Path
) -> None:
    days = [FIRST + timedelta(days=day) for day in (5, 6, 7)]
    trains = pl.read_parquet(Path(small_config.data.local_folder) / "journeys.parquet").unique("service_date")
    trains = trains.filter(pl.col("service_date").is_in(days)).rename({"start_planned_ts": "ts"})
    keys = trains.select("ts", "service_date", "train_id", pl.lit(0.0).alias(f"{ride.TARGET}1"))
    keys.write_parquet(tmp_path / ride.TABLE)
    with process() as use:
        stages.predict_ride(small_config, trained_folder, tmp_path, tmp_path / "keys.parquet")
    assert use.read == Counter(names(range(4, 8))) and not use.hashed
    assert set(use.scanned) == set(names(range(2, 8)))
