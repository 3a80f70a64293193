from __future__ import annotations

import math

import pytest

from tests.transformer.tuning.example_studies import DEFAULTS, MIXED, add, mixed_study, new_study
from transformer.tuning import plots
from transformer.tuning.trials import StudyTrials


def test_history_shows_defaults_best_so_far_and_failures():
    axes = plots.history(StudyTrials.of(mixed_study())).axes[0]
    named = {line.get_label(): line for line in axes.lines}
    assert list(named["defaults: 50.00 s"].get_ydata()) == [50.0, 50.0]
    assert named["best so far"].get_ydata()[0] == 50.0 and named["best so far"].get_ydata()[-1] == 47.5
    assert list(named["failed, no value"].get_xdata()) == [26]  # not 27, which was run again
    assert (named["best: 47.50 s, trial 28"].get_xdata(), named["best: 47.50 s, trial 28"].get_ydata()) == (
        [28],
        [47.5],
    )


def test_curves_tell_pruned_trials_apart():
    axes = plots.intermediate_values(StudyTrials.of(mixed_study())).axes[0]
    named = {line.get_label(): line for line in axes.lines}
    assert list(named["pruned: trial 25"].get_ydata()) == [72.0, 66.0]
    assert named["pruned: trial 25"].get_linestyle() == "--" and named["complete"].get_linestyle() == "-"
    assert list(named["best: trial 28"].get_xdata()) == [1, 2]
    assert list(named["defaults: trial 0"].get_ydata()) == [70.0, 55.0, 50.0]


def test_parallel_coordinates_put_what_was_not_searched_below_the_axes():
    study = new_study()
    add(study, 50.0)
    add(study, 40.0, MIXED)
    axes = plots.parallel_coordinates(StudyTrials.of(study)).axes[0]
    best = next(line for line in axes.lines if line.get_label() == "best: trial 1")
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[-1] == "validation\nMAE (s)" and "loss.\nranked_weight" in labels
    at = labels.index("loss.\nranked_weight")
    assert best.get_ydata()[at] == pytest.approx(math.log(12) / math.log(60))
    other = next(line for line in axes.lines if len(line.get_ydata()) == len(labels) and line.get_ydata()[at] < 0)
    assert other.get_ydata()[-1] == 1.0  # the worse of two
    assert "not\nsearched" in {text.get_text() for text in axes.texts}


def test_slices_have_a_panel_for_each_parameter():
    study = new_study()
    add(study, 50.0, defaults=True)
    add(study, 40.0, MIXED)
    figure = plots.slices(StudyTrials.of(study))
    panels = {axes.get_xlabel(): axes for axes in figure.axes}
    assert set(panels) == {
        "d_model",
        "n_layers",
        "use_inputs.calendar",
        "learning_rate (log)",
        "loss.ranked_weight (log)",
        "loss.name",
        "precision",
    }
    figure.canvas.draw()
    assert [label.get_text() for label in panels["use_inputs.calendar"].get_xticklabels()] == ["true", "false"]
    assert [label.get_text() for label in panels["loss.name"].get_xticklabels()] == ["log", "mixed"]
    assert len(panels["loss.ranked_weight (log)"].collections) == 1  # only one trial has it
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "complete, the darker the later",
        "defaults",
        "best",
    }


def test_one_that_went_astray_does_not_squeeze_the_others():
    study = new_study()
    for k, value in enumerate([50.0, 45.0, 48.0, 2_500.0, 47.0, 46.0]):
        add(study, value, DEFAULTS | {"model.n_layers": k % 4 + 1}, curve=(value + 9, value))
    trials = StudyTrials.of(study)
    assert trials.top == 50.0
    for figure in (plots.history(trials), plots.slices(trials), plots.intermediate_values(trials)):
        assert figure.axes[0].get_ylim()[1] < 60
    labels = {text.get_text() for text in plots.history(trials).legends[0].get_texts()}
    assert {"complete", "beyond the axis"} <= labels


def test_defaults_that_are_far_off_stay_on_the_axis():
    study = new_study()
    add(study, 500.0, defaults=True)
    for value in (45.0, 46.0, 47.0, 48.0):
        add(study, value, MIXED)
    trials = StudyTrials.of(study)
    assert trials.top == 48.0 and plots.history(trials).axes[0].get_ylim()[1] > 500


def test_names_are_whole_where_the_short_ones_are_alike():
    keys = ["embeddings.random.seed", "training.seed", "search.seed", "training.loss.name"]
    assert plots._short_names(keys) == {
        "embeddings.random.seed": "random.seed",
        "training.seed": "training.seed",
        "search.seed": "search.seed",
        "training.loss.name": "loss.name",
    }
