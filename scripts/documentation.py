"""A hook of MkDocs that fills tables of the documentation site from the code, so that both always agree.

    make docs     # writes data/site

A page says `<!-- generated: NAME -->` where a table of `TABLES` is wanted. Meanings are
the descriptions of the fields of the schema and of the columns of the event tables.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from mkdocs.exceptions import PluginError
from pydantic.fields import FieldInfo

import audit
from services import REPOSITORY

sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "plugins"))
# Airflow writes its default files to this folder when it is imported.
os.environ["AIRFLOW_HOME"] = os.environ.get("AIRFLOW_HOME", str(REPOSITORY / ".airflow"))

import polars as pl

import transformer.config as schema
from delay_pipeline import params
from transformer.config.schema import Group
from transformer.data import events, input_tables, reasons, tables
from transformer.data.sources import reasons as source_reasons
from transformer.data.sources.catalogue import SOURCES
from transformer.prediction import unknown

MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")
LISTS: dict[str, tuple[type[Group], ...]] = {
    "search.space": (schema.ChoicesConfig, schema.RangeConfig),
    "compute.kubernetes.profiles": (schema.ProfileConfig,),
}
SIMPLE_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text"}
FORM_TYPES = {"boolean": "true or false", "integer": "whole number", "string": "text", "array": "list of texts"}
COLUMN_TYPES = {pl.String(): "text", pl.Date(): "date", pl.Boolean(): "true or false", tables.TIMESTAMP: "timestamp"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the generated tables. Replace links to files that the site lacks by their text."""

    def table(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise PluginError(f"{page.file.src_uri}: no table {match[1]!r}; known: {', '.join(TABLES)}")
        return TABLES[match[1]]()

    def text(match: re.Match[str]) -> str:
        if not (REPOSITORY / "docs" / match[2]).exists():
            raise PluginError(f"{page.file.src_uri}: {match[2]} does not exist")
        return match[1]

    return OUTSIDE.sub(text, MARKER.sub(table, markdown))


# --- configuration ---------------------------------------------------------------------------------------------------
def configuration() -> str:
    """Every key of the schema, a section for each group of them."""
    defaults, differing = configured_values()
    lines: list[str] = []
    for group, owner in groups(schema.Config, ""):
        if not group:
            continue
        lines += [f"{'#' * (2 + group.count('.'))} {group}", "", *_introduction(owner)]
        rows = []
        for name, field in leaves(owner).items():
            key = f"{group}.{name}"
            notes = [f"{', '.join(map(code, envs))}: {_shown(value)}" for value, envs in differing.get(key, [])]
            meaning = "<br>".join([prose(field.description or ""), *notes])
            rows.append((_key(key), type_name(field.annotation), _shown(defaults[key]), meaning))
        lines += _table(("key", "type", "default", "meaning; environments that differ"), rows)
        for key, kinds in LISTS.items():
            if key.rpartition(".")[0] == group:
                lines += _entries(key, kinds, defaults[key])
    return "\n".join(lines)


def configured_values() -> tuple[dict[str, Any], dict[str, list[tuple[Any, list[str]]]]]:
    """Return the default of each key, and for each key the other values with the environments that set them."""
    defaults: dict[str, Any] = {}
    differing: dict[str, list[tuple[Any, list[str]]]] = {}
    for env in schema.environments():
        loaded = schema.load_config_with_sources(env)
        for key, value in schema.flatten(schema.to_dict(loaded.config)).items():
            if not loaded.sources[key].startswith(f"{env}/"):
                defaults[key] = value
            elif same := [envs for other, envs in differing.get(key, []) if other == value]:
                same[0].append(env)
            else:
                differing.setdefault(key, []).append((value, [env]))
    return defaults, differing


def groups(owner: type[Group], prefix: str) -> Iterator[tuple[str, type[Group]]]:
    """Each group of the schema with its dotted name, those inside it behind it."""
    yield prefix, owner
    for name, field in owner.model_fields.items():
        if _is_group(field.annotation):
            yield from groups(field.annotation, f"{prefix}.{name}".lstrip("."))


def leaves(owner: type[Group]) -> dict[str, FieldInfo]:
    """The fields of a group that hold a value."""
    return {name: field for name, field in owner.model_fields.items() if not _is_group(field.annotation)}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Group)


def type_name(kind: Any) -> str:
    """A type in words: `int | None` is "whole number or null"."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return ", ".join(map(code, arguments))
    if origin in (types.UnionType, typing.Union) and types.NoneType in arguments:
        return f"{' or '.join(type_name(part) for part in arguments if part is not types.NoneType)} or null"
    if origin is list:
        entry = type_name(arguments[0])
        return f"list of {entry}s" if entry in SIMPLE_TYPES.values() else "list"
    return SIMPLE_TYPES.get(kind, "entry")


def _introduction(owner: type[Group]) -> list[str]:
    text = inspect.cleandoc(owner.__doc__ or "")
    return [text, ""] if text else []


def _entries(key: str, kinds: Sequence[type[Group]], default: list[dict[str, Any]]) -> list[str]:
    """Return the keys of an entry of a list, and the default list in the form that a configuration file takes."""
    lines = []
    for kind in kinds:
        rows = [
            (
                code(name),
                type_name(field.annotation),
                "–" if field.is_required() else _shown(field.get_default(call_default_factory=True)),
                prose(field.description or ""),
            )
            for name, field in leaves(kind).items()
        ]
        lines += [f"An entry of `{key}`: {prose(kind.__doc__ or '')}", ""]
        lines += _table(("key", "type", "default", "meaning"), rows)
    written = [
        yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1_000).strip() for entry in default
    ]
    return [*lines, f"`{key}` by default:", "", "```yaml", *(f"- {entry}" for entry in written), "```", ""]


def _key(key: str) -> str:
    """Return a key as HTML. It is the target of links, and may break at its dots."""
    return f'<code id="{key}">{key.replace(".", ".<wbr>")}</code>'


def _shown(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"{len(value)} entries"
    return code(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))


# --- DAG params ------------------------------------------------------------------------------------------------------
def dag_params(make: Callable[[Mapping[str, str]], dict[str, Any]]) -> str:
    """Return the fields of a trigger form in their order, with the defaults without environment variables."""
    rows = []
    for name, param in make({}).items():
        form = param.schema
        kinds = [FORM_TYPES[kind] for kind in _listed(form["type"]) if kind != "null"]
        kind = "date" if form.get("format") == "date" else " or ".join(kinds)
        if form.get("enum"):
            kind = ", ".join(code(choice) for choice in form["enum"] if choice is not None)
        if "minimum" in form:
            kind += f", at least {form['minimum']}"
        default = "–" if param.value in (None, []) else _shown(param.value)
        rows.append((code(name), prose(form["title"]), kind, default, prose(form["description_md"])))
    return "\n".join(_table(("param", "in the form", "type", "default", "meaning"), rows))


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


# --- event tables ----------------------------------------------------------------------------------------------------
def columns(described: Mapping[str, tables.Column], optional: set[str]) -> str:
    """The columns of a table of `transformer.data.tables`."""
    rows = [
        (code(name), _column_type(column.dtype), "" if name in optional else "yes", prose(column.meaning))
        for name, column in described.items()
    ]
    return "\n".join(_table(("column", "type", "required", "meaning"), rows))


def input_table(name: str) -> str:
    """The columns of the table of an optional input."""
    table = input_tables.TABLES[name]
    return columns({name: tables.Column(*column[:2]) for name, column in table.columns.items()}, table.optional)


def _column_type(dtype: pl.DataType) -> str:
    return COLUMN_TYPES.get(dtype) or ("number" if dtype.is_float() else "whole number")


# --- data quality ----------------------------------------------------------------------------------------------------
def source_table() -> str:
    """Return the public sources that can be imported."""
    rows = [
        (
            f"[`{about.name}`]({about.page}) {prose(about.title)}",
            prose(f"{about.country}; {about.depth}; a month: {about.size}"),
            prose(about.unobserved),
            "listed" if about.pass_throughs else "stops only",
            prose(about.licence),
        )
        for about in (source.about for source in SOURCES.values())
    ]
    return "\n".join(_table(("source", "country, dates, size", "not observed", "passed points", "licence"), rows))


def reason_table(described: Mapping[str, reasons.Reason]) -> str:
    rows = [(prose(text), prose(reason.meaning), prose(reason.remedy)) for text, reason in described.items()]
    return "\n".join(_table(("reason", "meaning", "what to do"), rows))


# --- licences --------------------------------------------------------------------------------------------------------
def licence_table() -> str:
    """Return the licence of every package of requirements.txt."""
    rows = [
        (code(entry.package), entry.version, prose(entry.expression), prose(entry.reason))
        for entry in audit.licences(audit.read_policy())
    ]
    return "\n".join(_table(("package", "version", "licence", "why an exception"), rows))


TABLES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "params-model_training": lambda: dag_params(params.training_params),
    "params-hyperparameter_tuning": lambda: dag_params(params.tuning_params),
    "params-model_evaluation": lambda: dag_params(params.evaluation_params),
    "licences": licence_table,
    "reasons-dropped": lambda: reason_table(reasons.DROPPED),
    "reasons-discarded": lambda: reason_table(reasons.DISCARDED),
    "reasons-noted": lambda: reason_table(reasons.NOTED),
    "sources": source_table,
    "reasons-left-out": lambda: reason_table(source_reasons.LEFT_OUT),
    "reasons-changed": lambda: reason_table(source_reasons.CHANGED),
    "reasons-unknown": lambda: reason_table(unknown.UNKNOWN),
    "columns-events": lambda: columns({**tables.EVENT_COLUMNS, **tables.OPTIONAL_EVENT_COLUMNS}, events.OPTIONAL),
    "columns-op_nodes": lambda: columns(
        {**tables.OP_NODE_COLUMNS, **tables.OPTIONAL_OP_NODE_COLUMNS}, set(tables.OPTIONAL_OP_NODE_COLUMNS)
    ),
    "columns-journeys": lambda: columns(tables.JOURNEY_COLUMNS, set(tables.JOURNEY_SCHEMA) - set(tables.JOURNEY)),
    **{f"columns-{name}": functools.partial(input_table, name) for name in input_tables.TABLES},
}


# --- writing Markdown ------------------------------------------------------------------------------------------------
def code(value: Any) -> str:
    """Return a value as code for a cell of a table."""
    return f"`{value}`".replace("|", "\\|")


def prose(text: str) -> str:
    """Return text as one paragraph that is safe in tables and HTML. If it begins with a word, capitalize that."""
    safe = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    first_word = re.match(r"[a-z]+(?=[ ,:;]|$)", safe)
    return safe[:1].upper() + safe[1:] if first_word else safe


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)] + [""]
