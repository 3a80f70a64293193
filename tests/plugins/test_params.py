"""Every rule of the params, with the message about a breach."""

import pytest

from delay_pipeline.params import (
    OPEN_SECTION,
    EvaluationParams,
    TrainingParams,
    TuningParams,
    evaluation_params,
    read_evaluation_params,
    read_params,
    read_tuning_params,
    training_params,
    tuning_params,
)
from transformer.config import environments, load_config
from transformer.errors import UserError

RESUME = {"warm_start_run_id": "abc", "resume_run": True}


def test_nothing_given_is_a_local_training():
    assert read_params(None, {}) == TrainingParams("local", [], None, None, False)


def test_the_example_of_the_old_system_is_accepted_as_it_stands():
    conf = {"env": "local-gpu", "run_id": "…", "warm_start_run_id": "…"}
    assert read_params(conf, {}) == TrainingParams("local-gpu", [], "…", "…", False)


def test_the_environment_gives_the_defaults():
    environ = {"TRANSFORMER_ENV": "dev", "TRANSFORMER_WARM_START_RUN_ID": "abc", "TRANSFORMER_RESUME_RUN": "1"}
    assert read_params({}, environ) == TrainingParams("dev", [], "abc", "abc", True)
    shown = {name: param.value for name, param in training_params(environ).items()}
    assert shown == {"env": "dev", "overrides": [], "run_id": None, "warm_start_run_id": "abc", "resume_run": True}


def test_empty_variables_count_as_unset():
    environ = {"TRANSFORMER_ENV": "", "TRANSFORMER_WARM_START_RUN_ID": "", "TRANSFORMER_RESUME_RUN": ""}
    assert read_params({}, environ) == read_params({}, {})


def test_explicit_conf_beats_the_environment_even_when_it_is_bad():
    environ = {"TRANSFORMER_ENV": "locl", "TRANSFORMER_WARM_START_RUN_ID": "abc", "TRANSFORMER_RESUME_RUN": "yes"}
    conf = {"env": "local", "warm_start_run_id": None, "resume_run": False}
    assert read_params(conf, environ) == TrainingParams("local", [], None, None, False)


def test_resuming_continues_the_run_itself():
    assert read_params(RESUME, {}).run_id == "abc"
    assert read_params({**RESUME, "run_id": "abc"}, {}).run_id == "abc"


def test_what_the_untouched_trigger_form_sends_is_accepted():
    conf = {name: param.value for name, param in training_params({}).items()}
    assert read_params(conf, {}) == read_params({}, {})


@pytest.mark.parametrize(
    ("conf", "environ", "words"),
    [
        ({"warm_start": "abc"}, {}, ["'warm_start'", "did you mean 'warm_start_run_id'"]),
        ({"gpu": True}, {}, ["'gpu'", "known: env, overrides, run_id, warm_start_run_id, resume_run"]),
        ({"env": "locl"}, {}, ["env='locl'", "did you mean 'local'"]),
        ({"env": "cloud9"}, {}, ["env='cloud9'", *environments()]),
        ({"env": 3}, {}, ["env=3", "in quotes"]),
        ({"run_id": 12}, {}, ["run_id=12", "in quotes"]),
        ({"run_id": "--resume"}, {}, ["run_id='--resume'", "copy it"]),
        ({"warm_start_run_id": "a b"}, {}, ["warm_start_run_id='a b'", "copy it"]),
        ({"resume_run": "yes"}, {}, ["resume_run='yes'", "true or false"]),
        ({"resume_run": 1, "warm_start_run_id": "abc"}, {}, ["resume_run=1", "true or false"]),
        ({"resume_run": True}, {}, ["resume_run=true", "warm_start_run_id"]),
        ({**RESUME, "run_id": "other"}, {}, ["run_id='other'", "'abc'", "leave run_id out"]),
        ({"overrides": "a=b"}, {}, ["overrides='a=b'", "is not a list"]),
        ({"overrides": [1]}, {}, ["overrides holds 1", "key=value"]),
        ({}, {"TRANSFORMER_ENV": "locl"}, ["TRANSFORMER_ENV='locl'", "did you mean 'local'"]),
        ({"env": None}, {"TRANSFORMER_ENV": "locl"}, ["TRANSFORMER_ENV='locl'"]),
        ({}, {"TRANSFORMER_RESUME_RUN": "yes"}, ["TRANSFORMER_RESUME_RUN='yes'", "0 nor 1"]),
        ({}, {"TRANSFORMER_RESUME_RUN": "1"}, ["resume_run=true", "warm_start_run_id"]),
    ],
)
def test_refusals_are_one_line_that_names_value_and_remedy(conf, environ, words):
    with pytest.raises(UserError) as refused:
        read_params(conf, environ)
    line = str(refused.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_a_study_is_asked_like_a_training_in_an_environment_of_its_own():
    assert read_tuning_params(None, {}) == TuningParams("optuna", [], None, None, False, train_best=False)
    environ = {"TRANSFORMER_ENV": "dev", "TRANSFORMER_WARM_START_RUN_ID": "abc", "TRANSFORMER_RESUME_RUN": "1"}
    assert read_tuning_params({}, environ) == TuningParams("dev", [], "abc", "abc", True, train_best=False)
    assert read_tuning_params({"env": "local"}, environ).env == "local"
    shown = {name: param.value for name, param in tuning_params(environ).items()}
    assert list(shown) == [*training_params({}), "n_trials", "n_workers", "study_name", "train_best"]
    assert (shown["env"], shown["warm_start_run_id"], shown["resume_run"]) == ("dev", "abc", True)


def test_the_params_of_a_study_come_after_the_overrides_and_beat_them():
    conf = {"n_trials": 30, "n_workers": 4, "study_name": " wider models ", "overrides": ["search.n_trials=3"]}
    assert read_tuning_params(conf, {}).overrides == [
        "search.n_trials=3",
        "search.n_trials=30",
        "search.n_workers=4",
        'search.study_name="wider models"',
    ]
    assert conf["overrides"] == ["search.n_trials=3"]
    assert load_config("optuna", read_tuning_params({"study_name": "7"}, {}).overrides).search.study_name == "7"


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_fields_of_a_study_leave_the_configuration_as_it_is(empty):
    conf = {"n_trials": empty, "n_workers": empty, "study_name": empty, "train_best": None}
    assert read_tuning_params(conf, {}) == read_tuning_params({}, {})


def test_what_the_untouched_trigger_form_of_a_study_sends_is_accepted():
    conf = {name: param.value for name, param in tuning_params({}).items()}
    assert read_tuning_params(conf, {}) == read_tuning_params({}, {})


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"trials": 3}, ["'trials'", "did you mean 'n_trials'"]),
        ({"warm_start": "abc"}, ["'warm_start'", "did you mean 'warm_start_run_id'"]),
        ({"n_trials": 0}, ["n_trials=0", "whole number above 0", "search.n_trials"]),
        ({"n_trials": True}, ["n_trials=True", "whole number"]),
        ({"n_workers": 2.0}, ["n_workers=2.0", "whole number"]),
        ({"n_workers": "2"}, ["n_workers='2'", "whole number"]),
        ({"study_name": 5}, ["study_name=5", "in quotes"]),
        ({"train_best": "yes"}, ["train_best='yes'", "true or false"]),
        ({"train_best": 0}, ["train_best=0", "true or false"]),
        ({"resume_run": True}, ["resume_run=true", "warm_start_run_id"]),
    ],
)
def test_refusals_of_a_study_are_one_line(conf, words):
    with pytest.raises(UserError) as refused:
        read_tuning_params(conf, {})
    line = str(refused.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_a_training_knows_nothing_of_studies():
    with pytest.raises(UserError, match="unknown key 'n_trials'"):
        read_params({"n_trials": 3}, {})


def test_nothing_given_is_an_evaluation_of_what_is_registered():
    assert read_evaluation_params(None, {}) == EvaluationParams("local", [], None, None, False, False)
    environ = {"TRANSFORMER_ENV": "prod", "TRANSFORMER_WARM_START_RUN_ID": "abc"}
    assert read_evaluation_params({}, environ).env == "prod"
    assert read_evaluation_params({}, environ).warm_start_run_id is None  # the variable names a run to train from


def test_what_the_untouched_trigger_form_of_an_evaluation_sends_is_accepted():
    conf = {name: param.value for name, param in evaluation_params({}).items()}
    assert read_evaluation_params(conf, {}) == read_evaluation_params({}, {})


@pytest.mark.parametrize("params", [training_params({}), tuning_params({}), evaluation_params({})])
def test_the_form_opens_with_what_is_often_needed_and_hides_no_line_behind_code(params):
    sections = list(dict.fromkeys(param.schema["section"] for param in params.values()))
    assert sections[0] == OPEN_SECTION == "Run Parameters"  # the one that Airflow opens
    assert len(sections) == 2
    for name, param in params.items():
        first, *others = param.schema["description_md"].splitlines()
        assert "`" not in first or len(first) < 100, name
        assert not any("`" in line for line in others), name


def test_an_evaluation_is_asked_for_by_model_and_window():
    conf = {"warm_start_run_id": " abc ", "window_dates": 14, "again": True}
    assert read_evaluation_params(conf, {}) == EvaluationParams("local", [], "abc", 14, True, False)
    conf = {"window_first": "2025-01-01", "window_last": "2025-01-01", "allow_training_dates": True}
    found = read_evaluation_params(conf, {})
    assert (found.window, found.allow_training_dates) == (("2025-01-01", "2025-01-01"), True)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"resume_run": True}, ["'resume_run'", "known: env, overrides, warm_start_run_id, window_first"]),
        ({"window": 3}, ["'window'", "did you mean 'window_last'"]),
        ({"window_first": "2025-01-01"}, ["window_first and window_last go together"]),
        ({"window_last": "2025-01-01"}, ["window_first and window_last go together"]),
        ({"window_first": "2025-01-01", "window_last": "1 Jan"}, ["window_last='1 Jan'", "write 2024-12-21"]),
        ({"window_first": 20250101, "window_last": "2025-01-01"}, ["window_first=20250101", "is not a date"]),
        ({"window_first": "2025-02-30", "window_last": "2025-03-01"}, ["window_first='2025-02-30'", "is not a date"]),
        ({"window_first": "20250101", "window_last": "2025-03-01"}, ["window_first='20250101'", "is not a date"]),
        ({"window_first": "2025-01-02", "window_last": "2025-01-01"}, ["is after window_last", "exchange them"]),
        (
            {"window_first": "2025-01-01", "window_last": "2025-01-02", "window_dates": 3},
            ["window_dates=3", "two windows"],
        ),
        ({"window_dates": 0}, ["window_dates=0", "leave it out to take evaluation.schedule.last_dates"]),
        ({"again": "yes"}, ["again='yes'", "true or false"]),
        ({"warm_start_run_id": "--again"}, ["warm_start_run_id='--again'", "copy it"]),
    ],
)
def test_refusals_of_an_evaluation_are_one_line(conf, words):
    with pytest.raises(UserError) as refused:
        read_evaluation_params(conf, {})
    line = str(refused.value)
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("run_id", ["--set", "../x", "/etc", "a\\b", "a/b", "a b", "a\tb", "a\0b", "a\ud800"])
@pytest.mark.parametrize("key", ["run_id", "warm_start_run_id"])
def test_what_is_no_run_id_is_refused(key, run_id):
    with pytest.raises(UserError, match=rf"^{key}='.* MLflow run id; copy .*page$"):
        read_params({key: run_id}, {})
    with pytest.raises(UserError, match=r"^warm_start_run_id='.* MLflow run id"):
        read_evaluation_params({"warm_start_run_id": run_id}, {})
