"""The settings of pip (its files and PIP_… variables), as environment variables that uv reads.

uv does not read pip's configuration. A machine whose pip takes packages from a mirror or a folder of wheels, or trusts
a certificate of its own, must get them in the same way with uv.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

# pip's setting → uv's variable. pip splits lists at white space.
VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
# Settings that change no package. uv does without them.
INDIFFERENT = {
    *("break-system-packages", "cache-dir", "config-file", "disable-pip-version-check", "log", "no-cache-dir"),
    *("no-color", "no-input", "no-python-version-warning", "no-warn-script-location", "prefer-binary", "progress-bar"),
    *("quiet", "require-virtualenv", "root-user-action", "use-deprecated", "use-feature", "verbose"),
}


class UntranslatableError(Exception):
    """pip has a setting that uv might not follow: one line that names it."""


def read_settings(python: Path) -> dict[str, str]:
    """Return the settings of this Python's pip for `pip install`, by option, from its files and environment."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    sections: dict[str, dict[str, str]] = {}
    for line in listed.splitlines():
        if match := re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.*)", line):
            sections.setdefault(match[1], {})[match[2]] = str(ast.literal_eval(match[3]))
    return {**sections.get("global", {}), **sections.get("install", {}), **sections.get(":env:", {})}


def for_uv(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv: pip's settings as uv's variables. A variable that is set already wins.

    Raises:
        UntranslatableError: a setting has no counterpart.
    """
    if unknown := sorted(set(settings) - set(VARIABLES) - INDIFFERENT):
        raise UntranslatableError(f"pip's setting {unknown[0]} has no counterpart in uv")
    translated = {VARIABLES[name]: " ".join(value.split()) for name, value in settings.items() if name in VARIABLES}
    if "UV_INDEX" in translated:  # pip looks into every index, uv by itself into the first that has the package
        translated["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return translated | dict(environment)
