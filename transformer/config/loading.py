"""Loading a configuration: its layers, the source of each value, and the first mistake as one line.

The layers are `include/config/base/*.yaml`, the variable TRANSFORMER_TRACKING_URI, `include/config/<env>/*.yaml` and
`--set key=value`; later layers override earlier ones. Each file is one group: `training.yaml` holds `config.training`.
Keys that the schema lacks are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from transformer.config.checks import nearest
from transformer.config.mistakes import mistakes
from transformer.config.schema import GROUPS, Config, Group, defaults, flatten, to_dict
from transformer.errors import UserError
from transformer.protocol import TRACKING_VARIABLE
from transformer.text import redact

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "include" / "config"
BASE = "base"

Part = TypeVar("Part", bound=Group)


@dataclass(frozen=True)
class LoadedConfig:
    """A merged configuration, and the file or option that set each leaf key."""

    config: Config
    sources: Mapping[str, str]


class _YamlLoader(yaml.SafeLoader):
    """Safe YAML that reads `2024-12-13` and `05:00` as text and `1e-3` as a number, and refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*", key):
                raise yaml.YAMLError(f"{key!r} is no key; nest keys by indentation, `mlflow: {{use_mlflow: true}}`")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if not tag.endswith((":timestamp", ":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# No leading zeros: YAML 1.1 would read 010 as eight.
_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][\d_]*)$"), list("-+0123456789"))
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def environments(folder: Path = CONFIG_FOLDER) -> list[str]:
    """Names that `--env` and the DAG param `env` accept: the folders next to `base`, sorted."""
    if not folder.is_dir():
        raise UserError(f"configuration folder {folder} does not exist")
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name != BASE and not path.name.startswith(".")
    )


def load_config(env: str, overrides: Sequence[str] = (), folder: Path = CONFIG_FOLDER) -> Config:
    """Return the merged configuration of `env`, checked against the schema.

    Raises:
        UserError: the environment or a key is unknown, YAML is unreadable, or a value has the wrong type or range.
    """
    return load_config_with_sources(env, overrides, folder).config


def load_config_with_sources(env: str, overrides: Sequence[str] = (), folder: Path = CONFIG_FOLDER) -> LoadedConfig:
    """Like `load_config`, with the source of each value: `schema default`, `<folder>/<file>`, a variable or `--set`."""
    try:
        return _load(env, overrides, folder)
    except UserError as error:  # the wrong value in the message may be an address with a password
        raise UserError(redact(str(error))) from None


def with_values(config: Config, values: Mapping[str, Any], source: str) -> Config:
    """A copy of `config` with other values at some dotted keys, checked like any other configuration.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or range. The message names `source` and the key.
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        _overlay(tree, _nested(key, value))
    _check_layer(tree, source)
    merged = to_dict(config)
    _overlay(merged, tree)
    return _validated(Config, merged, source)


def from_dict(part: type[Part], values: Mapping[str, Any], source: str) -> Part:
    """Build a part of a configuration from the output of `to_dict`.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or range. The message names `source` and the key.
    """
    return _validated(part, values, source)


def read_value(text: str) -> Any:
    """Read a value in the notation of configuration files and `--set`.

    Raises:
        yaml.YAMLError, ValueError: the text is not YAML.
    """
    return yaml.load(text, Loader=_YamlLoader)


def valid_keys() -> list[str]:
    """Every dotted leaf key of the schema, in the order of the files."""
    return list(defaults(Config))


def to_yaml(config: Config) -> str:
    """The configuration as YAML, without credentials."""
    return yaml.safe_dump(redact(to_dict(config)), sort_keys=False)


def _load(env: str, overrides: Sequence[str], folder: Path) -> LoadedConfig:
    known = environments(folder)
    if env not in known:
        raise UserError(f"unknown environment {env!r}{nearest(env, known, listed=True)}")
    merged: dict[str, Any] = {}
    sources = dict.fromkeys(valid_keys(), "schema default")
    for values, source in _layers(env, overrides, folder):
        _check_layer(values, source)
        _overlay(merged, values)
        sources |= dict.fromkeys(flatten(values).keys() & sources.keys(), source)
    try:
        return LoadedConfig(Config.model_validate(merged), sources)
    except ValidationError as error:
        mistake = mistakes(error, Config, merged)[0]
        raise UserError(f"{sources[mistake.key]}: {mistake.line}" if mistake.key else mistake.line) from None


def _check_layer(values: Mapping[str, Any], source: str) -> None:
    """Refuse a layer with an unknown key or a wrong value. Rules that span keys are checked after merging."""
    try:
        Config.model_validate(values)
    except ValidationError as error:
        for mistake in mistakes(error, Config, values):
            if not mistake.of_several:
                raise UserError(f"{source}: {mistake.line}") from None


def _validated(part: type[Part], values: Mapping[str, Any], source: str) -> Part:
    try:
        return part.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {mistakes(error, part, values)[0].line}") from None


def _overlay(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Merge nested `values` into `tree`, in place; they replace its values."""
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(below := tree.setdefault(name, {}), dict):
            _overlay(below, value)
        else:
            tree[name] = value


def _layers(env: str, overrides: Sequence[str], folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The layers, each with the name of its source. Later layers override earlier ones."""
    for name in (BASE, env):
        for path in sorted((folder / name).glob("*.y*ml")):
            if values := _read_group(path):
                yield {path.stem: values}, f"{name}/{path.name}"
        # An environment that names its own server, such as that of a cluster, keeps it.
        if name == BASE and (address := os.environ.get(TRACKING_VARIABLE)):
            yield _nested("training.mlflow.tracking_uri", address), TRACKING_VARIABLE
    for override in overrides:
        yield _parse_override(override), "--set"


def _read_group(path: Path) -> dict[str, Any]:
    source = f"{path.parent.name}/{path.name}"
    if path.stem not in GROUPS or path.suffix != ".yaml":
        raise UserError(f"{source}: a configuration file is named GROUP.yaml{nearest(path.stem, GROUPS, listed=True)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
    except OSError as error:
        raise UserError(f"{source}: not readable: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{source}: must hold `key: value` lines, found {type(values).__name__}")
    return values


def _parse_override(override: str) -> dict[str, Any]:
    """`training.max_epochs=5` → `{"training": {"max_epochs": 5}}`."""
    key, separator, text = override.partition("=")
    key = key.strip().removeprefix("cfg.")
    if not separator or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise UserError(f"--set {override!r} is not of the form key=value, for example training.max_epochs=5")
    try:
        value = read_value(text)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--set: {key}: {text!r} is not readable as YAML; quote it") from None
    return _nested(key, value)


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`a.b`, 1 → `{"a": {"b": 1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast(dict[str, Any], value)
