"""Mistakes in a configuration: each error of pydantic becomes one line that names the key, the value and the remedy."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from transformer.config.checks import MisfitError, nearest
from transformer.config.schema import ChoicesConfig, Entry, Group, ProfileConfig, RangeConfig, defaults


class Mistake(NamedTuple):
    """One line, its key ("" = several), and whether it is about several keys whose values are each valid."""

    line: str
    key: str
    of_several: bool = False


class _Listed(NamedTuple):
    """An entry of a list in a line: its label, the key that holds its name, and its form."""

    label: str
    named_by: str
    form: str


_LISTED = {
    "search.space": _Listed("{}", "key", "entry; write it as {key: model.n_layers, low: 2, high: 5}"),
    "compute.kubernetes.profiles": _Listed(
        "profile {!r}", "name", "profile; write it as {name: cpu-small, cpu: 2, memory: 8Gi}"
    ),
}
_TAGS: dict[Any, type[Entry]] = {"choices": ChoicesConfig, "range": RangeConfig}
_KINDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
}
_TEXT = "text; put it in quotes if it is meant"
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def mistakes(error: ValidationError, part: type[Group], values: Mapping[str, Any]) -> list[Mistake]:
    """The errors of pydantic. Unknown keys come first, and errors about several keys last."""

    def rank(detail: ErrorDetails) -> int:
        return 0 if detail["type"] == "extra_forbidden" else 2 if _misfit(detail) else 1

    return [_mistake(detail, part, values) for detail in sorted(error.errors(include_url=False), key=rank)]


def _mistake(detail: ErrorDetails, part: type[Group], values: Mapping[str, Any]) -> Mistake:
    if misfit := _misfit(detail):
        return Mistake(str(misfit), misfit.key, of_several=True)
    location = detail["loc"]
    depth = next((i for i, step in enumerate(location) if isinstance(step, int)), len(location))
    key, inside = ".".join(map(str, location[:depth])), location[depth:]
    at_key: Any = functools.reduce(lambda tree, step: tree[step], location[:depth], cast(Any, values))
    if inside and key in _LISTED:
        line = _line_of_entry(detail, key, at_key[inside[0]], inside[1:])
    elif detail["type"] == "extra_forbidden":
        line = _unknown(key, at_key, part)
    elif detail["type"] == "model_type":
        children = [name for name in defaults(part) if name.startswith(f"{key}.")]
        line = f"{key} is a group; set one of its keys: {', '.join(children)}"
    elif inside and detail["type"] == "value_error":
        line = f"{key}: {detail['input']!r} {detail['ctx']['error']}"
    elif inside or detail["type"] == "list_type":
        line = f"{key}{_not_a_list(at_key, defaults(part)[key])}"
    else:
        line = _complaint(detail, key, _field(part, location))
    return Mistake(line, key)


def _unknown(key: str, value: Any, part: type[Group]) -> str:
    known = list(defaults(part))
    deepest = max(name.count(".") for name in known)
    while isinstance(value, dict) and value and key.count(".") < deepest:  # a mapping may hold itself
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    groups = dict.fromkeys(parent for leaf in known for parent in _parents(leaf))
    return f"unknown key {key!r}{nearest(key, [*known, *groups])}"


def _not_a_list(value: Any, default: list[Any]) -> str:
    numbers = bool(default) and isinstance(default[0], float)
    kind = "a list of numbers, for example [0.05, 0.5, 0.95]" if numbers else "a list, for example [2024-12-13]"
    return f" is not {kind}, but a mapping" if isinstance(value, dict) else f"={_shown(value)} is not {kind}"


def _line_of_entry(detail: ErrorDetails, key: str, entry: Any, inside: tuple[int | str, ...]) -> str:
    """A mistake in an entry of a list of `_LISTED`; `inside` is its place in the entry."""
    listed = _LISTED[key]
    if not isinstance(entry, dict) or not isinstance(entry.get(listed.named_by), str):
        return f"{key}: {entry!r} is no {listed.form}"
    line = f"{key}: {listed.label.format(entry[listed.named_by])}"
    if detail["type"] == "union_tag_not_found":
        return f"{line} needs either choices, or low and high"
    kind = _TAGS.get(inside[0], ProfileConfig) if inside else ProfileConfig
    path = inside[1:] if kind is not ProfileConfig else inside
    if not path:
        return f"{line}: {detail['ctx']['error']}"
    name = str(path[0])
    if detail["type"] == "missing":
        return f"{line}: {name} is missing"
    if detail["type"] == "extra_forbidden":
        return f"{line}: unknown key {name!r}{nearest(name, kind.model_fields, listed=True)}"
    return f"{line}: {_complaint(detail, name, kind.model_fields[name])}"


def _complaint(detail: ErrorDetails, name: str, field: FieldInfo) -> str:
    """The complaint about the value of a key."""
    kind, value = detail["type"], detail["input"]
    if kind == "value_error":
        return f"{name}={value!r} {detail['ctx']['error']}"
    if kind == "literal_error":
        expected = detail["ctx"]["expected"]
        names = re.findall(r"'([^']*)'", expected)
        return f"{name}={value!r} is not {expected}{nearest(str(value), names)}"
    if kind == "finite_number":
        return f"{name}={value} is not a finite number"
    if kind in _BOUNDS:
        return f"{name}={value!r} must {_bounds(field)}"
    return f"{name}={_shown(value)} is not {_KINDS.get(kind, _TEXT)}"


def _bounds(field: FieldInfo) -> str:
    """The bounds of a number, as in `be above 0`."""
    found = {
        name: bound
        for rule in field.metadata
        for name in ("gt", "ge", "lt", "le")
        if (bound := getattr(rule, name, None)) is not None
    }
    if len(found) > 1:
        low, high = ("[", "ge") if "ge" in found else ("(", "gt"), ("]", "le") if "le" in found else (")", "lt")
        return f"lie in {low[0]}{found[low[1]]}, {found[high[1]]}{high[0]}"
    if found.get("ge") == 0:
        return "not be negative"
    words = {"gt": "be above", "ge": "be at least", "lt": "be below", "le": "be at most"}
    return " ".join(f"{words[name]} {bound}" for name, bound in found.items())


def _misfit(detail: ErrorDetails) -> MisfitError | None:
    error = detail.get("ctx", {}).get("error")
    return error if isinstance(error, MisfitError) else None


def _field(part: type[Group], location: tuple[int | str, ...]) -> FieldInfo:
    *groups, name = map(str, location)
    for group in groups:
        part = cast(type[Group], part.model_fields[group].annotation)
    return part.model_fields[name]


def _parents(key: str) -> list[str]:
    """`a.b.c` → `["a.b", "a"]`."""
    return [key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)]


def _shown(value: Any) -> str:
    """A value in YAML, on one line."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # a list that holds itself
        return repr(value)
