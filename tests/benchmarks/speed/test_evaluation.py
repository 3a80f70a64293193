"""The benchmark of an evaluation measures whole service dates of two models that predict the same events."""

from __future__ import annotations

import pytest
from polars.testing import assert_frame_equal

from benchmarks.speed import bench_evaluation
from transformer.prediction.columns import ROW_KEY


@pytest.mark.slow
def test_every_stage_is_measured(capsys: pytest.CaptureFixture[str]):
    assert bench_evaluation.main(["--dates", "2"]) == 0
    first, _, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("2 dates, 330,000 rows of each of two models: ")
    stages = [line.split("  ")[0] for line in lines]
    assert stages == ["imports", "gate", "measures", "figures and tables", "report"]
    assert last.startswith("peak memory ")


def test_both_models_predict_the_same_events_with_errors_of_their_own():
    (own,), (champion,) = (bench_evaluation.random_dates(1, seed) for seed in (0, 1))
    truth = [*ROW_KEY, "observed_delay_s", "translation_delay_s", "last_delay_s"]
    assert_frame_equal(own.select(truth), champion.select(truth))
    assert own.select(ROW_KEY).is_unique().all()
    assert own.height == bench_evaluation.SNAPSHOTS * bench_evaluation.TRAINS * bench_evaluation.RANKS
    assert not own["predicted_delay_s"].equals(champion["predicted_delay_s"])
