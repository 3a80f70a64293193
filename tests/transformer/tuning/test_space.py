"""The search space: valid entries, refusals before the first trial, and the values suggested to a trial."""

import json
import subprocess
import sys

import optuna
import pytest

from transformer.config import load_config, read_value
from transformer.errors import UserError
from transformer.tuning.space import MAX_COMBINATIONS, as_override, read_space

ENVIRONMENTS = ["local", "local-gpu", "optuna", "dev", "prod", "ride", "ride-large"]


def space(*entries, overrides=(), **options):
    return read_space(load_config("local", [f"search.space={json.dumps(entries)}", *overrides]), **options)


def refusal(*entries, **options):
    with pytest.raises(UserError) as caught:
        space(*entries, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def suggested(given, n_trials=60, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    return [given.suggest(study.ask()) for _ in range(n_trials)]


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_space_of_every_environment_is_sound_and_begins_with_its_configuration(env):
    given = read_space(load_config(env))
    assert len(given.parameters) >= 8
    assert given.outside() == []


def test_numbers_are_whole_where_the_schema_says_so():
    values = suggested(
        space({"key": "model.n_layers", "low": 2, "high": 5}, {"key": "model.dropout", "low": 0.1, "high": 0.4})
    )
    assert {value["model.n_layers"] for value in values} == {2, 3, 4, 5}
    assert all(isinstance(value["model.n_layers"], int) for value in values)
    assert all(0.1 <= value["model.dropout"] <= 0.4 for value in values)


def test_a_step_is_kept_and_a_logarithmic_range_gives_every_order_of_magnitude_its_share():
    values = suggested(
        space(
            {"key": "model.dropout", "low": 0.1, "high": 0.3, "step": 0.1},
            {"key": "training.learning_rate", "low": 1e-4, "high": 1e-2, "log": True},
        ),
        n_trials=200,
    )
    assert {value["model.dropout"] for value in values} == {0.1, 0.2, 0.3}  # not 0.30000000000000004
    below = sum(value["training.learning_rate"] < 1e-3 for value in values) / len(values)
    assert 0.4 < below < 0.6


def test_choices_keep_their_type():
    values = suggested(
        space(
            {"key": "embeddings.random.enabled", "choices": [True, False]},
            {"key": "training.weight_decay", "choices": [0, 0.1]},
            {"key": "training.loss.name", "choices": ["log", "rps"]},
        )
    )
    assert {value["embeddings.random.enabled"] for value in values} == {True, False}
    assert all(isinstance(value["training.weight_decay"], float) for value in values)
    assert {value["training.loss.name"] for value in values} == {"log", "rps"}


def test_a_conditional_key_is_searched_only_where_its_condition_holds():
    given = space(
        {"key": "training.loss.name", "choices": ["log", "mixed", "rps"]},
        {"key": "training.loss.ranked_weight", "low": 0.5, "high": 2, "when": "training.loss.name=[mixed, rps]"},
    )
    for values in suggested(given):
        assert ("training.loss.ranked_weight" in values) == (values["training.loss.name"] != "log")
    assert given.own_values() == {"training.loss.name": "mixed", "training.loss.ranked_weight": 1.0}


def test_a_condition_on_a_key_that_is_not_searched_looks_at_its_own_value():
    given = space(
        {"key": "embeddings.random.enabled", "choices": [True, False]},
        {"key": "embeddings.random.dim", "choices": [8, 16], "when": "embeddings.random.enabled=true"},
        {"key": "embeddings.random.seed", "choices": [0, 1], "when": "embeddings.random.dim=16"},
    )
    # Without the random vectors, their dimension keeps its own value 16, and with 16 their seed is searched.
    assert all("embeddings.random.seed" in v for v in suggested(given) if not v["embeddings.random.enabled"])


def test_own_values_outside_the_space_are_told():
    assert space({"key": "model.d_model", "choices": [32, 128]}).outside() == ["model.d_model=64"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"key": "model.n_layer", "low": 1, "high": 2}, "unknown key 'model.n_layer'; did you mean 'model.n_layers'?"),
        ({"key": "model", "choices": [1]}, "unknown key 'model'"),
        ("model.n_layers", "entry"),
        ({"low": 1, "high": 2}, "entry"),
        ({"key": "model.n_layers", "lo": 1, "high": 2}, "model.n_layers: unknown key 'lo'; did you mean 'low'?"),
        ({"key": "model.n_layers", "low": "many", "high": 2}, 'model.n_layers: low="many" is not a number'),
        ({"key": "model.n_layers"}, "either choices, or low and high"),
        ({"key": "model.n_layers", "choices": [1], "low": 1, "high": 2}, "either choices, or low and high"),
        ({"key": "model.n_layers", "low": 1}, "model.n_layers: high is missing"),
        ({"key": "model.n_layers", "low": 1.5, "high": 3}, "low=1.5 is not a whole number"),
        ({"key": "model.n_layers", "low": 3, "high": 3}, "low=3 is not below high=3"),
        ({"key": "model.n_layers", "low": 0, "high": 3}, "model.n_layers=0 must be above 0"),
        ({"key": "model.n_layers", "choices": [2, "two"]}, 'model.n_layers="two" is not a whole number'),
        ({"key": "model.n_layers", "choices": [2, True]}, "model.n_layers=true is not a whole number"),
        ({"key": "model.n_layers", "choices": [2, 2]}, "hold a value twice"),
        ({"key": "model.n_layers", "choices": [[2]]}, "is not a single value"),
        ({"key": "model.n_layers", "low": 1, "high": 6, "step": 2}, "step=2 does not lead from low=1 to high=6"),
        (
            {"key": "model.n_layers", "choices": [1, 2], "log": True},
            "model.n_layers: unknown key 'log'; known: key, choices, when",
        ),
        ({"key": "model.dropout", "low": 0.2, "high": 1.0}, "model.dropout=1.0 must lie in [0, 1)"),
        ({"key": "model.n_layers", "low": -(10**308), "high": 10**308, "step": 0.1}, "does not lead from"),
        ({"key": "model.n_layers", "low": 1, "high": 10**400}, "is not a number"),
        ({"key": "model.dropout", "low": 0, "high": 0.4, "log": True}, "log needs low above 0"),
        ({"key": "training.loss.name", "low": 1, "high": 2}, "give it choices"),
        ({"key": "training.loss.name", "choices": ["log", "mape"]}, "training.loss.name"),
        ({"key": "model.use_inputs.calendar", "low": 0, "high": 1}, "give it choices"),
        (
            {"key": "training.weight_decay", "low": 0.1, "high": float("inf")},
            'training.weight_decay: high="Infinity" is not a',
        ),
        ({"key": "paths.cache", "choices": ["a", "b"]}, "says where a trial runs"),
        ({"key": "training.mlflow.use_mlflow", "choices": [True, False]}, "says where a trial runs"),
        ({"key": "search.n_trials", "low": 1, "high": 2}, "says where a trial runs"),
        ({"key": "evaluation.drift.psi_shifted", "low": 0.1, "high": 2}, "says where a trial runs"),
        ({"key": "data.snapshot.n_foll", "low": 5, "high": 15}, "changes the rows on which trials are compared"),
        ({"key": "data.reporting_delay_s", "low": 0, "high": 60}, "changes the rows on which trials are compared"),
        ({"key": "data.grid.step_s", "choices": [900]}, "changes the rows on which trials are compared"),
        ({"key": "model.dropout", "choices": [0.1], "when": "model.n_layers=2"}, "must be KEY=VALUE of an entry above"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_in_one_line(entry, reason):
    assert reason in refusal(entry)


def test_an_empty_space_is_refused():
    assert "search.space is empty" in refusal()


def test_a_key_given_twice_is_refused():
    assert "given twice" in refusal(*[{"key": "model.n_layers", "low": 1, "high": 2}] * 2)


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("training.loss.name=mape", 'training.loss.name is never "mape"'),
        ("training.loss.name", "must be KEY=VALUE"),
        ("training.loss.name=[]", "never holds"),
        ("training.loss.name=[log", "not readable as YAML"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(when, reason):
    loss = {"key": "training.loss.name", "choices": ["log", "mixed"]}
    assert reason in refusal(loss, {"key": "model.dropout", "choices": [0.1, 0.2], "when": when})


def test_a_dimension_that_some_number_of_heads_does_not_divide_is_refused():
    message = refusal(
        {"key": "model.d_model", "choices": [64, 96]}, {"key": "model.n_heads", "choices": [4, 8, 16, 64]}
    )
    assert "model.d_model=96 is not divisible by model.n_heads=64" in message
    assert "model.d_model=102 is not divisible by model.n_heads=4" in refusal(
        {"key": "model.d_model", "choices": [128, 102]}
    )


def test_a_condition_can_keep_values_apart_that_do_not_fit():
    d_model = {"key": "model.d_model", "choices": [64, 96]}
    heads = {"key": "model.n_heads", "choices": [8, 64]}
    assert "96 is not divisible" in refusal(d_model, heads)
    values = suggested(space(d_model, {**heads, "when": "model.d_model=64"}))
    assert {(v["model.d_model"], v.get("model.n_heads", 8)) for v in values} == {(64, 8), (64, 64), (96, 8)}


def test_a_space_in_which_every_input_can_be_off_is_refused():
    names = vars(load_config("local").model.use_inputs)
    switches = [{"key": f"model.use_inputs.{name}", "choices": [True, False]} for name in names]
    assert "switches every input off" in refusal(*switches)
    assert len(space(*switches[1:]).parameters) == len(names) - 1


def test_more_combinations_than_can_be_checked_are_refused():
    n = MAX_COMBINATIONS
    message = refusal(
        {"key": "model.d_model", "low": 8, "high": n, "step": 8}, {"key": "model.n_heads", "low": 1, "high": 100}
    )
    assert "too many combinations" in message


def test_a_warm_start_leaves_only_what_does_not_change_the_weights_to_search():
    rate = {"key": "training.learning_rate", "low": 1e-4, "high": 1e-3}
    assert space(rate, {"key": "model.dropout", "choices": [0.1, 0.2]}, warm_start=True)
    for key in ("model.n_layers", "embeddings.random.dim", "data.snapshot.n_prev"):
        assert f"{key} changes the model" in refusal(rate, {"key": key, "low": 1, "high": 9}, warm_start=True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (64, "64"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-05, "1e-05"),
        (True, "true"),
        ("mixed", "mixed"),
        ("32-true", "32-true"),
        ("true", '"true"'),
        ("1e-3", '"1e-3"'),
        ("it's: a name", '"it\'s: a name"'),
        ("", '""'),
        ("Île", "Île"),
        (None, "null"),
    ],
)
def test_value_as_set_reads_it(value, shown):
    assert as_override(value) == shown
    assert read_value(shown) == value and type(read_value(shown)) is type(value)


def test_checking_a_space_needs_neither_optuna_nor_torch():
    code = (
        "import sys; from transformer.config import load_config; from transformer.tuning.space import read_space; "
        "read_space(load_config('optuna')); print({'optuna', 'torch', 'mlflow', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
