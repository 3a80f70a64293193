"""The schema: one default per key, the values that a key takes, and the values that fit each other."""

from __future__ import annotations

import zoneinfo
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tests.support.messages import assert_names
from tests.transformer.config.refused import refusal
from transformer.config import (
    BASE,
    CONFIG_FOLDER,
    ChoicesConfig,
    Config,
    GridConfig,
    ProfileConfig,
    RangeConfig,
    environments,
    flatten,
    load_config,
    to_dict,
    to_yaml,
    valid_keys,
)
from transformer.config.checks import is_timezone
from transformer.config.schema import Group

LISTED = (ChoicesConfig, RangeConfig, ProfileConfig)


def fields(owner: type[Group], prefix: str = "") -> dict[str, FieldInfo]:
    """Every field that holds a value, by its dotted key."""
    found: dict[str, FieldInfo] = {}
    for name, field in owner.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Group):
            found |= fields(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


# --- defaults --------------------------------------------------------------------------------------------------------
def test_every_key_says_what_it_means() -> None:
    assert list(fields(Config)) == valid_keys()
    everything = fields(Config) | {f"{kind.__name__}.{key}": f for kind in LISTED for key, f in fields(kind).items()}
    assert [key for key, field in everything.items() if len(field.description or "") < 6] == []


def test_the_defaults_are_a_configuration() -> None:
    config = Config.model_validate(to_dict(Config()))
    assert config == Config()
    assert to_dict(config) == to_dict(Config())


@pytest.mark.parametrize("path", sorted((CONFIG_FOLDER / BASE).iterdir()), ids=lambda path: path.name)
def test_a_key_has_one_default(path: Path) -> None:
    # Base repeats defaults of the schema for operators, who read and edit them there.
    values = flatten({path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))})
    defaults = flatten(to_dict(Config()))
    assert {key: value for key, value in values.items() if value != defaults[key]} == {}


def test_a_default_belongs_to_one_configuration() -> None:
    first, second = Config(), Config()
    first.data.split.train.append("2024-12-13")
    first.model.quantiles.clear()
    first.search.space.clear()
    assert second == Config() and second.data.split.train == [] and second.search.space


def test_no_whole_number_is_larger_than_the_columns_that_it_ends_up_in() -> None:
    """Each whole number of the schema has a limit, and the message names it."""
    whole = [key for key, value in flatten(to_dict(Config())).items() if type(value) is int]
    assert len(whole) > 40
    for key in whole:
        for number in (2**32, 10**30):
            message = refusal(f"{key}={number}")
            assert key in message and any(limit in message for limit in ("2147483647", "4294967295", "32767")), message
    for key in ("data.snapshot.n_prev", "data.snapshot.n_foll"):
        assert_names(refusal(f"{key}=32768"), key, "32768", "32767")
    config = load_config("local", ["data.snapshot.n_foll=32767", "data.validation.max_delay_s=2147483647"])
    assert config.data.snapshot.n_foll == 32_767 and config.data.validation.max_delay_s == 2_147_483_647


def test_every_zone_that_the_configuration_takes_is_one_that_polars_knows() -> None:
    """`zoneinfo` reads any file of the machine's folders, for example `localtime`."""
    files = {
        path.relative_to(folder).as_posix()
        for folder in map(Path, zoneinfo.TZPATH)
        for path in folder.rglob("*")
        if path.is_file()
    }
    taken = [name for name in files | zoneinfo.available_timezones() if is_timezone(name)]
    assert len(taken) > 400 and {"Europe/Brussels", "UTC", "CET"} <= set(taken)
    noon = pl.Series([datetime(2025, 1, 13, 12)])
    for name in taken:
        noon.dt.replace_time_zone(name)
    assert not is_timezone("localtime") and not is_timezone("posixrules")


# --- types -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrong", [{"step_s": "900"}, {"step_s": True}, {"step_s": 900.0}, {"steps": 900}])
def test_a_group_made_in_code_is_checked_too(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GridConfig(**wrong)  # type: ignore[arg-type]


def test_a_listed_entry_is_written_out_as_it_was_given() -> None:
    # An entry is part of hashes, which must not change with the defaults of keys that the entry leaves out.
    space = "search.space=[{key: model.n_layers, low: 1, high: 6}, {key: training.weight_decay, choices: [0, 0.1]}]"
    profiles = "compute.kubernetes.profiles=[{name: a, memory: 8Gi}]"
    written = flatten(to_dict(load_config("local", [space, profiles])))
    assert written["search.space"] == [
        {"key": "model.n_layers", "low": 1, "high": 6},
        {"key": "training.weight_decay", "choices": [0, 0.1]},
    ]
    assert isinstance(written["search.space"][0]["low"], int)
    assert written["compute.kubernetes.profiles"] == [{"name": "a", "memory": "8Gi"}]


@pytest.mark.parametrize("env", environments())
def test_a_configuration_survives_its_dictionary(env: str) -> None:
    config = load_config(env)
    assert Config.model_validate(to_dict(config)) == config


# --- what makes no sense ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.d_model=130", ("model.d_model=130", "divisible by model.n_heads=4", "change one of them")),
        ("model.n_heads=0", ("--set", "model.n_heads=0", "above 0")),
        ("model.quantiles=[0, 0.5, 1]", ("--set", "model.quantiles=[0, 0.5, 1]", "(0, 1)")),
        ("model.quantiles=[5, 50, 95]", ("model.quantiles=[5, 50, 95]", "(0, 1)")),
        ("model.quantiles=[.nan]", ("model.quantiles=[nan]", "(0, 1)")),
        ("model.quantiles=[0.0001, 0.5, 0.9999]", ("model.quantiles=[0.0001, 0.5, 0.9999]", "thousandths")),
        ("model.quantiles=[0.9, 0.5, 0.1]", ("model.quantiles=[0.9, 0.5, 0.1]", "ascend")),
        ("model.quantiles=[0.1, 0.1, 0.5, 0.9, 0.9]", ("model.quantiles=[0.1, 0.1, 0.5, 0.9, 0.9]", "ascend")),
        ("model.quantiles=[]", ("model.quantiles=[]", "0.5, the median", "add it")),
        ("model.quantiles=[0.1, 0.9]", ("model.quantiles=[0.1, 0.9]", "0.5")),
        ("model.quantiles=[0.1, 0.5, 0.8]", ("model.quantiles=[0.1, 0.5, 0.8]", "symmetric", "1 - level")),
        ("model.dropout=1", ("--set", "model.dropout=1", "[0, 1)")),
        ("training.learning_rate=.nan", ("training.learning_rate=nan", "finite number")),
        ("training.learning_rate=0", ("training.learning_rate=0", "above 0")),
        ("training.weight_decay=-1", ("training.weight_decay=-1", "negative")),
        ("training.seed=4294967296", ("training.seed=4294967296", "[0, 4294967295]")),
        ("training.scheduler.warmup_share=1", ("training.scheduler.warmup_share=1", "[0, 1)")),
        ("data.validation.max_dropped_share=2", ("data.validation.max_dropped_share=2", "[0, 1]")),
        ("evaluation.freshness.max_age_s=-1", ("evaluation.freshness.max_age_s=-1", "negative")),
        ("evaluation.drift.max_unknown_share=1.5", ("evaluation.drift.max_unknown_share=1.5", "[0, 1]")),
        ("evaluation.drift.psi_shifted=0", ("evaluation.drift.psi_shifted=0", "above 0")),
        (
            "evaluation.drift.psi_noticeable=1",
            ("evaluation.drift.psi_noticeable=1.0", "above evaluation.drift.psi_shifted=0.25"),
        ),
        ("data.grid.start=5:00", ("data.grid.start='5:00'", "time of day", "HH:MM")),
        ("data.grid.end=04:00", ("data.grid.start=05:00", "after data.grid.end=04:00")),
        (
            "data.split={train: [2024-12-13], rolling: {train: 365}}",
            ("data.split.rolling.train=365", "data.split.train", "two splits", "set data.split.rolling.train=0"),
        ),
        ("data.split={test: [2024-12-13], rolling: {train: 365}}", ("data.split.rolling.train", "data.split.test")),
        ("data.split.rolling.train=-1", ("data.split.rolling.train=-1", "negative")),
        ("data.statistics.half_life_days=0", ("data.statistics.half_life_days=0", "above 0")),
        ("data.split.rolling.test=0", ("data.split.rolling.test=0", "above 0")),
        ("training.schedule.cron=daily", ("training.schedule.cron='daily'", "cron expression")),
        ("training.schedule.warm_start=challenger", ("training.schedule.warm_start", "'none' or 'champion'")),
        ("data.timezone=Mars/Base", ("data.timezone='Mars/Base'", "time zone", "IANA")),
        ("data.timezone=../x", ("data.timezone='../x'", "time zone")),
        ("data.timezone=localtime", ("data.timezone='localtime'", "time zone", "IANA")),
        ("data.timezone=right/UTC", ("data.timezone='right/UTC'", "time zone", "IANA")),
        ("data.save_results_to_s3=true", ("data.save_results_to_s3=true", "data.bucket_name")),
        ("training.mlflow.tracking_uri=''", ("training.mlflow.tracking_uri=''", "address")),
        ("training.mlflow.tracking_uri=localhost", ("training.mlflow.tracking_uri='localhost'", "address")),
        ("training.mlflow.tracking_uri=http://", ("training.mlflow.tracking_uri='http://'", "address")),
        (
            "training.mlflow.tracking_uri=http://host:port",
            ("training.mlflow.tracking_uri='http://host:port'", "address"),
        ),
        ("training.mlflow.experiment_name=' '", ("training.mlflow.experiment_name", "empty")),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(override: str, named: tuple[str, ...]) -> None:
    assert_names(refusal(override), *named)


def test_a_model_without_inputs_is_refused() -> None:
    switched_off = [f"{key}=false" for key in valid_keys() if key.startswith("model.use_inputs.")]
    assert_names(refusal(*switched_off), "model.use_inputs", "leave at least one on")
    load_config("local", switched_off[1:])


def test_the_address_does_not_matter_without_mlflow() -> None:
    overrides = ["training.mlflow.use_mlflow=false", "training.mlflow.tracking_uri=''"]
    assert load_config("local", overrides).training.mlflow.use_mlflow is False


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("search.n_workers=4", ("search.n_workers=4", "SQLite", "set search.storage_url")),
        (
            "search.storage_url=mysql://host/db",
            ("search.storage_url='mysql://host/db'", "database", "write postgresql://user@host/database"),
        ),
        ("search.storage_url=postgresql://host", ("search.storage_url='postgresql://host'", "no database")),
        ("search.storage_url=postgresql://host/db?password=geheim", ("host/db'", "database", "postgresql://user")),
        ("search.storage_url=postgresql://me:geheim@host/db", ("***@host/db'", "database", "postgresql://user")),
        ("search.study_name=a'b", ("search.study_name", "no name")),
        ("search.n_trials=0", ("search.n_trials=0", "above 0")),
        ("search.pruner.reduction_factor=1", ("search.pruner.reduction_factor=1", "above 1")),
        ("search.sampler.name=grid", ("search.sampler.name='grid'", "'tpe' or 'random'")),
    ],
)
def test_a_study_that_cannot_be_is_refused(override: str, named: tuple[str, ...]) -> None:
    assert_names(refusal(override), *named)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("evaluation.registry.model_name=''", ("evaluation.registry.model_name=''", "no name", "letters, digits")),
        ("evaluation.registry.model_name=a/b", ("evaluation.registry.model_name='a/b'", "no name")),
        ("evaluation.registry.turn_expires_s=0", ("evaluation.registry.turn_expires_s=0", "above 0")),
        ("evaluation.gate.confidence=95", ("evaluation.gate.confidence=95", "[0.5, 1)")),
        (
            "compute.kubernetes.pod_url=https://pods.example.org/",
            ("compute.kubernetes.pod_url=", "pod's page", "https://HOST/{namespace}/{pod}"),
        ),
        (
            "compute.kubernetes.pod_url=https://pods.example.org/{pod.name}",
            ("compute.kubernetes.pod_url=", "pod's page"),
        ),
        (
            "compute.kubernetes.pod_url=https://pods.example.org/{pod}/{name}",
            ("compute.kubernetes.pod_url=", "pod's page"),
        ),
        ("compute.kubernetes.pod_url=javascript:alert('{pod}')", ("compute.kubernetes.pod_url=", "pod's page")),
        (
            "compute.kubernetes.pod_url=https://me:geheim@pods.example.org/{pod}",
            ("compute.kubernetes.pod_url=", "pod's page"),
        ),
        ("evaluation.gate.resamples=0", ("evaluation.gate.resamples=0", "above 0")),
        ("evaluation.gate.max_degradation=-0.1", ("evaluation.gate.max_degradation=-0.1", "negative")),
        ("evaluation.gate.max_unmatched_share=2", ("evaluation.gate.max_unmatched_share=2", "[0, 1]")),
        ("evaluation.gate.breakdowns=[horizn]", ("evaluation.gate.breakdowns: 'horizn'", "no breakdown", "'horizon'")),
        ("evaluation.gate.breakdowns=[hour]", ("'hour'", "no breakdown", "horizon, delay_change, train_type")),
    ],
)
def test_a_gate_that_cannot_be_is_refused(override: str, named: tuple[str, ...]) -> None:
    assert_names(refusal(override), *named)


def test_a_gate_may_let_a_slightly_worse_model_through() -> None:
    assert load_config("local", ["evaluation.gate.min_improvement_s=-1"]).evaluation.gate.min_improvement_s == -1


def test_many_workers_are_fine_on_a_database() -> None:
    overrides = ["search.n_workers=4", "search.storage_url=postgresql://optuna@db.example.org/optuna"]
    assert load_config("local", overrides).search.n_workers == 4
    assert "storage_url: postgresql://optuna@db.example.org/optuna\n" in to_yaml(load_config("local", overrides))
