"""Every rule of the params, with the line a person reads when it is broken."""

import pytest

from delay_pipeline.params import TrainingRequest, read_request, training_params
from transformer.config import environments
from transformer.errors import UserError

RESUME = {"warm_start_run_id": "abc", "resume_run": True}


def test_nothing_given_is_a_local_training():
    assert read_request(None, {}) == TrainingRequest("local", [], None, None, False)


def test_the_example_of_the_old_system_is_accepted_as_it_stands():
    conf = {"env": "local-gpu", "run_id": "…", "warm_start_run_id": "…"}
    assert read_request(conf, {}) == TrainingRequest("local-gpu", [], "…", "…", False)


def test_the_environment_gives_the_defaults():
    environ = {"TRANSFORMER_ENV": "dev", "TRANSFORMER_WARM_START_RUN_ID": "abc", "TRANSFORMER_RESUME_RUN": "1"}
    assert read_request({}, environ) == TrainingRequest("dev", [], "abc", "abc", True)
    shown = {name: param.value for name, param in training_params(environ).items()}
    assert shown == {"env": "dev", "overrides": [], "run_id": None, "warm_start_run_id": "abc", "resume_run": True}


def test_empty_variables_count_as_unset():
    environ = {"TRANSFORMER_ENV": "", "TRANSFORMER_WARM_START_RUN_ID": "", "TRANSFORMER_RESUME_RUN": ""}
    assert read_request({}, environ) == read_request({}, {})


def test_explicit_conf_beats_the_environment_even_when_it_is_bad():
    environ = {"TRANSFORMER_ENV": "locl", "TRANSFORMER_WARM_START_RUN_ID": "abc", "TRANSFORMER_RESUME_RUN": "yes"}
    conf = {"env": "local", "warm_start_run_id": None, "resume_run": False}
    assert read_request(conf, environ) == TrainingRequest("local", [], None, None, False)


def test_resuming_continues_the_run_itself():
    assert read_request(RESUME, {}).run_id == "abc"
    assert read_request({**RESUME, "run_id": "abc"}, {}).run_id == "abc"


def test_what_the_untouched_trigger_form_sends_is_accepted():
    conf = {name: param.value for name, param in training_params({}).items()}
    assert read_request(conf, {}) == read_request({}, {})


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
        read_request(conf, environ)
    line = str(refused.value)
    assert "\n" not in line
    for word in words:
        assert word in line
