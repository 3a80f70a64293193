from __future__ import annotations

import math
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from transformer.evaluation.metrics import breakdown
from transformer.evaluation.quantiles import uncertainty
from transformer.evaluation.report import figures

HISTORY = pl.DataFrame(
    {
        "epoch": [0, 1, 2],
        "train_loss": [1.0, 0.6, 0.5],
        "val_mae_s": [None, 90.0, 96.0],  # no validation before the first epoch
        "val_translation_mae_s": [None, 120.0, 120.0],
        "learning_rate": [1e-4, 1e-3, 1e-5],
    }
)


def texts(figure: Figure) -> str:
    """Every text on the figure, its axes and its legends."""
    figure.canvas.draw()
    return "\n".join(artist.get_text() for artist in figure.findobj(lambda a: hasattr(a, "get_text")))


def heights(figure: Figure) -> list[list[float]]:
    return [[bar.get_height() for bar in bars] for bars in figure.axes[0].containers]


def all_figures(rows: pl.DataFrame, network: tuple[pl.DataFrame, pl.DataFrame]) -> dict[str, Figure]:
    points = breakdown(rows, "op_id")
    return {
        "map": figures.error_map(points, *network),
        "skill map": figures.error_map(points, *network, value="skill"),
        "timeline": figures.error_timeline(rows, date(2024, 12, 20), "Europe/Budapest"),
        "horizon": figures.error_by_horizon(breakdown(rows, "horizon")),
        "within": figures.within_by_horizon(breakdown(rows, "horizon")),
        "bias": figures.bias_by_horizon(breakdown(rows, "horizon")),
        "delay change": figures.error_by_delay_change(breakdown(rows, "delay_change")),
        "type": figures.error_by_type(breakdown(rows, "train_type")),
        "predicted": figures.predicted_vs_observed(rows),
        "calibration": figures.calibration(rows),
        "distribution": figures.error_distribution(rows),
        "training": figures.training_curves(HISTORY),
    }


def quantile_figures(rows: pl.DataFrame) -> dict[str, Figure]:
    judged = uncertainty(rows)
    assert judged is not None
    return {
        "reliability": figures.quantile_reliability(judged.levels, rows.height),
        "coverage": figures.coverage_by_horizon(judged.breakdowns["horizon"], judged.intervals),
        "width": figures.interval_width_by_horizon(judged.breakdowns["horizon"], judged.intervals),
    }


def test_every_figure_draws_a_png_with_content_title_and_units(day_rows, day_quantiles, network, tmp_path: Path):
    for name, figure in (all_figures(day_rows, network) | quantile_figures(day_quantiles)).items():
        path = tmp_path / f"{name}.png"
        figure.savefig(path, dpi=60)
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n"), name
        pixels = imread(path)
        assert (pixels[..., :3] < 0.9).any(axis=-1).mean() > 0.01, f"{name} is nearly blank"
        seen = texts(figure)
        assert "min" in seen or name in ("skill map", "reliability"), name
        assert "480" in seen or name in ("training", "map", "skill map"), f"{name} does not say n"


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_rows_still_draw(make_rows, network, n):
    rows = make_rows([0.0] * n, [0.0] * n, [0.0] * n, quantiles={0.1: 0.0, 0.5: 0.0, 0.9: 0.0})
    for figure in (all_figures(rows, network) | quantile_figures(rows)).values():
        figure.canvas.draw()


def test_no_pyplot_state(day_rows, network):
    import matplotlib.pyplot as plt

    all_figures(day_rows, network)
    assert plt.get_fignums() == []


def test_map_places_colours_and_counts(day_rows, network):
    figure = figures.error_map(breakdown(day_rows, "op_id"), *network)
    axes, colour_bar = figure.axes
    lines, dots = axes.collections
    assert len(lines.get_segments()) == 2  # the third edge ends at a point without coordinates
    assert sorted(map(tuple, dots.get_offsets().tolist())) == [(10.0, 60.0), (10.5, 60.1), (11.0, 60.2)]
    assert dots.get_array().tolist() == [1.0, 1.0, 1.0]  # 60 s
    assert axes.get_aspect() == pytest.approx(1 / math.cos(math.radians(60.1)))
    assert colour_bar.get_ylabel() == "model MAE (min)"
    seen = texts(figure)
    assert "3 points, 360 predictions" in seen
    assert "without coordinates, not drawn: 1" in seen
    assert "Aachen: 1.0 min (n = 120)" in seen and "Dessau" not in seen


def test_map_names_the_worst_place_first_and_no_point_with_few_rows(make_rows, network):
    # Celle is worst, but a single row says little about a point.
    rows = make_rows([0.0] * 8, [60, 60, 60, 300, 300, 300, 900, 0], [60.0] * 8, op_id=[1, 1, 1, 2, 2, 2, 3, 4])
    legend = figures.error_map(breakdown(rows, "op_id"), *network).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["Bonn: 5.0 min (n = 3)", "Aachen: 1.0 min (n = 3)"]
    assert legend.get_title().get_text() == "worst places"


def test_skill_map_is_centred_on_no_skill(day_rows, network):
    figure = figures.error_map(breakdown(day_rows, "op_id"), *network, value="skill")
    dots = figure.axes[0].collections[1]
    assert dots.norm(0.0) == pytest.approx(0.5)
    assert dots.get_array().tolist() == [0.5, 0.5, 0.5]
    assert "skill" in figure.axes[1].get_ylabel()


def test_map_without_any_coordinates(day_rows, network):
    op_nodes, edges = network
    nowhere = op_nodes.with_columns(lat=pl.lit(None, pl.Float64), lon=pl.lit(None, pl.Float64))
    assert "without coordinates, not drawn: 4" in texts(figures.error_map(breakdown(day_rows, "op_id"), nowhere, edges))


def test_timeline_shows_both_errors_in_local_time(day_rows):
    figure = figures.error_timeline(day_rows, date(2024, 12, 20), "Europe/Budapest")
    axes, volume = figure.axes
    model, translation = axes.lines
    assert np.allclose(model.get_ydata(), 1.0) and np.allclose(translation.get_ydata(), 2.0)  # minutes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["model", "translation", "predictions"]
    assert axes.get_ylabel() == "MAE (min)"
    assert axes.get_xlabel() == "time of the snapshot (Europe/Budapest)"
    assert volume.get_ylabel() == "predictions per snapshot"
    figure.canvas.draw()
    ticks = {label.get_text(): tick for label, tick in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    first = model.get_xdata()[0]  # 04:00 UTC is 05:00 in Budapest
    assert ticks["06:00"] * 24 - axes.convert_xunits(first) * 24 == pytest.approx(1.0)


def test_shares_within_some_minutes_by_horizon(make_rows):
    rows = make_rows([0] * 4, [60, 121, 301, 0], [0, 0, 0, 300], horizon_s=[-60, -60, 600, 900])
    lines = figures.within_by_horizon(breakdown(rows, "horizon")).axes[0].lines
    assert {line.get_label(): line.get_ydata().tolist() for line in lines} == {
        "model, within 1 min": [0.5, 0.5],
        "translation, within 1 min": [1, 0.5],
        "model, within 2 min": [0.5, 0.5],
        "translation, within 2 min": [1, 0.5],
        "model, within 5 min": [1, 0.5],
        "translation, within 5 min": [1, 1],
    }


def test_bias_by_horizon_is_signed(make_rows):
    rows = make_rows([0] * 4, [60, 0, -120, -120], [0, 0, 60, 0], horizon_s=[-60, -60, 600, 900])
    figure = figures.bias_by_horizon(breakdown(rows, "horizon"))
    assert heights(figure) == [[0.5, -2.0], [0.0, 0.5]]
    assert "too late" in texts(figure)


def test_horizon_bars_carry_skill_and_n(make_rows):
    rows = make_rows([0] * 4, [30, 30, 90, 90], [60, 60, 60, 60], horizon_s=[-60, -60, 600, 900])
    figure = figures.error_by_horizon(breakdown(rows, "horizon"))
    assert heights(figure) == [[0.5, 1.5], [1.0, 1.0]]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["overdue\nn = 2", "10 to 20\nn = 2"]  # no room for bins without rows
    assert [text.get_text() for text in figure.axes[0].texts if "%" in text.get_text()] == ["+50%", "−50%"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["model", "translation"]
    assert "(min)" in figure.axes[0].get_xlabel()


def test_delay_change_bins_are_named_in_minutes(make_rows):
    rows = make_rows([-360, 0, 660], [0] * 3, [0] * 3)
    labels = figures.error_by_delay_change(breakdown(rows, "delay_change")).axes[0].get_xticklabels()
    assert [label.get_text().split("\n")[0] for label in labels] == ["< −5", "−2 to 2", "≥ 10"]


def test_types_start_with_the_most_frequent_and_say_what_is_left_out(make_rows):
    types = [f"type {k:02d}" for k in range(20) for _ in range(k + 1)]
    zeros = [0.0] * len(types)
    figure = figures.error_by_type(
        breakdown(make_rows(zeros, zeros, [60.0] * len(types), train_type=types), "train_type")
    )
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "type 19\nn = 20" and len(labels) == 15
    assert "rarer types not drawn: 5" in texts(figure)


def test_histogram_cells_are_whole_minutes_and_hold_every_pair(make_rows):
    rows = make_rows([0, 60, 60, 600], [0, 60, 90, 600], [0, 60, 60, 540])
    model, translation, colour_bar = figures.predicted_vs_observed(rows).axes
    for axes in (model, translation):
        mesh = axes.collections[0]
        assert np.nansum(mesh.get_array()) == 4
        edges = mesh.get_coordinates()[0, :, 0]
        assert np.allclose(np.diff(edges), 1.0) and edges[0] % 1 == 0.5
        assert axes.get_xlabel() == "observed delay (min)"
    assert model.get_ylabel() == "predicted delay (min)"
    assert model.get_title(loc="left").strip() == "Predicted against observed delay: model"
    assert translation.get_title(loc="left").strip() == "Predicted against observed delay: translation"
    assert colour_bar.get_ylabel() == "predictions per 1 × 1 min"
    # predicted is up, observed is to the right: the pair (observed 10, translation 9) is in column 10, row 9
    counts = translation.collections[0].get_array()
    column, row = (int(np.searchsorted(edges, minutes)) - 1 for minutes in (10, 9))
    assert counts[row, column] == 1


def test_calibration_is_the_observed_median_where_a_delay_was_predicted(make_rows):
    # 100 predictions of 1.5 min with 1 to 3 min observed, 100 of 6 min with 6, and a single one of 50 min
    observed = [60.0, 120.0, 120.0, 180.0] * 25 + [360.0] * 100 + [0.0]
    rows = make_rows(observed, [90.0] * 100 + [360.0] * 100 + [3_000.0], [0.0] * 201)
    rows = pl.concat([rows] * 12)  # 12 rows of 2,412 are a group, though a small one
    axes = figures.calibration(rows).axes[0]
    translation, model, exact = axes.lines
    assert model.get_xdata().tolist() == [1.5, 6.0, 50.0] and model.get_ydata().tolist() == [2.0, 6.0, 0.0]
    assert translation.get_xdata().tolist() == [0.0] and translation.get_ydata().tolist() == [3.0]
    assert exact.get_xdata().tolist() == exact.get_ydata().tolist() == [0.0, 50.0]
    quartiles = {tuple(point) for point in axes.collections[0].get_paths()[0].vertices.tolist()}
    assert {(1.5, 1.75), (1.5, 2.25), (6.0, 6.0)} <= quartiles
    rare = figures.calibration(pl.concat([rows, rows.with_columns(predicted_delay_s=7_200.0).head(1)])).axes[0]
    assert rare.lines[1].get_xdata().tolist() == [1.5, 6.0, 50.0]


def test_reliability_spans_what_is_below_and_what_equals_the_quantile(make_rows):
    rows = make_rows([0, 60, 60, 120], [0] * 4, [0] * 4, quantiles={0.1: 60.0, 0.5: 60.0, 0.9: 90.0})
    axes = quantile_figures(rows)["reliability"].axes[0]
    calibrated, model = axes.lines
    assert list(calibrated.get_xdata()) == list(calibrated.get_ydata()) == [0, 1]
    assert model.get_xdata().tolist() == [0.1, 0.5, 0.9]
    assert model.get_ydata().tolist() == [0.5, 0.5, 0.75]
    bars = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert bars == [[0.25, 0.75], [0.25, 0.75], [0.75, 0.75]]
    assert "4 predictions" in texts(axes.figure)


def test_coverage_bars_have_lines_at_the_intended_coverage(make_rows):
    quantiles = {0.1: -60.0, 0.25: 0.0, 0.5: 0.0, 0.75: 0.0, 0.9: 60.0}
    rows = make_rows([0, 60, 0, 90], [0] * 4, [0] * 4, horizon_s=[-60, -60, 600, 900], quantiles=quantiles)
    figures = quantile_figures(rows)
    assert heights(figures["coverage"]) == [[0.5, 0.5], [1.0, 0.5]]
    assert heights(figures["width"]) == [[0.0, 0.0], [2.0, 2.0]]
    axes = figures["coverage"].axes[0]
    assert [lines.get_segments()[0][:, 1].tolist() for lines in axes.collections] == [[0.5, 0.5], [0.8, 0.8]]
    for figure in (figures["coverage"], figures["width"]):
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert labels == ["overdue\nn = 2", "10 to 20\nn = 2"]
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["50%", "80%"]


def test_distribution_is_the_share_with_at_most_this_error(make_rows):
    rows = make_rows([0] * 4, [0, 30, 90, 150], [60, 60, 60, 600])
    axes = figures.error_distribution(rows).axes[0]
    model, translation = axes.lines[:2]
    minutes = model.get_xdata()
    at_two = int(np.searchsorted(minutes, 2.0, side="right")) - 1
    assert model.get_ydata()[at_two] == 0.75 and translation.get_ydata()[at_two] == 0.75
    assert model.get_ydata()[0] == 0.25 and translation.get_ydata()[0] == 0
    assert "within 1 min: model 50%, translation 75%" in axes.texts[0].get_text()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["model", "translation"]


def test_training_curves_mark_the_best_epoch(day_rows):
    loss, error, rate = figures.training_curves(HISTORY).axes
    assert loss.lines[0].get_ydata().tolist() == [1.0, 0.6, 0.5]
    assert error.lines[0].get_xdata().tolist() == [1, 2] and error.lines[0].get_ydata().tolist() == [1.5, 1.6]
    names = [text.get_text() for text in error.get_legend().get_texts()]
    assert names == ["model", "translation", "best: 1.50 min in epoch 1"]
    assert rate.get_xlabel() == "epoch" and error.get_ylabel() == "validation MAE (min)"


@pytest.mark.parametrize(
    ("n", "written"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (4_520_000, "4.52M"),
    ],
)
def test_counts_are_short(n, written):
    assert figures._count(n) == written
