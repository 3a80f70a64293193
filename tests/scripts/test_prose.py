"""The prose linter finds every fault and its line, and nothing in code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import prose  # noqa: E402 - lies in scripts/

RULES = prose.read_rules()
CHECKS = prose.checks(RULES)
LONG = "The trains " + " ".join(f"run{letter}" for letter in "abcdefghijklmnopqrstuvwxyzäöüßéèêàáâçñ") + " at last."
# Sentences that break each rule.
PLANTED = {
    "opening": ["Of a run that fails nothing is kept.", "Whom to call is known.", "What a snapshot holds is known."],
    "length": [LONG],
    "word.whoever": ["The run, whoever opened it, ends.", "It asks whomever it finds."],
    "word.whatever": ["It ends whatever happens."],
    "word.beside": ["The model stands beside translation."],
    "word.told": ["The person who is told acts."],
    "word.railway": ["The train network is large.", "Trains run on a railway\nnetwork."],
    "word.deviation": ["The deviation is large."],
    "lexical_illusions": ["The train is in in the station."],
    "redundancy": ["It is absolutely essential."],
    "hedging": ["I would argue that the train is late."],
}
CASES = [(rule, text) for rule, texts in PLANTED.items() for text in texts]
IDS = [f"{rule}-{' '.join(text.split()[:3])}" for rule, text in CASES]
BEGINNINGS = [
    "{}",
    "A first one. {}",
    "A list: {}",
    "- {}",
    "# {}",
    "**{}**",
    "> {}",
    "A first one (with more). {}",
    "“{}”",
]


def found(tmp_path: Path, name: str, source: str) -> list[tuple[int, str]]:
    """Line and rule of each finding."""
    path = tmp_path / name
    path.write_text(source, encoding="utf-8")
    return [(finding.line, finding.rule) for finding in prose.check_file(path, CHECKS)]


def rules(tmp_path: Path, name: str, source: str) -> set[str]:
    """The broken rules. A check of proselint is named by the first part of its name."""
    known = set(PLANTED) | {"mark"}
    return {rule if rule in known else rule.split(".")[0] for _, rule in found(tmp_path, name, source)}


# --- rules ------------------------------------------------------------------------------------------------------------
def test_every_rule_of_the_house_has_a_planted_sentence() -> None:
    assert {check.path for check in CHECKS if check.path.startswith("word.")} <= set(PLANTED)
    assert set(RULES.openings) == {text.split()[0] for text in PLANTED["opening"]}


@pytest.mark.parametrize(("rule", "text"), CASES, ids=IDS)
def test_a_page_that_breaks_a_rule_is_found(tmp_path: Path, rule: str, text: str) -> None:
    assert rules(tmp_path, "page.md", f"# A page\n\n{text}\n") == {rule}


@pytest.mark.parametrize(("rule", "text"), CASES, ids=IDS)
@pytest.mark.parametrize(
    "source",
    [
        '"""{}"""\n',
        'def wait():\n    """Wait.\n\n    {}\n    """\n',
        "WAIT = 3  # {}\n",
        'raise ValueError("{}")\n',
        'raise ValueError(f"{{path}}: a line. {}")\n',
        'Param(description_md="A field.\\n\\n"\n    "{}")\n',
    ],
    ids=["module", "docstring", "comment", "message", "message with a value", "form"],
)
def test_python_that_breaks_a_rule_is_found(tmp_path: Path, source: str, rule: str, text: str) -> None:
    assert rules(tmp_path, "code.py", source.format(" ".join(text.split()))) == {rule}


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("word", RULES.openings)
def test_a_sentence_begins_in_many_ways(tmp_path: Path, beginning: str, word: str) -> None:
    assert rules(tmp_path, "page.md", beginning.format(f"{word} it is.")) == {"opening"}


@pytest.mark.parametrize(
    "source",
    [
        "It says what it is, and of what. It asks (of whom?) nothing.",
        "Besides, the standard deviation of a neural network is known.",
        "```text\nWhat is told beside\n```\n",
        "    What is told beside\n",
        "The key `told.beside` is [one](beside.md).",
        f"{LONG[:120]}.\n\n{LONG[120:]}.",
        f"- {LONG[:120]}\n- {LONG[120:]}",
        "It is `a` 0 `a`, 0 or 1 here.",
    ],
)
def test_a_page_without_fault_is_left_alone(tmp_path: Path, source: str) -> None:
    assert found(tmp_path, "page.md", f"# A page\n\n{source}\n") == []


@pytest.mark.parametrize(
    "source",
    ['NAMES = ("told", "beside")\n', "told = beside = 1  # noqa: E501\n", 'f"{told} {beside}"\n', 'b"What is told"\n'],
)
def test_python_without_prose_is_left_alone(tmp_path: Path, source: str) -> None:
    assert found(tmp_path, "code.py", source) == []


# --- places -----------------------------------------------------------------------------------------------------------
def test_a_finding_of_a_page_has_its_line(tmp_path: Path) -> None:
    table = "| a | b |\n|---|---|\n| one | two |\n| told | two |\n"
    source = f"# A page\n\nA line\nbeside it.\n\n{table}\n- one\n- two\n  told\n"
    assert found(tmp_path, "page.md", source) == [(4, "word.beside"), (9, "word.told"), (13, "word.told")]


def test_a_finding_of_a_notebook_has_its_line(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "source": ["# told\n", "told = 1"]},
        {"cell_type": "markdown", "source": ["# A title\n", "\n", "It was told.\n"]},
    ]
    source = json.dumps({"cells": cells}, indent=1)
    line = next(at for at, text in enumerate(source.splitlines(), 1) if "It was told" in text)
    assert found(tmp_path, "page.ipynb", source) == [(line, "word.told")]


def test_a_finding_of_python_has_its_line(tmp_path: Path) -> None:
    source = '"""One.\n\nIt stands\nbeside it.\n"""\n\n# It is\n# told so.\nsay(\n    "it is told so",\n)\n'
    assert found(tmp_path, "code.py", source) == [(4, "word.beside"), (8, "word.told"), (10, "word.told")]


# --- marks ------------------------------------------------------------------------------------------------------------
MARKED = [
    ("page.md", "<!-- prose: allow word.told – a quoted title -->\nAs I was told.\n"),
    ("code.py", 'say("as I was told")  # prose: allow word.told – a quoted title\n'),
    ("code.py", '# prose: allow word – a quoted title\nsay("as I was told")\n'),
    ("code.py", '"""As\nI was told.\n"""  # prose: allow word.told – a quoted title\n'),
]


@pytest.mark.parametrize(("name", "source"), MARKED)
def test_a_mark_allows_its_rule(tmp_path: Path, name: str, source: str) -> None:
    assert found(tmp_path, name, source) == []


@pytest.mark.parametrize(("name", "source"), MARKED)
def test_a_mark_allows_no_other_rule(tmp_path: Path, name: str, source: str) -> None:
    other = source.replace("I was told", "for ever")
    assert rules(tmp_path, name, other) == {"archaism", "mark"}


def test_a_mark_needs_a_reason_and_a_fault(tmp_path: Path) -> None:
    assert rules(tmp_path, "page.md", "<!-- prose: allow word.told -->\nAs I was told.\n") == {"mark"}
    assert rules(tmp_path, "page.md", "<!-- prose: allow word.told – a title -->\nAs I was asked.\n") == {"mark"}
    assert rules(tmp_path, "page.md", "<!-- prose: allow word.told – a title -->\n\n# One\n\nI was told.\n") == {
        "mark",
        "word.told",
    }


# --- the command ------------------------------------------------------------------------------------------------------
def command(*paths: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "scripts/prose.py", *map(str, paths)]
    return subprocess.run(words, cwd=REPOSITORY, check=False, capture_output=True, text=True)


def test_the_command_names_file_line_rule_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "page.md").write_text("It was told.\n", encoding="utf-8")
    done = command(tmp_path)
    assert done.returncode == 1
    assert re.search(r"deep/page\.md:1: word\.told: 'told': write .+\nprose: 1 findings in 1 files\n$", done.stdout)


def test_the_project_follows_its_rules() -> None:
    done = command()
    assert done.returncode == 0, done.stdout + done.stderr


def test_planted_faults_are_left_out_unless_their_file_is_named() -> None:
    (planted,) = RULES.planted
    assert REPOSITORY / planted not in prose.files(["tests"], RULES.planted)
    assert REPOSITORY / planted in prose.files(["tests"])
    assert command(planted).returncode == 1


def test_a_planted_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(prose.ConfigurationError, match="docs/absent"):
        prose.files(["docs"], ["docs/absent.md"])


def test_a_path_that_is_not_there_is_refused() -> None:
    done = command("docs/absent.md")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: docs/absent.md does not exist")


def test_lint_runs_it_on_every_page() -> None:
    assert "scripts/prose.py" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert {path.name for path in REPOSITORY.glob("*.md")} | {"docs", "dags", "notebooks"} <= set(RULES.paths)


def test_a_check_that_proselint_lacks_is_refused() -> None:
    absent = prose.Rules(paths=[], planted=[], longest_sentence=40, proselint=["absent"], openings={}, words={})
    with pytest.raises(prose.ConfigurationError, match="absent"):
        prose.checks(absent)
