"""The import benchmark writes files that their sources read whole."""

import re

import pytest

from benchmarks.speed import bench_import


def test_every_row_of_the_generated_files_is_used(capsys: pytest.CaptureFixture[str]):
    assert bench_import.main(["--share", "0.001"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["ride", "istdaten", "infrabel"]
    journeys = [int(found[1]) for line in lines if (found := re.search(r"(\d+) journeys", line))]
    assert journeys == [30 * 3, 16, 30 * 4]


def test_an_unknown_source_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench_import.main(["nowhere"])
    assert "nowhere" in capsys.readouterr().err
