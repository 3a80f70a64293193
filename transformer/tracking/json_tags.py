"""JSON values of a run: the artifact holds the value, and the tag names the artifact and says in words what it holds.

`client.read_tag` reads them. It also reads a value that stands in the tag itself, as earlier releases wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformer.text import redact
from transformer.tracking.client import keep_in_artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient

NONE = "none"


def json_tag(client: MlflowClient, run_id: str, name: str, value: Any, shown: str) -> str:
    """Keep a JSON value in an artifact of the run, and return what the tag `name` has to be.

    Args:
        shown: the value in words, for people.
    """
    value = redact(value)
    return keep_in_artifact(client, run_id, name, json.dumps(value, ensure_ascii=False), str(redact(shown)), "json")


def overrides_text(overrides: Sequence[str]) -> str:
    return ", ".join(overrides) or NONE


def split_text(split: Mapping[str, Sequence[str]]) -> str:
    """`train 2025-01-06..2025-01-10; validation 2025-01-13; test 2025-01-14`."""
    return "; ".join(f"{name} {', '.join(dates)}" for name, dates in split.items())
