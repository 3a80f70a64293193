"""Figures of a snapshot: their numbers, names and units, on the small railway and on its edges."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from transformer.config import Config
from transformer.exploration import plots
from transformer.exploration.layout import Places, places_of
from transformer.exploration.snapshot import ExploredSnapshot
from transformer.training.run_folder import TrainedModel


@pytest.fixture(scope="module")
def places(trained: TrainedModel, located: Config) -> Places:
    return places_of(trained, located)


def texts(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(artist.get_text() for artist in figure.findobj(lambda a: hasattr(a, "get_text")))


def line(figure: Figure, label: str) -> list[float]:
    (found,) = [line for line in figure.axes[0].lines if str(line.get_label()).startswith(label)]
    return np.asarray(found.get_ydata(), float).tolist()


def test_outlook_shows_predicted_translation_and_observed_in_minutes(snapshot: ExploredSnapshot):
    train = snapshot.find()
    figure = plots.outlook(snapshot, train)
    ahead = snapshot.predictions.filter(pl.col("train") == train)
    assert line(figure, "predicted") == (ahead["predicted_delay_s"] / 60).to_list()
    assert line(figure, "translation") == (ahead["translation_delay_s"] / 60).to_list()
    assert line(figure, "observed") == (ahead["observed_delay_s"].drop_nulls() / 60).to_list()
    assert line(figure, "known") == (snapshot.past.filter(pl.col("train") == train)["delay_s"] / 60).to_list()
    bands = {str(band.get_label()): band for band in figure.axes[0].collections}
    assert list(bands) == ["90% interval", "80% interval", "50% interval"]
    top = bands["90% interval"].get_datalim(figure.axes[0].transData).y1
    assert top == pytest.approx(ahead["high_90_delay_s"].max() / 60)
    assert len({tuple(band.get_facecolor()[0]) for band in bands.values()}) == 3
    seen = texts(figure)
    assert "delay (min)" in seen and snapshot.name(train) in seen and f"now, {snapshot.instant:%H:%M}" in seen
    assert str(ahead["op_name"][0]) in seen


def test_outlook_of_every_train_draws_all_that_is_known(snapshot: ExploredSnapshot):
    departed = snapshot.trains["departed"].to_list()
    for train in (departed.index(True), departed.index(False)) if False in departed else (departed.index(True),):
        texts(plots.outlook(snapshot, train))
    nothing = pl.lit(None, pl.Int32).alias("observed_delay_s")
    unseen = replace(snapshot, predictions=snapshot.predictions.with_columns(nothing), past=snapshot.past.clear())
    assert line(plots.outlook(unseen, 0), "observed") == []


def test_attention_bars_are_the_means_and_the_cells_the_heads(snapshot: ExploredSnapshot):
    train = snapshot.find()
    figure = plots.attention(snapshot, train)
    bars, heads = figure.axes[:2]
    given = snapshot.attention_of(train).head(12)
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(given["weight"].to_list())
    assert line(figure, "layer 1") == list(range(given.height))
    cells = heads.images[0].get_array()
    members, layers, n_heads, trains, _ = snapshot.attention.shape
    assert cells.shape == (given.height, members * layers * n_heads)
    # The mean over the columns is the bar, so every head of every layer and member is drawn once.
    np.testing.assert_allclose(np.asarray(cells).mean(axis=1), given["weight"].to_numpy(), rtol=1e-5)
    second = n_heads if members > 1 else 1  # a column of the second member, or the second head
    at = np.unravel_index(second, (layers, members, n_heads))
    expected = snapshot.attention[at[1], at[0], at[2], train, given["train"].to_numpy()]
    np.testing.assert_allclose(np.asarray(cells)[:, second], expected)
    seen = texts(figure)
    assert f"of {trains} trains" in seen and "itself: " in seen and "share of the attention" in seen


def test_small_shares_have_labels_of_their_own(snapshot: ExploredSnapshot):
    """Among hundreds of trains, each has a fraction of a percent of the attention."""
    figure = plots.attention(replace(snapshot, attention=snapshot.attention / 50), 0)
    figure.canvas.draw()
    for labels in (figure.axes[0].get_xticklabels(), figure.axes[2].get_yticklabels()):
        shown = [label.get_text() for label in labels]
        assert len(set(shown)) == len(shown) > 2, shown


def test_map_has_each_train_at_its_point_in_the_colour_of_its_change(snapshot: ExploredSnapshot, places: Places):
    train = snapshot.find()
    figure = plots.railway_map(snapshot, places, train)
    axes, bar = figure.axes
    groups = axes.collections[2:5]
    assert sum(len(dots.get_offsets()) for dots in groups) == snapshot.trains.height
    shown = np.sort(np.concatenate([np.asarray(dots.get_array()) for dots in groups]))
    np.testing.assert_allclose(shown, np.sort(snapshot.trains["change_s"].to_numpy() / 60))
    assert groups[0].norm(0.0) == pytest.approx(0.5)  # no change is white
    assert "min" in bar.get_ylabel() and "km" in axes.get_xlabel()
    ring = axes.collections[5].get_offsets()[0]
    where = places.points.filter(op_id=int(snapshot.trains["op_id"][train])).select("x", "y").row(0)
    extent = max(float(np.ptp(places.points[axis].to_numpy())) for axis in "xy")
    assert np.hypot(*(np.asarray(ring) - where)) < 0.05 * extent
    assert f"{snapshot.trains.height} trains" in texts(figure)


def test_trains_at_one_point_do_not_hide_each_other(snapshot: ExploredSnapshot, places: Places):
    crowded = replace(snapshot, trains=snapshot.trains.with_columns(op_id=pl.lit(places.points["op_id"][0], pl.Int32)))
    axes = plots.railway_map(crowded, places).axes[0]
    spots = np.concatenate([np.asarray(dots.get_offsets()) for dots in axes.collections[2:5]])
    assert len(np.unique(spots.round(6), axis=0)) == snapshot.trains.height


def test_trains_that_are_nowhere_are_counted(snapshot: ExploredSnapshot, places: Places):
    unknown = snapshot.trains.with_columns(
        op_id=pl.when(pl.int_range(pl.len()) < 2).then(-1).otherwise("op_id").cast(pl.Int32)
    )
    figure = plots.railway_map(replace(snapshot, trains=unknown), places, train=0)
    assert "not drawn, since their points have no position: 2" in texts(figure)
    assert len(figure.axes[0].collections) == 5  # no ring around a train that is not drawn
    everywhere = replace(snapshot, trains=snapshot.trains.with_columns(op_id=pl.lit(-1, pl.Int32)))
    assert f"no position: {snapshot.trains.height}" in texts(plots.railway_map(everywhere, places))


def test_figures_become_files(snapshot: ExploredSnapshot, places: Places, tmp_path: Path):
    train = snapshot.find()
    for name, figure in {
        "outlook": plots.outlook(snapshot, train),
        "attention": plots.attention(snapshot, train),
        "map": plots.railway_map(snapshot, places, train),
    }.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=50)
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
