"""The statistics benchmark measures the given dates."""

import pytest

from benchmarks.speed import bench_statistics
from benchmarks.speed.railways import Railway


@pytest.mark.slow
def test_dates_and_events_are_those_measured(network: Railway, capsys: pytest.CaptureFixture[str]):
    assert bench_statistics.main([network.config.data.local_folder, "--dates", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 dates, ")
