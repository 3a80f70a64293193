"""A hook of MkDocs that fills tables of the documentation site from the code, so that both always agree.

    make docs     # writes data/site

In a page, `<!-- generated: NAME -->` stands for a table of `TABLES`. The meanings in a table are the comments on the
fields of the schema, and on the columns of the event tables.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import os
import re
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

from mkdocs.exceptions import PluginError

import audit
from services import REPOSITORY

sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "plugins"))
# Airflow writes its default files to this folder when it is imported.
os.environ["AIRFLOW_HOME"] = os.environ.get("AIRFLOW_HOME", str(REPOSITORY / ".airflow"))

import polars as pl

import transformer.config as schema
from delay_pipeline import params
from transformer.data import events, tables

MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")
LISTS = {"search.space": schema.ParameterConfig, "compute.kubernetes.profiles": schema.ProfileConfig}
SIMPLE_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text"}
FORM_TYPES = {"boolean": "true or false", "integer": "whole number", "string": "text", "array": "list of texts"}
COLUMN_TYPES = {pl.String(): "text", pl.Date(): "date", tables.TIMESTAMP: "timestamp"}


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
    """Return the keys of the schema, with a section for each group."""
    meanings = comments(schema)
    defaults, differing = configured_values()
    lines: list[str] = []
    for group, owner in groups(schema.Config, ""):
        if not group:
            continue
        lines += [f"{'#' * (2 + group.count('.'))} {group}", "", *_introduction(owner)]
        rows = []
        for field, kind in leaves(owner):
            key = f"{group}.{field.name}"
            meaning = meanings.get((owner.__name__, field.name), "")
            notes = [f"{', '.join(map(code, envs))}: {_shown(value)}" for value, envs in differing.get(key, [])]
            rows.append((_key(key), type_name(kind), _shown(defaults[key]), "<br>".join([prose(meaning), *notes])))
        lines += _table(("key", "type", "default", "meaning; environments that differ"), rows)
        for key, entry in LISTS.items():
            if key.rpartition(".")[0] == group:
                lines += [f"An entry of `{key}` has these keys:", "", *_entry_table(entry, meanings)]
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


def groups(owner: type, prefix: str) -> Iterator[tuple[str, type]]:
    """Yield each dataclass of the schema with its dotted name. The dataclasses inside it follow it."""
    yield prefix, owner
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        if dataclasses.is_dataclass(kind := hints[field.name]):
            assert isinstance(kind, type)
            yield from groups(kind, f"{prefix}.{field.name}".lstrip("."))


def leaves(owner: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Yield the fields of a dataclass that hold a value, with their types."""
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        if not dataclasses.is_dataclass(kind := hints[field.name]):
            yield field, kind


def type_name(kind: Any) -> str:
    """Return a type in words: `int | None` is "whole number or null"."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return ", ".join(map(code, arguments))
    if isinstance(kind, types.UnionType):
        return f"{' or '.join(type_name(part) for part in arguments if part is not types.NoneType)} or null"
    if typing.get_origin(kind) is list:
        return f"list of {SIMPLE_TYPES[arguments[0]]}s" if arguments[0] in SIMPLE_TYPES else "list"
    return SIMPLE_TYPES[kind]


def _introduction(owner: type) -> list[str]:
    text = inspect.getdoc(owner) or ""
    generated = text.startswith(f"{owner.__name__}(")  # the docstring that `dataclass` writes
    return [] if generated or not text else [text, ""]


def _entry_table(owner: type, meanings: Mapping[tuple[str, str], str]) -> list[str]:
    rows = [
        (
            code(field.name),
            type_name(kind),
            _shown(getattr(owner(), field.name)),
            prose(meanings.get((owner.__name__, field.name), "")),
        )
        for field, kind in leaves(owner)
    ]
    return _table(("key", "type", "default", "meaning"), rows)


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
def columns(name: str, optional: set[str]) -> str:
    """Return the columns of a table of `transformer.data.tables`."""
    meanings = comments(tables)
    rows = [
        (
            code(column),
            _column_type(dtype),
            "" if column in optional else "yes",
            prose(meanings.get((name, column), "")),
        )
        for column, dtype in getattr(tables, name).items()
    ]
    return "\n".join(_table(("column", "type", "required", "meaning"), rows))


def _column_type(dtype: pl.DataType) -> str:
    return COLUMN_TYPES.get(dtype) or ("number" if dtype.is_float() else "whole number")


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
    "columns-events": lambda: columns("EVENT_SCHEMA", events.OPTIONAL_EVENT_COLUMNS),
    "columns-op_nodes": lambda: columns("OP_NODE_SCHEMA", set()),
    "columns-journeys": lambda: columns("JOURNEY_SCHEMA", set(tables.JOURNEY_SCHEMA) - events.REQUIRED_JOURNEY_COLUMNS),
}


# --- reading comments, writing Markdown ------------------------------------------------------------------------------
def comments(module: ModuleType) -> dict[tuple[str, str], str]:
    """Return the comments of a module on its declarations: (class, field) and (dictionary, key) → text.

    It is the comment at the end of the line or, if there is none, the comment in the lines directly above.
    """
    source = inspect.getsource(module)
    at_line: dict[int, str] = {}
    whole_lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            at_line[token.start[0]] = token.string.removeprefix("#").strip()
            if not token.line[: token.start[1]].strip():
                whole_lines.add(token.start[0])

    def comment(first: int, last: int) -> str:
        if last in at_line and last not in whole_lines:
            return at_line[last]
        above = first
        while above - 1 in whole_lines:
            above -= 1
        return " ".join(at_line[line] for line in range(above, first))

    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    found[node.name, item.target.id] = comment(item.lineno, item.end_lineno or item.lineno)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and isinstance(node.target, ast.Name):
            for key in node.value.keys:
                if isinstance(key, ast.Constant):
                    found[node.target.id, str(key.value)] = comment(key.lineno, key.lineno)
    return found


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
