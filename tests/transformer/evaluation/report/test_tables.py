from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer.errors import UserError
from transformer.evaluation import metrics
from transformer.evaluation.measures import Measures
from transformer.evaluation.order import backward_shares
from transformer.evaluation.quantiles import BREAKDOWNS, uncertainty
from transformer.evaluation.report.tables import results_table, write_evaluation


def test_evaluation_is_written_and_returned(day_rows, network, history, tmp_path):
    result = write_evaluation(
        Measures.of(day_rows, "Europe/Budapest"), *network, tmp_path, prefix="test", history=history
    )
    assert result.metrics["test/skill"] == 0.5
    assert {path.name for path in result.figures} == {
        "error_map.png",
        "skill_map.png",
        "error_timeline_2024-12-20.png",
        "error_by_horizon.png",
        "error_by_delay_change.png",
        "error_by_type.png",
        "error_distribution.png",
        "predicted_vs_observed.png",
        "calibration.png",
        "training_curves.png",
    }
    assert {path.name for path in result.tables} == {f"{by}.json" for by in (*metrics.BREAKDOWNS, "summary", "order")}
    on_disk = {path for path in tmp_path.rglob("*") if path.is_file()}  # hidden temporary files would show here
    assert on_disk == {*result.figures, *result.tables}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in result.figures)
    assert result.text == results_table(Measures.of(day_rows, "Europe/Budapest"))


def test_a_distribution_is_judged_with_the_point_prediction(day_quantiles, network, tmp_path):
    result = write_evaluation(Measures.of(day_quantiles, "UTC"), *network, tmp_path, prefix="test")
    judged = uncertainty(day_quantiles)
    assert judged is not None
    assert judged.metrics("test").items() <= result.metrics.items()
    assert result.metrics["test/skill"] == 0.5
    figures = {path.name for path in result.figures}
    assert {"quantile_reliability.png", "coverage_by_horizon.png", "width_by_horizon.png"} <= figures
    tables = {path.stem: json.loads(path.read_text()) for path in result.tables}
    assert tables["uncertainty"] == judged.summary
    assert [level["level"] for level in tables["quantiles"]] == [0.1, 0.25, 0.5, 0.75, 0.9]
    for by in BREAKDOWNS:
        assert tables[f"uncertainty_{by}"] == metrics.to_json(judged.breakdowns[by])


def test_a_median_alone_makes_no_interval(day_rows, network, tmp_path):
    rows = day_rows.with_columns(q50_delay_s="predicted_delay_s")
    result = write_evaluation(Measures.of(rows, "UTC"), *network, tmp_path, prefix="test")
    assert result.metrics["test/crps_s"] == pytest.approx(result.metrics["test/mae_s"])
    assert "quantile_reliability.png" in {path.name for path in result.figures}
    assert "coverage_by_horizon.png" not in {path.name for path in result.figures}
    assert "interval" not in result.text


def test_nothing_is_written_for_quantiles_that_are_refused(day_quantiles, network, tmp_path):
    rows = day_quantiles.with_columns(q90_delay_s=pl.lit(None, pl.Float64))
    with pytest.raises(UserError) as caught:
        write_evaluation(Measures.of(rows, "UTC"), *network, tmp_path / "out", prefix="test")
    assert_names(caught.value, "q90_delay_s", "null, NaN or infinite", "480 of 480")
    assert not (tmp_path / "out").exists()


def test_tables_read_back(day_rows, network, tmp_path):
    result = write_evaluation(Measures.of(day_rows, "Europe/Budapest"), *network, tmp_path, prefix="test")
    tables = {path.stem: json.loads(path.read_text()) for path in result.tables}
    assert tables["summary"] == metrics.summary(day_rows)
    assert tables["horizon"] == metrics.to_json(metrics.breakdown(day_rows, "horizon"))
    assert tables["order"] == backward_shares(day_rows)
    assert [point["op_name"] for point in tables["op_id"]] == ["Aachen", "Bonn", "Celle", "Dessau"]
    assert [line["service_date"] for line in tables["service_date"]] == ["2024-12-20"]
    assert "training_curves.png" not in {path.name for path in result.figures}


def test_a_point_unknown_to_the_network_keeps_its_line(day_rows, network, tmp_path):
    op_nodes, edges = network
    known = op_nodes.filter(pl.col("op_id") != 3)
    write_evaluation(Measures.of(day_rows, "UTC"), known, edges, tmp_path, prefix="test")
    points = json.loads((tmp_path / "tables" / "op_id.json").read_text())
    assert [(point["op_id"], point["op_name"]) for point in points][2] == (3, None)


def test_nothing_is_written_for_rows_that_are_refused(day_rows, network, tmp_path):
    with pytest.raises(UserError):
        write_evaluation(Measures.of(day_rows.clear(), "UTC"), *network, tmp_path / "out", prefix="test")
    assert not (tmp_path / "out").exists()


def test_results_table_reads_as_written(make_rows):
    rows = make_rows(
        [0, 0, 0, 0],
        [30, 30, 90, 90],
        [60, 60, 60, 60],
        horizon_s=[-60.0, -60.0, 600.0, 900.0],
        train_type=["regional", "regional", "regional", "IC"],
        train_id=["t1", "t2", "t3", "t3"],
        rank=[1, 1, 1, 2],
    )
    expected = """\
4 predictions            model  translation   skill
---------------------------------------------------
MAE                     60.0 s       60.0 s   +0.0%
RMSE                    67.1 s       60.0 s  -11.8%
median absolute error   60.0 s       60.0 s
within 1 min             50.0%       100.0%
within 2 min            100.0%       100.0%
within 5 min            100.0%       100.0%
bias (+ = too late)    +60.0 s      +60.0 s

times run backwards in 0.0% of the trains' forecasts, observed times in 0.0%

horizon   n     MAE  translation   skill    RMSE  within 2 min
--------------------------------------------------------------
overdue   2  30.0 s       60.0 s  +50.0%  30.0 s        100.0%
10-20min  2  90.0 s       60.0 s  -50.0%  90.0 s        100.0%

train type  n     MAE  translation   skill    RMSE  within 2 min
----------------------------------------------------------------
regional    3  50.0 s       60.0 s  +16.7%  57.4 s        100.0%
IC          1  90.0 s       60.0 s  -50.0%  90.0 s        100.0%"""
    assert results_table(Measures.of(rows, "UTC")) == expected


def test_results_table_has_the_distribution(make_rows):
    rows = make_rows([0, 0, 60, 120], [0] * 4, [60] * 4, quantiles={0.1: 0.0, 0.5: 0.0, 0.9: 60.0})
    lines = results_table(Measures.of(rows, "UTC")).splitlines()
    # F is 0.5 at 0 and 0.9 at 60 s: ∫F² = 30.2 s between them, ∫(1 − F)² = 6.2 s
    assert lines[7:12] == [
        "within 5 min            100.0%       100.0%",
        "bias (+ = too late)    -45.0 s      +15.0 s",
        "CRPS                    33.2 s       45.0 s  +26.2%",
        "",
        "80% interval covers 75.0%, mean width 1.0 min",
    ]
    assert lines[12] == "times run backwards in 0.0% of the trains' forecasts, observed times in 0.0%"


def test_results_table_stays_within_100_columns(make_rows):
    types = [f"a train type with a very long name, number {k}" for k in range(30)]
    zeros = [0.0] * 30
    rows = make_rows(zeros, [43_000.0] * 30, [86_000.0] * 30, train_type=types)
    measures = Measures.of(rows, "UTC")
    large = {by: frame.with_columns(n=pl.lit(123_456_789)) for by, frame in measures.breakdowns.items()}
    text = results_table(replace(measures, summary=measures.summary | {"n": 123_456_789}, breakdowns=large))
    assert max(map(len, text.splitlines())) <= 100
    assert text.endswith("… and 10 rarer types")


def test_results_table_dashes_an_undefined_skill(make_rows):
    rows = make_rows([0, 0], [5, 5], [0, 0])
    line = results_table(Measures.of(rows, "UTC")).splitlines()[2]
    assert line.split() == ["MAE", "5.0", "s", "0.0", "s", "-"]
