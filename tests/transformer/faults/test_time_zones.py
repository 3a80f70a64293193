"""The time zone of the machine changes nothing: the data have a time zone of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from transformer import stages
from transformer.config import load_config
from transformer.evaluation.evaluate import EvaluationRequest
from transformer.evaluation.window import Window
from transformer.tracking.runs import run_folder
from transformer.training.checkpoints import BEST, CHECKPOINTS, load_module


@pytest.fixture
def live_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn_figures")
def test_stages_give_the_same_whatever_the_machine_s_time_zone(
    overrides: list[str], tmp_path: Path, live_in: Callable[[str], None]
) -> None:
    seen = {}
    for zone in ("UTC", "Pacific/Auckland", "America/St_Johns"):
        live_in(zone)
        assert time.strftime("%Z") in ("UTC", "NZDT", "NZST", "NST", "NDT")
        scratch = tmp_path / zone.replace("/", "-")
        config = load_config(
            "local",
            [
                *overrides,
                "model.use_inputs.calendar=true",
                f"paths.cache={scratch}/cache",
                f"paths.runs={scratch}/runs",
            ],
        )
        fetched = stages.fetch_files(config, "")
        stages.compute_statistics_and_embeddings(config, "")
        stages.train_model(config, "")
        folder = run_folder(config, "")
        stages.predict(config, folder, "2025-01-13T08:00", scratch / "out.csv")
        last = EvaluationRequest(Window(count=1), again=True, allow_training_dates=True)
        found = stages.evaluate_model(config, "", last)
        files = {str(path.relative_to(scratch)): path.read_bytes() for path in (scratch / "cache").rglob("*.*")}
        assert any("statistics" in name for name in files) and any("embeddings" in name for name in files)
        weights = load_module(folder / CHECKPOINTS / BEST).state_dict()
        seen[zone] = (
            fetched,
            files,
            (scratch / "out.csv").read_bytes(),
            {name: weight.numpy().tobytes() for name, weight in weights.items()},  # predictions are rounded to seconds
            found["dates"],
            {name: value for name, value in found["metrics"].items() if "age" not in name},
        )
    assert seen["UTC"] == seen["Pacific/Auckland"] == seen["America/St_Johns"]
    assert seen["UTC"][4] == ["2025-01-13"]
