"""Loading: layers and sources. A mistake is one line with the key, the file and the nearest valid name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.messages import assert_names
from tests.transformer.config.refused import refusal
from transformer.config import (
    CONFIG_FOLDER,
    GROUPS,
    Config,
    ModelConfig,
    environments,
    flatten,
    from_dict,
    load_config,
    load_config_with_sources,
    to_dict,
    to_yaml,
    valid_keys,
    with_values,
)
from transformer.errors import UserError

SECRET_ADDRESS = "http://me:geheim@host:5000"
YAML_FILES = sorted(CONFIG_FOLDER.glob("*/*"))


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration folder of {"base/data.yaml": text}. It always has the environment `local`."""

    def make(files: dict[str, str]) -> Path:
        for folder in ("base", "local"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return make


# --- shipped configurations -----------------------------------------------------------------------------------------
def test_the_environments_are_those_the_documentation_names() -> None:
    assert environments() == ["dev", "local", "local-gpu", "optuna", "prod", "ride", "ride-large"]


@pytest.mark.parametrize("env", ["dev", "local", "local-gpu", "optuna", "prod", "ride", "ride-large"])
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
    # Another file may override a value of base.
    values = flatten({path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) or {}})
    loaded = load_config_with_sources(env)
    merged = flatten(to_dict(loaded.config))
    for key, value in values.items():
        overlaid = path.parent.name == "base" and loaded.sources[key] != f"base/{path.name}"
        assert overlaid or merged.get(key, {}) == value, key


def test_the_variable_names_the_server_of_environments_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    key, own = "training.mlflow.tracking_uri", "http://mlflow.mlflow.svc.cluster.local:5000"

    def found(env: str, *overrides: str) -> tuple[str, str]:
        loaded = load_config_with_sources(env, overrides)
        return loaded.config.training.mlflow.tracking_uri, loaded.sources[key]

    monkeypatch.setenv("TRANSFORMER_TRACKING_URI", "http://127.0.0.1:5001")
    for env in ("local", "optuna"):
        assert found(env) == ("http://127.0.0.1:5001", "TRANSFORMER_TRACKING_URI")
    assert found("prod") == (own, "prod/training.yaml")
    assert found("local", f"{key}=http://other:1") == ("http://other:1", "--set")
    monkeypatch.setenv("TRANSFORMER_TRACKING_URI", "")
    assert found("local") == ("http://127.0.0.1:5000", "base/training.yaml")


def test_a_wrong_address_in_the_variable_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMER_TRACKING_URI", "http://me:geheim/pass@host:5000")
    with pytest.raises(UserError) as caught:
        load_config("local")
    assert_names(caught.value, "TRANSFORMER_TRACKING_URI: training.mlflow.tracking_uri=", "http://127.0.0.1:5000")
    assert "geheim" not in str(caught.value)


def test_the_large_network_of_ride_learns_from_the_same_snapshots() -> None:
    small, large, local = (load_config(env) for env in ("ride", "ride-large", "local"))
    assert large.data == small.data
    assert large.training.sampling == small.training.sampling
    assert small.model == local.model
    assert (small.data.snapshot.n_foll, small.data.timezone) == (15, "Europe/Brussels")
    assert small.training.sampling.instants == "running"


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
    assert loaded.sources["data.split.validation"] == "schema default"
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
    assert_names(refusal(env="lokal"), "unknown environment", "'lokal'", "'local'")
    assert_names(refusal(env="moon"), "unknown environment", "'moon'", ", ".join(environments()))
    assert_names(refusal(env="base"), "unknown environment", "'base'")
    assert_names(refusal(env="../base"), "unknown environment", "'../base'")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.max_epoch=1", ("--set", "unknown", "'training.max_epoch'", "'training.max_epochs'")),
        ("use_mlflow=false", ("--set", "unknown", "'use_mlflow'", "'training.mlflow.use_mlflow'")),
        ("training.mlfow.use_mlflow=1", ("'training.mlfow.use_mlflow'", "'training.mlflow.use_mlflow'")),
        ("zzz=1", ("--set", "unknown", "'zzz'")),
        ("training.mlflow=3", ("--set", "training.mlflow is a group", "training.mlflow.tracking_uri")),
        ("training=3", ("--set", "training is a group", "training.max_epochs")),
        ("training.max_epochs", ("--set 'training.max_epochs'", "key=value")),
        ("=3", ("--set '=3'", "key=value")),
        ("training.max_epochs=abc", ("--set", 'training.max_epochs="abc"', "whole number")),
        ('training.max_epochs="10"', ("--set", 'training.max_epochs="10"', "whole number")),
        ("training.seed=08", ("--set", 'training.seed="08"', "whole number")),
        ('training.learning_rate="0.1"', ("--set", 'training.learning_rate="0.1"', "a number")),
        ('training.mlflow.use_mlflow="true"', ("--set", 'training.mlflow.use_mlflow="true"', "true or false")),
        ("training.learning_rate=true", ("--set", "training.learning_rate=true", "a number")),
        ("training.max_epochs=1.5", ("--set", "training.max_epochs=1.5", "whole number")),
        ("training.max_epochs=true", ("--set", "training.max_epochs=true", "whole number")),
        ("training.max_epochs=", ("--set", "training.max_epochs=null", "whole number")),
        ("training.max_epochs={a: 1}", ("--set", 'training.max_epochs={"a": 1}', "whole number")),
        ("training.learning_rate=fast", ("--set", 'training.learning_rate="fast"', "a number")),
        ("training.mlflow.use_mlflow=maybe", ("--set", 'training.mlflow.use_mlflow="maybe"', "true or false")),
        ("training.mlflow.use_mlflow=2", ("--set", "training.mlflow.use_mlflow=2", "true or false")),
        ("data.local_folder=true", ("--set", "data.local_folder=true", "text", "quotes")),
        ("data.local_folder={a: 1}", ("--set", 'data.local_folder={"a": 1}', "text")),
        ("data.split.train=2024-12-13", ("--set", 'data.split.train="2024-12-13"', "list")),
        ("data.split.train={}", ("--set", "data.split.train", "list", "[2024-12-13]", "mapping")),
        ("model.quantiles={a: 1}", ("--set", "model.quantiles", "list of numbers")),
        ("alerts.email.to=[[]]", ("alerts.email.to",)),
        ("data.split.train=[null]", ("--set", "data.split.train=[null]", "list")),
        ("model.quantiles=0.5", ("--set", "model.quantiles=0.5", "list of numbers", "[0.05, 0.5, 0.95]")),
        ("model.quantiles=[median]", ("--set", 'model.quantiles=["median"]', "list of numbers")),
        ("training.loss.name=l1", ("--set", "training.loss.name='l1'", "'mixed', 'log' or 'rps'")),
        ("data.local_folder='a", ("--set", 'data.local_folder: "\'a"', "YAML", "quote it")),
        ("data.local_folder=!!int x", ("--set", "data.local_folder: '!!int x'", "YAML")),
        ("data.local_folder=!!python/name:os.system", ("data.local_folder", "YAML")),
        (
            "data.local_folder=${oc.env:HOME}",
            ("data.local_folder='${oc.env:HOME}'", "interpolated", "write the value itself"),
        ),
        ("data.local_folder=???", ("data.local_folder='???'", "write the value itself")),
    ],
)
def test_a_wrong_override_is_named(override: str, named: tuple[str, ...]) -> None:
    assert_names(refusal(override), *named)


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        (
            "local/training.yaml",
            "max_epoch: 1",
            ("local/training.yaml", "unknown", "'training.max_epoch'", "'training.max_epochs'"),
        ),
        ("base/training.yaml", "mlflow: {uri: x}", ("base/training.yaml", "unknown", "'training.mlflow.uri'")),
        (
            "local/training.yaml",
            "max_epochs: many",
            ("local/training.yaml", 'training.max_epochs="many"', "whole number"),
        ),
        (
            "local/training.yaml",
            "mlflow: 3",
            ("local/training.yaml", "training.mlflow is a group", "training.mlflow.tracking_uri"),
        ),
        (
            "local/training.yaml",
            "mlflow:",
            ("local/training.yaml", "training.mlflow is a group", "training.mlflow.tracking_uri"),
        ),
        (
            "local/training.yaml",
            "max_epochs: {a: 1}",
            ("local/training.yaml", 'training.max_epochs={"a": 1}', "whole number"),
        ),
        ("local/training.yaml", "batch_size: 0", ("local/training.yaml", "training.batch_size=0", "above 0")),
        ("local/data.yaml", "split.train: []", ("local/data.yaml", "YAML", "'split.train' is no key", "nest keys")),
        ("local/data.yaml", "1: 2", ("local/data.yaml", "YAML", "'1' is no key")),
        ("local/data.yaml", "? [a]\n: 1", ("local/data.yaml", "YAML")),
        (
            "local/data.yaml",
            "timezone: UTC\ntimezone: CET",
            ("local/data.yaml", "YAML", "'timezone'", "twice"),
        ),
        ("local/data.yaml", "split: {", ("local/data.yaml", "YAML")),
        ("local/data.yaml", "timezone: !!int x", ("local/data.yaml", "YAML")),
        ("local/data.yaml", "- 1\n- 2", ("local/data.yaml", "`key: value`", "list")),
        (
            "local/trainig.yaml",
            "",
            ("local/trainig.yaml", "GROUP.yaml", "'training'"),
        ),
        (
            "local/training.yml",
            "",
            ("local/training.yml", "GROUP.yaml", "'training'"),
        ),
        ("local/zzz.yaml", "", ("local/zzz.yaml", "GROUP.yaml", "data, embeddings, model")),
        ("local/data.yaml", "local_folder: ${oc.env:SECRET}", ("local/data.yaml", "data.local_folder=")),
    ],
)
def test_a_wrong_file_is_named(configure: Callable[..., Path], file: str, text: str, named: tuple[str, ...]) -> None:
    assert_names(refusal(folder=configure({file: text})), *named)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_epochs: many", ("base/training.yaml", 'training.max_epochs="many"', "whole number")),
        ("max_epochs: 0", ("base/training.yaml", "training.max_epochs=0", "above 0")),
    ],
)
def test_a_wrong_value_is_named_though_another_file_overrides_it(
    configure: Callable[..., Path], text: str, named: tuple[str, ...]
) -> None:
    folder = configure({"base/training.yaml": text, "local/training.yaml": "max_epochs: 3"})
    assert_names(refusal(folder=folder), *named)


def test_how_values_fit_is_seen_when_all_files_are_read(configure: Callable[..., Path]) -> None:
    folder = configure({"base/model.yaml": "d_model: 102", "local/model.yaml": "n_heads: 3"})  # 4 do not divide 102
    assert load_config("local", folder=folder).model.d_model == 102


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("local/data.yaml", "split: {train: &a [*a]}", ("data.split.train=[[...]]", "list")),
        ("local/data.yaml", "split: &a {split: *a}", ("unknown", "'data.split.split")),
        ("local/data.yaml", "timezone: &a {split: *a}", ("data.timezone={'split': {...}}", "text")),
        ("local/search.yaml", "space: &a [*a]", ("search.space: [[...]]", "entry", "{key: ")),
        ("local/search.yaml", "space: [{key: model.n_layers, choices: &a [*a]}]", ("search.space", "single value")),
    ],
)
def test_a_value_that_holds_itself_is_refused_in_one_line(
    configure: Callable[..., Path], file: str, text: str, named: tuple[str, ...]
) -> None:
    assert_names(refusal(folder=configure({file: text})), *named)


def test_a_file_that_is_no_text_is_named(configure: Callable[..., Path]) -> None:
    folder = configure({})
    (folder / "local" / "data.yaml").write_bytes(b"\xff\xfe\x00")
    assert_names(refusal(folder=folder), "local/data.yaml", "YAML")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert_names(refusal(folder=tmp_path / "none"), str(tmp_path / "none"), "does not exist")


# --- credentials -----------------------------------------------------------------------------------------------------
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
def test_no_message_holds_a_password(override: str) -> None:
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


# --- parts -----------------------------------------------------------------------------------------------------------
def test_a_part_is_read_back_from_its_dictionary() -> None:
    model = load_config("prod").model
    assert from_dict(ModelConfig, to_dict(model), "checkpoint") == model
    with pytest.raises(UserError) as caught:
        from_dict(ModelConfig, {**to_dict(model), "wings": 2}, "checkpoint")
    assert_names(caught.value, "checkpoint", "unknown", "'wings'")
    with pytest.raises(UserError) as caught:
        from_dict(ModelConfig, {**to_dict(model), "d_model": 0}, "checkpoint")
    assert_names(caught.value, "checkpoint", "d_model=0", "above 0")


# --- values of a trial -----------------------------------------------------------------------------------------------
def test_other_values_make_another_configuration_and_leave_the_first() -> None:
    config = load_config("local")
    changed = with_values(config, {"model.n_layers": 7, "training.loss.name": "rps"}, "trial 3")
    assert (changed.model.n_layers, changed.training.loss.name) == (7, "rps")
    assert (config.model.n_layers, config.training.loss.name) == (2, "mixed")
    expected = flatten(to_dict(config)) | {"model.n_layers": 7, "training.loss.name": "rps"}
    assert flatten(to_dict(changed)) == expected


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model.layers": 2}, ("trial 3", "unknown", "'model.layers'")),
        ({"model.n_layers": "two"}, ("trial 3", 'model.n_layers="two"', "whole number")),
        ({"model.d_model": 102}, ("trial 3", "model.d_model=102", "divisible by model.n_heads=4")),
    ],
)
def test_other_values_are_checked_like_any(values: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        with_values(load_config("local"), values, "trial 3")
    assert_names(caught.value, *named)
