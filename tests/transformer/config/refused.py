"""The message of a refused configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from transformer.config import CONFIG_FOLDER, load_config
from transformer.errors import UserError


def refusal(*overrides: str, env: str = "local", folder: Path = CONFIG_FOLDER) -> str:
    """Load a configuration that is refused, and return the message, which is one line."""
    with pytest.raises(UserError) as caught:
        load_config(env, overrides, folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
