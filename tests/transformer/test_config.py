"""The configuration: every mistake is one line that names the key, the file and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from transformer.config import (
    CONFIG_FOLDER,
    GROUPS,
    Config,
    check,
    environments,
    flatten,
    load_config,
    load_config_with_sources,
    to_dict,
    to_yaml,
    valid_keys,
    with_values,
)
from transformer.errors import UserError
from transformer.files import content_hash
from transformer.text import LINE_LENGTH, one_line, redact

SECRET_ADDRESS = "http://me:geheim@host:5000"
YAML_FILES = sorted(CONFIG_FOLDER.glob("*/*"))


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Path]:
    """A configuration folder of {"base/data.yaml": text}; environment `local` is always there."""

    def make(files: dict[str, str]) -> Path:
        for folder in ("base", "local"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return make


def refusal(*overrides: str, env: str = "local", folder: Path = CONFIG_FOLDER) -> str:
    """The message of a configuration that is refused; always one line."""
    with pytest.raises(UserError) as caught:
        load_config(env, overrides, folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- what is shipped -------------------------------------------------------------------------------------------------
def test_the_environments_are_those_the_documentation_names() -> None:
    assert environments() == ["dev", "local", "local-gpu", "optuna", "prod"]


@pytest.mark.parametrize("env", ["dev", "local", "local-gpu", "optuna", "prod"])
def test_every_environment_loads(env: str) -> None:
    loaded = load_config_with_sources(env)
    assert isinstance(loaded.config, Config)
    assert list(loaded.sources) == valid_keys()
    assert set(loaded.sources.values()) <= {"schema default", *(f"{p.parent.name}/{p.name}" for p in YAML_FILES)}


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_yaml_is_a_group_whose_every_key_takes_effect(path: Path) -> None:
    assert path.stem in GROUPS
    assert path.suffix == ".yaml"
    env = "local" if path.parent.name == "base" else path.parent.name
    # As the only layer, so that nothing overlays it; base alone when it is base itself.
    values = flatten({path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) or {}})
    loaded = load_config_with_sources(env)
    merged = flatten(to_dict(loaded.config))
    for key, value in values.items():
        overlaid = path.parent.name == "base" and loaded.sources[key] != f"base/{path.name}"
        assert overlaid or merged.get(key, {}) == value, key


def test_names_of_the_old_system_stay() -> None:
    config = load_config("local")
    assert config.training.mlflow.tracking_uri == "http://127.0.0.1:5000"
    assert config.training.mlflow.use_mlflow is True
    assert config.data.download_data_from_s3 is False
    assert config.data.save_results_to_s3 is False
    assert (config.data.local_folder, config.data.bucket_name) == ("data/sample", "")
    assert config.training.use_precomputed.statistics is config.training.use_precomputed.embeddings is True
    assert config.paths.optuna_db == "data/optuna/studies.db"


# --- layers ----------------------------------------------------------------------------------------------------------
def test_environment_overlays_base_and_set_overlays_both(configure: Callable[..., Path]) -> None:
    folder = configure(
        {
            "base/training.yaml": "max_epochs: 1\nbatch_size: 2\nseed: 3\nmlflow: {experiment_name: base}\n",
            "local/training.yaml": "batch_size: 20\nseed: 30\n",
        }
    )
    loaded = load_config_with_sources("local", ["training.seed=300", "cfg.data.timezone=UTC"], folder)
    training = loaded.config.training
    assert (training.max_epochs, training.batch_size, training.seed) == (1, 20, 300)
    assert training.mlflow.experiment_name == "base"
    assert training.mlflow.use_mlflow is True
    assert loaded.config.data.timezone == "UTC"
    assert {
        key: loaded.sources[f"training.{key}"] for key in ("max_epochs", "batch_size", "seed", "learning_rate")
    } == {
        "max_epochs": "base/training.yaml",
        "batch_size": "local/training.yaml",
        "seed": "--set",
        "learning_rate": "schema default",
    }
    assert loaded.sources["data.timezone"] == "--set"


def test_a_group_can_be_set_as_a_whole() -> None:
    loaded = load_config_with_sources("local", ["data.split={train: [2024-12-13], test: [2024-12-14]}", "model={}"])
    assert loaded.config.data.split.train == ["2024-12-13"]
    assert loaded.sources["data.split.test"] == "--set"
    assert loaded.sources["data.split.validation"] == "base/data.yaml"
    assert list(loaded.sources) == valid_keys()


def test_the_last_set_wins() -> None:
    assert load_config("local", ["training.seed=1", "training.seed=2"]).training.seed == 2


def test_empty_files_and_lists_are_fine(configure: Callable[..., Path]) -> None:
    folder = configure({"base/data.yaml": "# nothing\n", "local/data.yaml": "split: {train: []}\n"})
    loaded = load_config_with_sources("local", folder=folder)
    assert loaded.config == Config()
    assert loaded.sources["data.split.train"] == "local/data.yaml"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=5", 5.0),
        ("model.quantiles=[0.025, 0.3, 0.5, 0.7, 0.975]", [0.025, 0.3, 0.5, 0.7, 0.975]),
        ("model.quantiles=[0.5]", [0.5]),
        ("training.batch_size=1_000", 1000),
        ("training.seed=08", 8),
        ("data.split.train=[2024-12-13, 2024-12-16..2024-12-19]", ["2024-12-13", "2024-12-16..2024-12-19"]),
        ("data.grid.start=05:00", "05:00"),
        ("data.endpoint_url=null", None),
        ("data.local_folder=2024", "2024"),
        ("data.local_folder='a = b: c'", "a = b: c"),
        ("data.local_folder='true'", "true"),
        ("training.mlflow.use_mlflow=no", False),
        ("training.devices=2", "2"),
    ],
)
def test_values_are_read_as_they_are_written(override: str, value: object) -> None:
    config = load_config("local", [override])
    assert flatten(to_dict(config))[override.partition("=")[0]] == value


# --- mistakes --------------------------------------------------------------------------------------------------------
def test_unknown_environment_names_the_nearest() -> None:
    assert refusal(env="lokal") == "unknown environment 'lokal'; did you mean 'local'?"
    assert refusal(env="moon").endswith("known: dev, local, local-gpu, optuna, prod")
    assert "unknown environment 'base'" in refusal(env="base")
    assert "unknown environment '../base'" in refusal(env="../base")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.max_epoch=1", "--set: unknown key 'training.max_epoch'; did you mean 'training.max_epochs'?"),
        ("use_mlflow=false", "--set: unknown key 'use_mlflow'; did you mean 'training.mlflow.use_mlflow'?"),
        ("training.mlfow.use_mlflow=1", "did you mean 'training.mlflow.use_mlflow'?"),
        ("zzz=1", "--set: unknown key 'zzz'"),
        ("training.mlflow=3", "--set: training.mlflow is a group; set one of its keys: training.mlflow.tracking_uri, "),
        ("training=3", "--set: training is a group; set one of its keys: training.max_epochs, "),
        ("training.max_epochs", "--set 'training.max_epochs' is not of the form key=value"),
        ("=3", "--set '=3' is not of the form key=value"),
        ("training.max_epochs=abc", '--set: training.max_epochs="abc" is not a whole number'),
        ("training.max_epochs=1.5", "--set: training.max_epochs=1.5 is not a whole number"),
        ("training.max_epochs=true", "--set: training.max_epochs=true is not a whole number"),
        ("training.max_epochs=", "--set: training.max_epochs=null is not a whole number"),
        ("training.max_epochs={a: 1}", '--set: training.max_epochs={"a": 1} is not a whole number'),
        ("training.learning_rate=fast", '--set: training.learning_rate="fast" is not a number'),
        ("training.mlflow.use_mlflow=maybe", '--set: training.mlflow.use_mlflow="maybe" is not true or false'),
        ("training.mlflow.use_mlflow=2", "--set: training.mlflow.use_mlflow=2 is not true or false"),
        ("data.local_folder=true", "--set: data.local_folder=true is not text; put it in quotes"),
        ("data.local_folder={a: 1}", '--set: data.local_folder={"a": 1} is not text'),
        ("data.split.train=2024-12-13", '--set: data.split.train="2024-12-13" is not a list'),
        ("data.split.train={}", "--set: data.split.train is not a list, for example [2024-12-13], but a mapping"),
        ("model.quantiles={a: 1}", "--set: model.quantiles is not a list of numbers"),
        ("alerts.email.to=[[]]", "alerts.email.to"),
        ("data.split.train=[null]", "--set: data.split.train=[null] is not a list"),
        ("model.quantiles=0.5", "--set: model.quantiles=0.5 is not a list of numbers, for example [0.05, 0.5, 0.95]"),
        ("model.quantiles=[median]", '--set: model.quantiles=["median"] is not a list of numbers'),
        ("training.loss.name=l1", "--set: training.loss.name: Invalid value 'l1', expected one of ['mae', "),
        ("data.local_folder='a", '--set: data.local_folder: "\'a" is not readable as YAML; quote it'),
        ("data.local_folder=!!int x", "--set: data.local_folder: '!!int x' is not readable as YAML"),
        ("data.local_folder=!!python/name:os.system", "is not readable as YAML"),
        ("data.local_folder=${oc.env:HOME}", "interpolation is switched off"),
        ("data.local_folder=???", "write the value itself"),
    ],
)
def test_a_wrong_override_is_named(override: str, expected: str) -> None:
    assert expected in refusal(override)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("local/training.yaml", "max_epoch: 1", "local/training.yaml: unknown key 'training.max_epoch'; did you mean"),
        ("base/training.yaml", "mlflow: {uri: x}", "base/training.yaml: unknown key 'training.mlflow.uri'"),
        ("local/training.yaml", "max_epochs: many", 'local/training.yaml: training.max_epochs="many" is not a whole'),
        ("local/training.yaml", "mlflow: 3", "local/training.yaml: training.mlflow is a group; set one of its keys: "),
        ("local/training.yaml", "mlflow:", "local/training.yaml: training.mlflow is a group; set one of its keys: "),
        ("local/training.yaml", "max_epochs: {a: 1}", 'local/training.yaml: training.max_epochs={"a": 1} is not a w'),
        ("local/training.yaml", "batch_size: 0", "local/training.yaml: training.batch_size=0 must be above 0"),
        ("local/data.yaml", "split.train: []", "local/data.yaml: not readable as YAML: 'split.train' is no key; nest"),
        ("local/data.yaml", "1: 2", "local/data.yaml: not readable as YAML: '1' is no key"),
        ("local/data.yaml", "? [a]\n: 1", "local/data.yaml: not readable as YAML"),
        (
            "local/data.yaml",
            "timezone: UTC\ntimezone: CET",
            "local/data.yaml: not readable as YAML: key 'timezone' is g",
        ),
        ("local/data.yaml", "split: {", "local/data.yaml: not readable as YAML: "),
        ("local/data.yaml", "timezone: !!int x", "local/data.yaml: not readable as YAML: "),
        ("local/data.yaml", "- 1\n- 2", "local/data.yaml: must hold `key: value` lines, found list"),
        (
            "local/trainig.yaml",
            "",
            "local/trainig.yaml: a configuration file is named GROUP.yaml; did you mean 'training'?",
        ),
        (
            "local/training.yml",
            "",
            "local/training.yml: a configuration file is named GROUP.yaml; did you mean 'training'?",
        ),
        ("local/zzz.yaml", "", "a configuration file is named GROUP.yaml; known: data, embeddings, model, "),
        ("local/data.yaml", "local_folder: ${oc.env:SECRET}", "local/data.yaml: data.local_folder="),
    ],
)
def test_a_wrong_file_is_named(configure: Callable[..., Path], file: str, text: str, expected: str) -> None:
    assert expected in refusal(folder=configure({file: text}))


def test_a_file_that_is_no_text_is_named(configure: Callable[..., Path]) -> None:
    folder = configure({})
    (folder / "local" / "data.yaml").write_bytes(b"\xff\xfe\x00")
    assert "local/data.yaml: not readable as YAML" in refusal(folder=folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(folder=tmp_path / "none").endswith("none does not exist")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.d_model=130", "model.d_model=130 is not divisible by model.n_heads=4; change one of them"),
        ("model.n_heads=0", "--set: model.n_heads=0 must be above 0"),
        ("model.quantiles=[0, 0.5, 1]", "--set: model.quantiles=[0.0, 0.5, 1.0] must lie in (0, 1)"),
        ("model.quantiles=[5, 50, 95]", "model.quantiles=[5.0, 50.0, 95.0] must lie in (0, 1)"),
        ("model.quantiles=[.nan]", "model.quantiles=[nan] must lie in (0, 1)"),
        ("model.quantiles=[0.0001, 0.5, 0.9999]", "model.quantiles=[0.0001, 0.5, 0.9999] must not be finer than thou"),
        ("model.quantiles=[0.9, 0.5, 0.1]", "model.quantiles=[0.9, 0.5, 0.1] must ascend"),
        ("model.quantiles=[0.1, 0.1, 0.5, 0.9, 0.9]", "must ascend"),
        ("model.quantiles=[]", "model.quantiles=[] lacks 0.5, the median; add it"),
        ("model.quantiles=[0.1, 0.9]", "model.quantiles=[0.1, 0.9] lacks 0.5"),
        ("model.quantiles=[0.1, 0.5, 0.8]", "model.quantiles=[0.1, 0.5, 0.8] is not symmetric; give 1 - level beside"),
        ("model.dropout=1", "--set: model.dropout=1.0 must lie in [0, 1)"),
        ("training.learning_rate=.nan", "training.learning_rate=nan is not a finite number"),
        ("training.learning_rate=0", "training.learning_rate=0.0 must be above 0"),
        ("training.weight_decay=-1", "training.weight_decay=-1.0 must not be negative"),
        ("training.seed=4294967296", "training.seed=4294967296 must lie in [0, 4294967295]"),
        ("training.scheduler.warmup_share=1", "training.scheduler.warmup_share=1.0 must lie in [0, 1)"),
        ("data.validation.max_dropped_share=2", "data.validation.max_dropped_share=2.0 must lie in [0, 1]"),
        ("evaluation.freshness.max_age_s=-1", "evaluation.freshness.max_age_s=-1 must not be negative"),
        ("evaluation.drift.max_unknown_share=1.5", "evaluation.drift.max_unknown_share=1.5 must lie in [0, 1]"),
        ("evaluation.drift.psi_shifted=0", "evaluation.drift.psi_shifted=0.0 must be above 0"),
        ("evaluation.drift.psi_noticeable=1", "evaluation.drift.psi_noticeable=1.0 is above evaluation.drift.psi_sh"),
        ("data.grid.start=5:00", "data.grid.start='5:00' is not a time of day; write it as HH:MM"),
        ("data.grid.end=04:00", "data.grid.start=05:00 is after data.grid.end=04:00"),
        ("data.timezone=Mars/Base", "data.timezone='Mars/Base' is no time zone; give an IANA name"),
        ("data.timezone=../x", "data.timezone='../x' is no time zone"),
        ("data.save_results_to_s3=true", "data.save_results_to_s3=true needs data.bucket_name"),
        ("training.mlflow.tracking_uri=''", "training.mlflow.tracking_uri='' is no address"),
        ("training.mlflow.tracking_uri=localhost", "training.mlflow.tracking_uri='localhost' is no address"),
        ("training.mlflow.tracking_uri=http://", "training.mlflow.tracking_uri='http://' is no address"),
        ("training.mlflow.tracking_uri=http://host:port", "is no address"),
        ("training.mlflow.experiment_name=' '", "training.mlflow.experiment_name is empty"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(override: str, expected: str) -> None:
    assert expected in refusal(override)


def test_a_model_without_inputs_is_refused() -> None:
    switched_off = [f"{key}=false" for key in valid_keys() if key.startswith("model.use_inputs.")]
    assert "leave at least one on" in refusal(*switched_off)
    load_config("local", switched_off[1:])


def test_the_address_does_not_matter_without_mlflow() -> None:
    overrides = ["training.mlflow.use_mlflow=false", "training.mlflow.tracking_uri=''"]
    assert load_config("local", overrides).training.mlflow.use_mlflow is False


def test_check_accepts_the_defaults() -> None:
    check(Config())


# --- credentials -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SECRET_ADDRESS, "http://***@host:5000"),
        ("postgresql+psycopg://me:p%40ss@db/studies", "postgresql+psycopg://***@db/studies"),
        ("postgresql://me:geheim@db/studies", "postgresql://***@db/studies"),
        ("postgresql://me@db:geheim@db/studies", "postgresql://***@db/studies"),
        ("postgresql://me@db/studies", "postgresql://me@db/studies"),  # a user alone is no secret
        ("at postgresql://me@db/x and http://me:geheim@h", "at postgresql://me@db/x and http://***@h"),
        ("https://token@host", "https://***@host"),
        ("http://me:pass@word@host", "http://***@host"),
        ("http://me:pass/word@host", "http://***@host"),
        ("request to http://me:geheim@host/x failed", "request to http://***@host/x failed"),
        ("http://host:5000", "http://host:5000"),
        ("someone@example.org", "someone@example.org"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_credentials_in_addresses_are_redacted(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


def test_redaction_reaches_into_dictionaries_and_lists() -> None:
    assert redact({"a": [SECRET_ADDRESS, 1], "b": {"c": None}}) == {"a": ["http://***@host:5000", 1], "b": {"c": None}}


@pytest.mark.parametrize(
    "override",
    [
        f"training.max_epochs={SECRET_ADDRESS}",
        f"training.loss.name={SECRET_ADDRESS}",
        f"training.mlflow={SECRET_ADDRESS}",
        "training.mlflow.tracking_uri=http://me:geheim/x@host",
        f"training.mlflow.tracking_uri=[{SECRET_ADDRESS}]",
        f"training.mlflow.tracking_uri='{SECRET_ADDRESS}",
        f"training.mlflow.tracking_url={SECRET_ADDRESS}",
        SECRET_ADDRESS,
    ],
)
def test_no_message_tells_a_password(override: str) -> None:
    assert "geheim" not in refusal(override)


def test_yaml_holds_everything_but_the_password(tmp_path: Path) -> None:
    config = load_config("local", [f"training.mlflow.tracking_uri={SECRET_ADDRESS}"])
    assert config.training.mlflow.tracking_uri == SECRET_ADDRESS
    values = yaml.safe_load(to_yaml(config))
    assert values["training"]["mlflow"].pop("tracking_uri") == "http://***@host:5000"
    expected = to_dict(config)
    del expected["training"]["mlflow"]["tracking_uri"]
    assert values == expected


# --- small tools -----------------------------------------------------------------------------------------------------
def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": []}}, "e": None}) == {"a.b": 1, "a.c.d": [], "e": None}


def test_content_hash_depends_on_content_alone() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash("a", "b") != content_hash("ab")
    assert len(content_hash()) == 16


# --- values of a trial -----------------------------------------------------------------------------------------------
def test_other_values_make_another_configuration_and_leave_the_first() -> None:
    config = load_config("local")
    changed = with_values(config, {"model.n_layers": 7, "training.loss.name": "huber"}, "trial 3")
    assert (changed.model.n_layers, changed.training.loss.name) == (7, "huber")
    assert (config.model.n_layers, config.training.loss.name) == (2, "mae")
    expected = flatten(to_dict(config)) | {"model.n_layers": 7, "training.loss.name": "huber"}
    assert flatten(to_dict(changed)) == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model.layers": 2}, "trial 3: unknown key 'model.layers'"),
        ({"model.n_layers": "two"}, 'trial 3: model.n_layers="two" is not a whole number'),
        ({"model.d_model": 102}, "trial 3: model.d_model=102 is not divisible by model.n_heads=4"),
    ],
)
def test_other_values_are_checked_like_any(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        with_values(load_config("local"), values, "trial 3")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("search.n_workers=4", "SQLite takes one writer; set search.storage_url"),
        ("search.storage_url=mysql://host/db", "is no database; write postgresql://user@host/database"),
        ("search.storage_url=postgresql://host", "is no database"),
        ("search.storage_url=postgresql://host/db?password=geheim", "host/db' is no database; write postgresql://user"),
        ("search.storage_url=postgresql://me:geheim@host/db", "***@host/db' is no database; write postgresql://user"),
        ("search.study_name=a'b", "is no name"),
        ("search.n_trials=0", "search.n_trials=0 must be above 0"),
        ("search.pruner.reduction_factor=1", "must be above 1"),
        ("search.sampler.name=grid", "search.sampler.name"),
    ],
)
def test_a_study_that_cannot_be_is_refused(override: str, reason: str) -> None:
    assert reason in refusal(override)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("evaluation.registry.model_name=''", "evaluation.registry.model_name='' is no name; use letters, digits"),
        ("evaluation.registry.model_name=a/b", "evaluation.registry.model_name='a/b' is no name"),
        ("evaluation.registry.turn_expires_s=0", "evaluation.registry.turn_expires_s=0.0 must be above 0"),
        ("evaluation.gate.confidence=95", "evaluation.gate.confidence=95.0 must lie in [0.5, 1)"),
        ("compute.kubernetes.pod_url=https://pods.example.org/", "is no address of a pod's page; write https://HOST/"),
        ("compute.kubernetes.pod_url=https://pods.example.org/{pod.name}", "is no address of a pod's page"),
        ("compute.kubernetes.pod_url=https://pods.example.org/{pod}/{name}", "is no address of a pod's page"),
        ("compute.kubernetes.pod_url=javascript:alert('{pod}')", "is no address of a pod's page"),
        ("compute.kubernetes.pod_url=https://me:geheim@pods.example.org/{pod}", "is no address of a pod's page"),
        ("evaluation.gate.resamples=0", "evaluation.gate.resamples=0 must be above 0"),
        ("evaluation.gate.max_degradation=-0.1", "evaluation.gate.max_degradation=-0.1 must not be negative"),
        ("evaluation.gate.max_unmatched_share=2", "evaluation.gate.max_unmatched_share=2.0 must lie in [0, 1]"),
        ("evaluation.gate.breakdowns=[horizn]", "evaluation.gate.breakdowns: 'horizn' is no breakdown; did you mean"),
        ("evaluation.gate.breakdowns=[hour]", "'hour' is no breakdown; known: horizon, delay_change, train_type"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(override: str, reason: str) -> None:
    assert reason in refusal(override)


def test_a_gate_may_let_a_slightly_worse_model_through() -> None:
    assert load_config("local", ["evaluation.gate.min_improvement_s=-1"]).evaluation.gate.min_improvement_s == -1


def test_many_workers_are_fine_on_a_database() -> None:
    overrides = ["search.n_workers=4", "search.storage_url=postgresql://optuna@db.example.org/optuna"]
    assert load_config("local", overrides).search.n_workers == 4
    assert "storage_url: postgresql://optuna@db.example.org/optuna\n" in to_yaml(load_config("local", overrides))


def test_a_failure_is_one_line_of_bounded_length_that_begins_with_the_value_and_ends_with_the_remedy() -> None:
    assert one_line(f"a\nb {SECRET_ADDRESS}") == "a b http://***@host:5000"
    line = one_line(refusal(f"model.d_model={'x' * 100_000}"))
    assert line.startswith("--set: model.d_model=") and line.endswith("is not a whole number")
    assert len(line) <= LINE_LENGTH
    assert one_line(line) == line  # Airflow shows again what a stage has said
    assert "geheim" not in one_line("x" * (LINE_LENGTH // 2 - 12) + SECRET_ADDRESS + "x" * LINE_LENGTH)  # cut in it
