"""The scale benchmark runs every stage on a small network, and judges the targets at full size only."""

import re
from pathlib import Path

import pytest

from benchmarks.speed import bench_scale
from benchmarks.speed.belgium import Network
from benchmarks.speed.bench_scale import GIB, STAGES, missed, print_curve, split_settings
from benchmarks.speed.stages import Memory, StageError, Usage
from transformer.config import load_config
from transformer.data.dates import configured_split
from transformer.data.simulator.settings import SimulationConfig

NETWORK = SimulationConfig(
    start_date="2023-01-01", service_dates=3, lines=3, points=24, journeys_per_day=80, weekend_share=1.0
)
SMALL = [
    *("data.grid.step_s=7200", "data.snapshot.n_prev=3", "data.snapshot.n_foll=4"),
    *("model.d_model=16", "model.n_heads=2", "model.n_layers=1", "model.n_members=1"),
    *("training.snapshots_per_epoch=16", "training.accelerator=cpu", "training.num_workers=1"),
]
OPTIONS = [word for setting in SMALL for word in ("--set", setting)]


def rows(output: str) -> list[list[str]]:
    """The cells of the tables in the output."""
    return [re.split(r" ?\| ?", line)[1:-1] for line in output.splitlines() if line.startswith("| ")]


@pytest.mark.slow
def test_every_stage_is_measured_and_one_date_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert bench_scale.main(["--dates", "6", "--keep", str(tmp_path), *OPTIONS], NETWORK) == 0
    printed = capfd.readouterr()
    header, *measured = rows(printed.out)
    assert header == ["stage", "time", "memory", "of it files", "read from disk", "target"]
    assert [cells[0] for cells in measured] == [stage.name for stage in STAGES.values()]
    assert all(
        float(cells[1].removesuffix(" s")) > 0 and float(cells[2].removesuffix(" GiB")) > 0 for cells in measured
    )
    assert "6 dates" in printed.out and "epoch 1/1, step 1/" in printed.err
    folder = Network(tmp_path, NETWORK).folder
    assert len([*folder.glob("6-dates/data/events/*")]) == 7

    kept = [*folder.rglob("best.ckpt")]
    assert bench_scale.main(["--dates", "6", "--keep", str(tmp_path), "--stages", "evaluate", *OPTIONS], NETWORK) == 0
    assert [cells[0] for cells in rows(capfd.readouterr().out)] == ["stage", "evaluate-model"]
    assert [*folder.rglob("best.ckpt")] == kept


def usages(seconds: float, gib: float) -> dict[str, Usage]:
    return {name: Usage(seconds, Memory(int(gib * GIB), 0), 0) for name in STAGES}


@pytest.mark.parametrize(
    ("seconds", "gib", "expected"),
    [(30, 4, []), (31, 4, ["again"]), (61, 4, ["again", "more"]), (1, 5, ["evaluate"]), (1, 7, ["train", "evaluate"])],
)
def test_targets(seconds: float, gib: float, expected: list[str]):
    assert missed(usages(seconds, gib)) == expected


@pytest.mark.parametrize(("size", "status"), [(3, 0), (1_096, 1)])
def test_a_missed_target_counts_at_full_size_only(
    size: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench_scale, "in_a_process_of_its_own", lambda *_: None)
    monkeypatch.setattr(bench_scale, "count_events", lambda _: 0)
    monkeypatch.setattr(bench_scale.Pipeline, "measure", lambda _, name: usages(100, 1)[name])
    assert bench_scale.main(["--dates", str(size), "--keep", str(tmp_path)]) == status


def test_a_failed_stage_ends_the_run_and_leaves_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def measure(pipeline: bench_scale.Pipeline, name: str) -> Usage:
        if (pipeline.dates, name) == (9, "train"):
            raise StageError("train-model ended with exit status -9:")
        return usages(100, 1)[name]

    monkeypatch.setattr(bench_scale, "in_a_process_of_its_own", lambda *_: None)
    monkeypatch.setattr(bench_scale, "count_events", lambda _: 0)
    monkeypatch.setattr(bench_scale.Pipeline, "measure", measure)
    assert bench_scale.main(["--curve", "3", "6", "9", "12", "--keep", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "exit status -9" in printed.err
    headers = [cells for cells in rows(printed.out) if cells[0] == "stage"]
    assert len(headers) == 4 and headers[-1][1:3] == ["3 dates", "6 dates"]
    assert [cells[0] for cells in rows(printed.out)].count("compute-statistics-and-embeddings") == 4


def test_too_few_dates_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench_scale.main(["--curve", "2", "6"])
    assert "2 dates are too few" in capsys.readouterr().err


@pytest.mark.parametrize(("dates", "sizes"), [(3, [1, 1, 1]), (6, [3, 1, 2]), (1_096, [717, 14, 365])])
def test_the_last_third_tests(dates: int, sizes: list[int]):
    days = Network(Path(), NETWORK).days(dates)
    split = configured_split(load_config("local", split_settings(days)).data.split)
    assert split.all == tuple(days)
    assert [len(split.train), len(split.validation), len(split.test)] == sizes
    assert max(split.train) < min(split.validation) and max(split.validation) < min(split.test)


def test_the_curve_says_whether_a_date_costs_more(capsys: pytest.CaptureFixture[str]):
    print_curve({10: usages(5, 1), 20: usages(10, 2)})
    assert rows(capsys.readouterr().out)[1][1:] == [
        "0.50 s, 1.00 GiB", "0.50 s, 2.00 GiB", "1.00 × as much: flat", "102.4 MiB",
    ]  # fmt: skip
    print_curve({10: usages(5, 1), 20: usages(20, 1)})
    assert rows(capsys.readouterr().out)[1][3:] == ["2.00 × as much: **grows**", "0.0 MiB"]
