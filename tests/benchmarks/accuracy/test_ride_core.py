"""RIDE's benchmark in one command: import, training on the core's snapshots, export and score."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from benchmarks.accuracy import ride_core
from tests.support.models import simulated
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.tables import JOURNEY

FIRST = date(2025, 1, 6)
N_FUTURE = 4


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated railway in RIDE's released layout: `silver/` and a Gold core in `core/`."""
    folder = tmp_path_factory.mktemp("released")
    source = simulated(
        SimulationConfig(service_dates=6, lines=2, points=12, journeys_per_day=40, timezone="Europe/Brussels")
    )
    text = pl.col("service_date").dt.strftime("%d%b%Y").str.to_uppercase()
    naive = pl.col("planned_ts", "observed_ts").dt.convert_time_zone("Europe/Brussels").dt.replace_time_zone(None)
    events = (
        pl.read_parquet(sorted((source / "events").glob("*.parquet")))
        .drop_nulls("observed_ts")
        .sort(*JOURNEY, "seq")
        .with_columns(text, naive, pl.col("op_id").cast(pl.Int64), pl.col("delay_sec").cast(pl.Float64))
    )
    journeys = pl.read_parquet(source / "journeys.parquet").with_columns(text)
    nodes = pl.read_parquet(source / "op_nodes.parquet").with_columns(pl.lit("Station").alias("op_type"))
    for name, table in (
        ("events/events_202501", events.drop("seq")),
        ("journeys/journeys_202501", journeys.select(*JOURNEY, "train_relation", "operator")),
        ("static/op_nodes", nodes),
    ):
        path = folder / "silver" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write_parquet(path)
    test = FIRST + timedelta(days=5)
    moments = [datetime.combine(test, datetime.min.time()) + timedelta(hours=hour, seconds=7) for hour in range(6, 22)]
    spec = {
        "start_train_day": str(FIRST),
        "end_train_day": str(FIRST + timedelta(days=4)),
        "start_test_day": str(test),
        "end_test_day": str(test),
        "n_future": N_FUTURE,
        "idle_time_beg": 5,
        "idle_time_end": 5,
        "train_snapshots": [
            (datetime.combine(FIRST + timedelta(days=day), datetime.min.time()) + timedelta(hours=hour)).isoformat()
            for day in range(5)
            for hour in range(6, 22)
        ],
        "test_snapshots": [moment.isoformat() for moment in moments],
    }
    (folder / "core").mkdir()
    (folder / "core" / ride_core.SPECIFICATION).write_text(json.dumps(spec), encoding="utf-8")  # JSON is YAML
    keys = pl.concat(_keys(events, moment) for moment in moments)
    keys.write_parquet(folder / "core" / "test_eval_table.parquet")
    return folder


def _keys(events: pl.DataFrame, moment: datetime) -> pl.DataFrame:
    """The keys of one snapshot, as RIDE writes them: trains with a known and a later event."""
    known = events.filter(pl.col("observed_ts") <= moment).group_by("train_id", "service_date").agg(
        pl.col("delay_sec").last().alias("last_known_delay")
    )  # fmt: skip
    later = events.filter(pl.col("observed_ts") > moment).group_by("train_id", "service_date", maintain_order=True).agg(
        *(
            pl.col(column).get(rank - 1, null_on_oob=True).alias(f"{name}_{rank}")
            for name, column in (("future_delay", "delay_sec"), ("future_obs_ts", "observed_ts"))
            for rank in range(1, N_FUTURE + 1)
        )
    )  # fmt: skip
    return known.join(later, on=["train_id", "service_date"]).select(pl.lit(moment).alias("ts"), pl.all())


@pytest.mark.slow
def test_one_command_imports_trains_exports_and_scores(released: Path, tmp_path: Path, capsys) -> None:
    small = ["training.max_epochs=2", "training.snapshots_per_epoch=64", "model.d_model=32", "model.n_layers=1"]
    own = [f"paths.cache={tmp_path}/cache", f"paths.runs={tmp_path}/runs", "training.accelerator=cpu"]
    words = [word for setting in [*small, *own] for word in ("--set", setting)]
    arguments = ["--core", str(released / "core"), "--from", str(released / "silver"), "--data", str(tmp_path / "ride")]
    assert ride_core.main([*arguments, "--to", str(tmp_path / "out"), *words]) == 0
    result = json.loads((tmp_path / "out" / "ride.json").read_text(encoding="utf-8"))
    table = pl.read_parquet(released / "core" / "test_eval_table.parquet")
    delays = sum(table[f"future_delay_{rank}"].count() for rank in range(1, N_FUTURE + 1))
    whole = result["scores"][0]
    assert whole["n"] == delays > 30
    assert 0 < whole["mae_s"] < 2 * whole["translation_mae_s"]
    assert result["split"]["validation"] == ["2025-01-10"]
    assert result["split"]["test"] == ["2025-01-11"]
    assert result["configuration"]["data"]["snapshot"]["instants"].endswith("dataset_core_spec.yaml")
    printed = capsys.readouterr().out
    assert "[0, 5) min" in printed and "By delay change, seconds" in printed and "[0, 30) s" in printed
    (file,) = (tmp_path / "out" / "predictions").glob("seed_42_*.parquet")
    predicted = pl.read_parquet(file)
    assert predicted.select("ts", "train_id", "service_date").equals(table.select("ts", "train_id", "service_date"))
    assert result["configuration"]["training"]["sampling"]["instants"] == "running"  # the environment is ride

    written = file.stat().st_mtime_ns
    two = [*arguments, "--to", str(tmp_path / "out"), *words, "--resume", "--seeds", "42", "7"]
    assert ride_core.main(two) == 0  # trains seed 7 alone
    assert file.stat().st_mtime_ns == written
    both = json.loads((tmp_path / "out" / "ride.json").read_text(encoding="utf-8"))
    mae = [line["mae_s"] for line in both["scores"] if line["breakdown"] == "all"]
    assert mae[0] == whole["mae_s"] != mae[1]
    table = (tmp_path / "out" / "ride.md").read_text(encoding="utf-8")
    assert f"| Ours | {sum(mae) / 2:.2f} ± {abs(mae[0] - mae[1]) / 2:.2f} |" in table


def test_the_tables_have_mean_and_deviation_over_the_seeds_as_the_evaluator_divides() -> None:
    rows = [("all", "all", 10, 80.0, 200.0), ("all", "all", 10, 84.0, 206.0)]
    scored = pl.DataFrame(
        [
            dict(zip(("breakdown", "bin", "n", "mae_s", "rmse_s"), row, strict=True))
            | {"seed": seed, "translation_mae_s": 96.0, "translation_rmse_s": 233.0}
            for seed, row in enumerate(rows)
        ]
    )
    found = ride_core.summary(scored).row(0, named=True)
    assert (found["mae_s"], found["mae_std_s"]) == (82.0, 2.0)
    assert (found["rmse_s"], found["rmse_std_s"]) == (203.0, 3.0)
    whole, *_ = ride_core.tables_of(scored, Path("data/gold/lite/core"))
    assert whole.header == ["Model", "MAE", "RMSE"]
    assert whole.body == [["Translation", "96.00", "233.00"], ["Ours", "82.00 ± 2.00", "203.00 ± 3.00"]]
    assert whole.note == "10 delays of the core lite; ± is std. over 2 seeds."
    one, *_ = ride_core.tables_of(scored.head(1), Path("data/gold/lite/core"))
    assert one.body[1] == ["Ours", "80.00", "200.00"]


def test_ten_seeds_are_those_of_the_benchmark(monkeypatch: pytest.MonkeyPatch, released: Path, tmp_path: Path) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(ride_core, "import_source", lambda *_, **__: None)
    monkeypatch.setattr(
        ride_core, "run", lambda config, core, seeds, to, resume: asked.update(config=config, seeds=seeds)
    )
    arguments = ["--core", str(released / "core"), "--data", str(tmp_path)]
    assert ride_core.main([*arguments, "--n-seeds", "10", "--env", "ride-large"]) == 0
    assert asked["seeds"] == list(range(10))
    assert asked["config"].model.d_model == 512
    for refused in (["--n-seeds", "0"], ["--n-seeds", "2", "--seeds", "1"]):
        with pytest.raises(SystemExit) as ended:
            ride_core.main([*arguments, *refused])
        assert ended.value.code == 2


def test_a_folder_that_is_no_core_is_one_line(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        ride_core.main(["--core", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
