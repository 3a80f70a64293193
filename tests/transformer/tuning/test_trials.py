from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tests.transformer.tuning.example_studies import DEFAULTS, MIXED, add, fail, mixed_study, new_study
from transformer.tuning.trials import StudyTrials, failure_of, params_of, superseded


def numbers(trials: list[optuna.trial.FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def test_trials_are_sorted_by_how_they_ended():
    trials = StudyTrials.of(mixed_study())
    assert len(trials.all) == 29 and trials.counted == 28
    assert superseded(trials.all) == trials.retried == {27}
    assert numbers(trials.complete)[0] == trials.best.number == 28 and len(trials.complete) == 26
    assert (numbers(trials.pruned), numbers(trials.failed)) == ([25], [26])
    assert numbers(trials.judged) == [*numbers(trials.complete), 25]
    assert trials.defaults is not None and trials.defaults.number == 0
    assert [trials.state(trial) for trial in trials.all[25:]] == ["pruned", "failed", "retried", "complete"]
    assert trials.seconds() == 26 * 60 + 12


def test_a_study_under_way_has_trials_that_run_and_wait():
    study = new_study()
    add(study, None, state=TrialState.RUNNING)
    study.enqueue_trial(DEFAULTS)
    trials = StudyTrials.of(study)
    assert (numbers(trials.running), numbers(trials.waiting), trials.complete, trials.counted) == ([0], [1], [], 2)
    assert trials.defaults is None and trials.keys == []


def test_a_failure_has_a_reason_without_credentials():
    study = new_study()
    fail(study, "no answer from http://me:secret@host/")
    fail(study)
    assert list(map(failure_of, study.trials)) == ["no answer from http://***@host/", "its worker died too often"]


def test_values_are_those_that_the_configuration_had():
    study = optuna.create_study()
    values = {"stepped": 0.1 + 0.2, "free": 0.1 + 0.2, "whole": 4, "chosen": 0.1 + 0.2}
    distributions = {
        "stepped": FloatDistribution(0.1, 0.5, step=0.1),
        "free": FloatDistribution(0.1, 0.5),
        "whole": IntDistribution(2, 8, step=2),
        "chosen": CategoricalDistribution([0.1 + 0.2, 0.5]),
    }
    study.add_trial(optuna.create_trial(value=1.0, params=values, distributions=distributions))
    assert params_of(study.trials[0]) == {**values, "stepped": 0.3}


@pytest.mark.parametrize(
    ("values", "top"),
    [([45.0], 45.0), ([45.0, 2_500.0], 2_500.0), ([45.0, 46.0, 2_500.0], 46.0), ([45.0, 50.0, 55.0, 60.0], 60.0)],
)
def test_what_counts_as_astray(values, top):
    study = new_study()
    for value in values:
        add(study, value)
    assert StudyTrials.of(study).top == top


def test_of_equal_trials_the_first_is_the_best(tmp_path):
    study = new_study()
    for params in (MIXED, DEFAULTS, MIXED):
        add(study, 50.0, params)
    assert StudyTrials.of(study).best.number == 0
