"""Every message that docs/operate.md quotes is a text of the code."""

import ast
import errno
import re
from functools import cache
from pathlib import Path

import pytest

from transformer import stages
from transformer.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
RUNBOOK = (REPOSITORY / "docs" / "operate.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
QUOTED = {title: re.search(r"```text\n(.+?)```", text, re.DOTALL)[1].splitlines() for title, text in ENTRIES.items()}
# Messages of the operating system, as the command line prints them.
SYSTEM = {
    "OSError: [Errno 28] No space left on device": OSError(errno.ENOSPC, "No space left on device"),
    "PermissionError: [Errno 13] Permission denied: …": PermissionError(errno.EACCES, "Permission denied", "…"),
}
LEAST_LETTERS = 8  # fixed letters of a message; a text with fewer letters would match any message


@cache
def templates() -> list[re.Pattern[str]]:
    """Return a pattern for every text of the program. The values in a text match anything."""
    found = []
    for folder in ("transformer", "plugins", "scripts"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [part.value if isinstance(part, ast.Constant) else "\0" for part in parts]
                if isinstance(node, ast.JoinedStr | ast.Constant) and all(isinstance(text, str) for text in texts):
                    text = re.sub(r"%[\d.,]*[sdf]", "\0", "".join(texts))
                    if len(re.findall("[a-z]", text, re.IGNORECASE)) >= LEAST_LETTERS:
                        found.append(re.compile(re.escape(text).replace("\0", ".*"), re.DOTALL))
    return found


@pytest.mark.parametrize("title", ENTRIES)
def test_an_entry_says_symptom_cause_and_remedy(title: str) -> None:
    assert "**Cause.**" in ENTRIES[title]
    assert "**Remedy.**" in ENTRIES[title]
    assert QUOTED[title]


@pytest.mark.parametrize("message", [message for messages in QUOTED.values() for message in messages])
def test_a_quoted_message_is_one_of_the_program(message: str) -> None:
    said = re.sub("^…:? ", "", message)  # some messages have two texts: a name and the message itself
    assert message in SYSTEM or any(t.fullmatch(message) or t.fullmatch(said) for t in templates())


@pytest.mark.parametrize("message", SYSTEM)
def test_what_the_system_says_is_one_line(
    message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise SYSTEM[message]

    monkeypatch.setattr(stages, "fetch_files", fail)
    assert main(["fetch-files", "--env", "local"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].replace("'", "") == f"error: {message}"
