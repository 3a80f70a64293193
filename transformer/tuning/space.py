"""The search space of `search.space`, checked before the first trial. Imports no Optuna.

An entry names one configuration key and its values. The schema says whether its numbers are whole:

    space:
      - {key: model.d_model, choices: [64, 128, 192]}                                    # categorical
      - {key: model.n_layers, low: 2, high: 5}                                           # whole numbers
      - {key: training.learning_rate, low: 3e-4, high: 3e-3, log: true}                  # numbers
      - {key: training.loss.name, choices: [mixed, rps]}
      - {key: training.loss.ranked_weight, low: 0.25, high: 2, step: 0.25, when: training.loss.name=mixed}
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from transformer.config import (
    COMBINED_KEYS,
    ChoicesConfig,
    Config,
    RangeConfig,
    flatten,
    is_whole,
    nearest,
    read_value,
    to_dict,
    valid_keys,
    with_values,
)
from transformer.errors import UserError

if TYPE_CHECKING:
    import optuna

SOURCE = "search.space"
MAX_COMBINATIONS = 100_000  # values of keys that must fit each other; to check so many takes about a second

# A trial must not choose where it runs, and all trials must be compared on the same rows.
_WHERE = (
    "data.local_folder", "data.bucket_", "data.endpoint_url", "data.download_", "data.save_", "paths.", "compute.",
    "search.", "evaluation.", "training.mlflow.", "training.accelerator", "training.devices", "training.strategy",
    "training.num_workers", "training.log_every_s", "training.allow_changes_on_resume", "training.use_precomputed.",
    "training.schedule.",
)  # fmt: skip
_ROWS = (
    "data.split.", "data.validation.", "data.grid.", "data.timezone", "data.reporting_delay_s", "data.snapshot.",
    "training.overfit_batches",
)  # fmt: skip
_INPUTS_ONLY = ("data.snapshot.n_prev",)
# Keys that the weights of a warm start depend on, except `_SHAPELESS`.
_SHAPE = ("model.", "embeddings.", "data.snapshot.")
_SHAPELESS = ("model.dropout",)


@dataclass(frozen=True)
class Condition:
    """Another key of the space, and those of its values with which a parameter is searched."""

    key: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.key}={show(self.values[0]) if len(self.values) == 1 else show(list(self.values))}"


@dataclass(frozen=True)
class Parameter:
    """One searched key: `choices`, or numbers from `low` to `high` (both included)."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    condition: Condition | None = None

    def __str__(self) -> str:
        if self.choices:
            values = ", ".join(map(show, self.choices))
        else:
            values = f"{show(self.low)} … {show(self.high)}" + (f" step {show(self.step)}" if self.step else "")
        return values + (" log" if self.log else "") + (f" when {self.condition}" if self.condition else "")

    def suggest(self, trial: optuna.Trial) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else rounded(value)

    def holds(self, value: Any) -> bool:
        """Whether a trial may have this value."""
        if self.choices:
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        return self.step is None or is_whole((value - self.low) / self.step)

    def candidates(self) -> Sequence[Any]:
        """Every value; for continuous numbers, both ends."""
        if self.choices:
            return self.choices
        if self.whole:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        return (self.low, self.high)


@dataclass(frozen=True)
class SearchSpace:
    """Parameters in the order of the search, and the configuration's own value of each key."""

    parameters: tuple[Parameter, ...]
    own: Mapping[str, Any]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values of one trial by key. Keys whose condition does not hold are left out, and keep their own value."""
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if self._active(parameter, chosen):
                chosen[parameter.key] = parameter.suggest(trial)
        return chosen

    def own_values(self) -> dict[str, Any]:
        """The configuration's own values of the keys that a trial with these values would search."""
        return {p.key: self.own[p.key] for p in self.parameters if self._active(p, {})}

    def outside(self) -> list[str]:
        """`key=value` for each own value that is not in the space."""
        by_key = {p.key: p for p in self.parameters}
        return [f"{key}={show(value)}" for key, value in self.own_values().items() if not by_key[key].holds(value)]

    def describe(self) -> dict[str, str]:
        """The searched values by key, as text for people and to compare spaces."""
        return {parameter.key: str(parameter) for parameter in self.parameters}

    def _active(self, parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
        condition = parameter.condition
        return condition is None or chosen.get(condition.key, self.own[condition.key]) in condition.values

    def combinations(self, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every combination of values of the parameters `keys`, and of the parameters in their conditions."""
        wanted = set(keys)
        involved: list[Parameter] = []
        for parameter in reversed(self.parameters):
            if parameter.key in wanted:
                involved.insert(0, parameter)
                wanted |= {parameter.condition.key} if parameter.condition else set()
        if math.prod(len(parameter.candidates()) for parameter in involved) > MAX_COMBINATIONS:
            names = ", ".join(parameter.key for parameter in involved)
            raise UserError(f"{SOURCE}: {names} have too many combinations to check; give them choices or a step")
        yield from self._extended({}, involved)

    def _extended(self, chosen: dict[str, Any], rest: list[Parameter]) -> Iterator[dict[str, Any]]:
        if not rest:
            yield chosen
            return
        first, *others = rest
        if not self._active(first, chosen):
            yield from self._extended(chosen, others)
            return
        for value in first.candidates():
            yield from self._extended({**chosen, first.key: value}, others)


def read_space(config: Config, *, warm_start: bool = False) -> SearchSpace:
    """The search space of a configuration.

    Args:
        warm_start: every trial begins with the weights of a finished run, so its shape and inputs are fixed.

    Raises:
        UserError: a key is unknown, given twice or cannot be searched; values have the wrong type or range, or do not
            fit those of another entry; or a condition cannot hold. The error names the entry.
    """
    if not config.search.space:
        raise UserError(f"{SOURCE} is empty; list the keys to search in search.yaml of the environment")
    parameters: list[Parameter] = []
    defaults = flatten(to_dict(Config()))
    for entry in config.search.space:
        _refuse_unsearchable(entry.key)
        parameter = _parameter(config, entry, parameters, defaults[entry.key])
        if warm_start and parameter.key.startswith(_SHAPE) and parameter.key not in _SHAPELESS:
            raise UserError(
                f"{SOURCE}: {parameter.key} changes the model, so the weights of warm_start_run_id do not fit; "
                "leave one of them out"
            )
        parameters.append(parameter)
    own = flatten(to_dict(config))
    space = SearchSpace(tuple(parameters), {parameter.key: own[parameter.key] for parameter in parameters})
    _refuse_misfits(config, space)
    return space


def _parameter(
    config: Config, entry: ChoicesConfig | RangeConfig, earlier: Sequence[Parameter], default: Any
) -> Parameter:
    key = entry.key
    if key in {parameter.key for parameter in earlier}:
        raise UserError(f"{SOURCE}: {key} is given twice; keep one entry")
    if isinstance(entry, ChoicesConfig):
        parameter = Parameter(key, choices=tuple(_checked(config, key, value) for value in entry.choices))
        if len(set(map(show, parameter.choices))) < len(parameter.choices):
            raise UserError(f"{SOURCE}: {key}: choices hold a value twice: {parameter}")
    elif isinstance(default, bool) or not isinstance(default, int | float):
        raise UserError(f"{SOURCE}: {key} is not a number; give it choices, for example [{show(default)}, …]")
    else:
        parameter = _range(config, entry, whole=isinstance(default, int))
    if entry.when:
        parameter = dataclasses.replace(parameter, condition=_condition(entry, earlier))
    return parameter


def _refuse_unsearchable(key: str) -> None:
    if key not in (known := valid_keys()):
        raise UserError(f"{SOURCE}: unknown key {key!r}{nearest(key, known)}")
    if key.startswith(_WHERE):
        raise UserError(f"{SOURCE}: {key} says where a trial runs, not what it computes; it cannot be searched")
    if key.startswith(_ROWS) and key not in _INPUTS_ONLY:
        raise UserError(f"{SOURCE}: {key} changes the rows on which trials are compared; it cannot be searched")


def _checked(config: Config, key: str, value: Any) -> Any:
    """A value as the schema holds it: 1 of a number becomes 1.0. It may still not fit the values of other keys."""
    # Keys that must fit each other are checked together, below: here each has company that fits.
    company = {"model.n_heads": 1} if key == "model.d_model" else {}
    if key == "model.n_heads":
        company = {"model.d_model": value} if isinstance(value, int) and value > 0 else {}
    if key.startswith("model.use_inputs."):
        company = {name: True for name in COMBINED_KEYS[1] if name != key}
    changed = with_values(config, {**company, key: value}, SOURCE)
    return flatten(to_dict(changed))[key]


def _range(config: Config, entry: RangeConfig, *, whole: bool) -> Parameter:
    key = entry.key
    for name in ("low", "high", "step"):
        value = getattr(entry, name)
        if whole and value is not None and not is_whole(value):
            raise UserError(f"{SOURCE}: {key}: {name}={show(value)} is not a whole number")
    low, high = (_checked(config, key, round(end) if whole else end) for end in (entry.low, entry.high))
    step = None if entry.step is None else float(entry.step)
    return Parameter(key, low=low, high=high, step=step, log=entry.log, whole=whole)


def _condition(given: ChoicesConfig | RangeConfig, earlier: Sequence[Parameter]) -> Condition:
    name, equals, text = given.when.partition("=")
    name = name.strip()
    by_key = {parameter.key: parameter for parameter in earlier}
    if not equals or name not in by_key:
        raise UserError(
            f"{SOURCE}: {given.key}: when: {given.when!r} must be KEY=VALUE of an entry above it"
            + (f": {', '.join(by_key)}" if by_key else "; there is none")
        )
    try:
        read = read_value(text)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"{SOURCE}: {given.key}: when: {text!r} is not readable as YAML; quote it") from None
    values = tuple(read) if isinstance(read, list) else (read,)
    for value in values:
        if not by_key[name].holds(value):
            raise UserError(f"{SOURCE}: {given.key}: when: {name} is never {show(value)}; its values: {by_key[name]}")
    if not values:
        raise UserError(f"{SOURCE}: {given.key}: when: {given.when!r} never holds")
    return Condition(name, values)


def _refuse_misfits(config: Config, space: SearchSpace) -> None:
    own = flatten(to_dict(config))
    model = config.model.model_copy(deep=True)
    for keys in COMBINED_KEYS:
        for values in space.combinations(keys):
            for key in keys:
                _set(model, key.removeprefix("model."), values.get(key, own[key]))
            for complaint in model.misfits():
                raise UserError(f"{SOURCE}: a trial could have {complaint}")


def _set(target: Any, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        target = getattr(target, group)
    setattr(target, name, value)


def show(value: Any) -> str:
    """A value as YAML shows it in one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def as_override(value: Any) -> str:
    """A value as `--set` reads it back: JSON, but text without quotes if `--set` reads it as the same text."""
    if isinstance(value, str) and re.fullmatch(r"\w[\w./-]*", value) and read_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def rounded(value: float) -> float:
    """A number reached by steps, as people write it: 0.3, where 0.1 + 2 × 0.1 is 0.30000000000000004."""
    return float(f"{value:.12g}")
