"""Words that cross a process border are stated once: a word that only one side changes breaks what nobody parses."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest

from transformer import cli, protocol

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = {name: value for name, value in vars(protocol).items() if name.isupper() and isinstance(value, str)}
STAGES = (
    "FETCH_FILES", "COMPUTE_STATISTICS_AND_EMBEDDINGS", "TRAIN_MODEL", "EVALUATE_MODEL", "REGISTER_MODEL", "TUNE",
    "REPORT_STUDY",
)  # fmt: skip
# Words of which a literal can mean nothing else: options, variables and stages of several words.
TELLING = {value for value in WORDS.values() if value.startswith(("--", "TRANSFORMER_")) or "-" in value}
# Where a literal means something else: `--from` and `--to` of imports, `--set` as the source of a value in a message,
# and the options of `make train` and `make tune`.
ELSEWHERE = {
    "transformer/cli.py": {"--from", "--to"},
    "transformer/config": {"--set"},
    "transformer/tracking/run_log.py": {"--run-id"},
    "scripts": {"--env", "--set", "--from", "--to", "--run-id"},
}


def modules() -> list[Path]:
    folders = ("transformer", "plugins", "scripts")
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def test_words_are_distinct() -> None:
    assert len(set(WORDS.values())) == len(WORDS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_other_module_spells_them_out(path: Path) -> None:
    if path.name == "protocol.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    literals = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    name = str(path.relative_to(REPOSITORY))
    allowed = {word for place, words in ELSEWHERE.items() if name.startswith(place) for word in words}
    assert sorted(literals & TELLING - allowed) == []


def test_the_command_line_knows_every_stage_and_option() -> None:
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    stages = {value for name, value in WORDS.items() if name in STAGES}
    assert stages <= set(commands.choices)
    known = {option for command in stages for option in commands.choices[command]._option_string_actions}
    assert {value for value in WORDS.values() if value.startswith("--")} <= known
