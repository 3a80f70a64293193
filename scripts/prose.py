"""Check the project's prose: pages, notebooks, and the docstrings, comments and texts of Python files.

    python scripts/prose.py              # all that pyproject.toml lists under [tool.prose], as `make lint` does
    python scripts/prose.py docs/log.md  # these files and folders

proselint checks every passage, by checks of its own and by the house rules of `[tool.prose]`. A passage is a paragraph,
a heading, a list item, a table cell, a comment, or a string with two words in a row. A passage that must break a rule
carries a mark with the rule and the reason, in its own lines, in the line before or in the line after it:

    <!-- prose: allow word.beside – the title of a cited paper -->
    # prose: allow opening – a quoted message
"""

from __future__ import annotations

import ast
import inspect
import io
import itertools
import json
import os
import re
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from proselint.checks import __register__ as PROSELINT
from proselint.registry.checks import Check, CheckResult

REPOSITORY = Path(__file__).resolve().parents[1]
OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PARAGRAPH = re.compile(r"\n\s*\n")
# A sentence ends at a blank line, before an entry of a list of arguments, and after a stop that a capital follows.
SENTENCE_END = re.compile(r"""\n\s*\n|\n(?=[\w, ]+: )|(?<=[.!?:;])["”)*_]*\s+(?=["“(*_]*[A-Z0-9§])""")
WORD = re.compile(r"[^\W\d_][\w'’-]*")
TEXT = re.compile(r"[^\W\d_]{2,} [^\W\d_]{2,}")  # a string with two words in a row is prose, others are names or code
MARK = re.compile(r"(?:<!--|#) prose: allow (\S+)(?: – (.*?\S))?(?: -->)?$")
TOOL_COMMENT = re.compile(r"#\s*(noqa|type:|pragma|prose:|fmt:|!)|#\s*-{3,}")


class ConfigurationError(Exception):
    """`[tool.prose]` asks for something that is not there."""


@dataclass(frozen=True)
class Word:
    pattern: str
    instead: str


@dataclass(frozen=True)
class Rules:
    """`[tool.prose]` of pyproject.toml.

    Attributes:
        paths: files and folders that `make lint` checks.
        planted: files among them that are left out, because they hold faults on purpose.
        longest_sentence: in words.
        proselint: names of proselint's own checks; a name counts for those below it too.
        openings: words that begin no sentence, each with the remedy.
        words: by rule, the regular expression of words that are not used, and the remedy.
    """

    paths: list[str]
    planted: list[str]
    longest_sentence: int
    proselint: list[str]
    openings: dict[str, str]
    words: dict[str, Word]


@dataclass(frozen=True)
class Passage:
    """A piece of prose: its text without markup and code, and the first and last line that it takes in its file."""

    text: str
    first: int
    last: int


@dataclass(frozen=True)
class Finding:
    path: Path
    line: int
    rule: str
    message: str


def read_rules(file: Path = REPOSITORY / "pyproject.toml") -> Rules:
    given = tomllib.loads(file.read_text(encoding="utf-8"))["tool"]["prose"]
    return Rules(**{**given, "words": {rule: Word(**word) for rule, word in given["words"].items()}})


# --- rules ------------------------------------------------------------------------------------------------------------
def checks(rules: Rules) -> list[Check]:
    """The house rules and the chosen checks of proselint."""
    found: list[Check] = []
    for name in rules.proselint:
        of_name = [check for check in PROSELINT if check.matches_partial(name)]
        if not of_name:
            raise ConfigurationError(f"tool.prose.proselint: proselint has no check {name!r}")
        found += of_name
    found += [
        Check(_matches(word.pattern), path=f"word.{rule}", message=word.instead) for rule, word in rules.words.items()
    ]
    found.append(Check(_opening(rules.openings), path="opening"))
    found.append(Check(_length(rules.longest_sentence), path="length"))
    return found


def _matches(pattern: str) -> Callable[[str, Check], Iterator[CheckResult]]:
    def check(text: str, check: Check) -> Iterator[CheckResult]:
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
            found = " ".join(match[0].split())
            yield CheckResult(check.path, f"{found!r}: {check.message}", match.span(), None)

    return check


def _opening(openings: Mapping[str, str]) -> Callable[[str, Check], Iterator[CheckResult]]:
    def check(text: str, check: Check) -> Iterator[CheckResult]:
        for start, sentence in sentences(text):
            word = WORD.search(sentence)
            if word and word[0] in openings and not re.search(r"\w", sentence[: word.start()]):
                span = (start + word.start(), start + word.end())
                yield CheckResult(check.path, f"a sentence begins with {word[0]!r}: {openings[word[0]]}", span, None)

    return check


def _length(longest: int) -> Callable[[str, Check], Iterator[CheckResult]]:
    def check(text: str, check: Check) -> Iterator[CheckResult]:
        for start, sentence in sentences(text):
            count = len(WORD.findall(sentence))
            if count > longest:
                beginning = " ".join(sentence.split()[:4])
                message = f"{beginning!r} … has {count} words: split it, at most {longest}"
                yield CheckResult(check.path, message, (start, start + 1), None)

    return check


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences of a passage, each with the place where it begins."""
    at = 0
    for end in [*SENTENCE_END.finditer(text), None]:
        piece = text[at : end.start() if end else len(text)]
        if piece.strip():
            yield at + len(piece) - len(piece.lstrip()), piece.strip()
        at = end.end() if end else len(text)


# --- passages ---------------------------------------------------------------------------------------------------------
def passages(path: Path) -> list[Passage]:
    source = path.read_text(encoding="utf-8")
    return READERS[path.suffix](source)


def markdown_passages(text: str, first: int = 1) -> list[Passage]:
    """Paragraphs, headings, list items and table cells; code blocks and HTML are none."""
    found = []
    row = (0, 0)
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        row = tuple(token.map) if token.type == "tr_open" else row
        if token.type == "inline":
            begin, end = token.map or row  # a cell of a table has no lines of its own
            found.append(Passage(_plain(token), first + begin, first + end - 1))
    return found


def _plain(token: Token) -> str:
    """The words of a paragraph, with as many line ends as in the source, and without the addresses of links."""
    pieces = _pieces()
    texts = {"text": lambda child: child.content, "softbreak": lambda _: "\n", "hardbreak": lambda _: "\n"}
    texts |= {"code_inline": lambda _: next(pieces), "image": lambda child: child.content}
    return "".join(texts[child.type](child) for child in token.children or [] if child.type in texts)


def notebook_passages(source: str) -> list[Passage]:
    """The passages of Markdown cells, whose lines stand in the file one by one."""
    cells = [cell["source"] for cell in json.loads(source)["cells"] if cell["cell_type"] == "markdown"]
    lines = source.splitlines()
    found: list[Passage] = []
    at = 0
    for cell in cells:
        begin = json.dumps(cell[0], ensure_ascii=False)
        at = next(line for line in range(at, len(lines)) if lines[line].strip().rstrip(",") == begin)
        found += markdown_passages("".join(cell), at + 1)
    return found


def python_passages(source: str) -> list[Passage]:
    """Docstrings, comments, and the strings that hold two words in a row."""
    nodes = list(ast.walk(ast.parse(source)))
    owners = [node for node in nodes if isinstance(node, OWNERS) and ast.get_docstring(node)]
    docstrings = [node.body[0].value for node in owners]
    inside = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    found = comments(source)
    for text in docstrings:
        empty = len(text.value) - len(text.value.lstrip("\n"))  # lines that cleandoc takes away
        found += markdown_passages(inspect.cleandoc(text.value), text.lineno + empty)
    for node in nodes:
        if isinstance(node, ast.JoinedStr | ast.Constant) and node not in inside and node not in docstrings:
            found += _text(node)
    return sorted(found, key=lambda passage: passage.first)


def _text(node: ast.JoinedStr | ast.Constant) -> list[Passage]:
    pieces = _pieces()
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(str(part.value) if isinstance(part, ast.Constant) else next(pieces) for part in parts)
    if isinstance(getattr(node, "value", ""), str) and TEXT.search(text):
        # Its line ends are not those of the source, so all of it counts as standing on the first line.
        return [
            Passage(paragraph, node.lineno, node.end_lineno or node.lineno)
            for paragraph in (" ".join(piece.split()) for piece in PARAGRAPH.split(_without_code(text)))
            if paragraph
        ]
    return []


def comments(source: str) -> list[Passage]:
    """Comments, those on successive lines together."""
    found: list[Passage] = []
    column = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or TOOL_COMMENT.match(token.string):
            continue
        line, text = token.start[0], _without_code(token.string.lstrip("# "))
        if found and found[-1].last == line - 1 and column == token.start[1]:
            found[-1] = Passage(f"{found[-1].text}\n{text}", found[-1].first, line)
        else:
            found.append(Passage(text, line, line))
        column = token.start[1]
    return found


def _pieces() -> Iterator[str]:
    """Substitutes for the pieces of code in a passage: no words, and never the same twice."""
    return (f"§{number}§" for number in itertools.count())


def _without_code(text: str) -> str:
    pieces = _pieces()
    return re.sub("`[^`]+`", lambda _: next(pieces), text)


READERS = {".py": python_passages, ".md": markdown_passages, ".ipynb": notebook_passages}


# --- findings ---------------------------------------------------------------------------------------------------------
def check_file(path: Path, applied: Sequence[Check]) -> list[Finding]:
    """Everything wrong in a file, marks that excuse nothing or give no reason included."""
    marks = _marks(path)
    used: set[int] = set()
    found = []
    for passage in passages(path):
        allowed = {line: rule for line, (rule, _) in marks.items() if passage.first - 1 <= line <= passage.last + 1}
        for check in applied:
            for result in check.check_with_flags(f"\n{passage.text}\n"):  # proselint's patterns want a border
                excuses = {line for line, rule in allowed.items() if f"{check.path}.".startswith(f"{rule}.")}
                used |= excuses
                if not excuses:
                    line = passage.first + passage.text[: max(result.span[0] - 1, 0)].count("\n")
                    found.append(Finding(path, min(line, passage.last), check.path, result.message))
    for line, (rule, reason) in marks.items():
        if not reason:
            found.append(Finding(path, line, "mark", f"'prose: allow {rule}' lacks its reason: add ' – why'"))
        elif line not in used:
            found.append(Finding(path, line, "mark", f"nothing here breaks {rule!r}: delete the mark"))
    return sorted(found, key=lambda finding: finding.line)


def _marks(path: Path) -> dict[int, tuple[str, str | None]]:
    """By line: the rule that a mark allows to break, and why. A mark is a comment of Python, or of HTML in a page."""
    source = path.read_text(encoding="utf-8")
    lines = enumerate(source.splitlines(), 1)
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        lines = ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)
    found = ((at, MARK.match(line)) for at, line in lines)
    return {at: (match[1], match[2]) for at, match in found if match}


def files(paths: Sequence[str | Path], without: Sequence[str] = ()) -> list[Path]:
    """The pages, notebooks and Python files among these files and below these folders, except those of `without`."""
    found: dict[Path, None] = {}
    for path in map(Path, [*paths, *without]):
        if not (REPOSITORY / path).exists():
            raise ConfigurationError(f"{path} does not exist; correct the path, or tool.prose.paths")
        inside = sorted((REPOSITORY / path).rglob("*")) if (REPOSITORY / path).is_dir() else [REPOSITORY / path]
        found |= {file: None for file in inside if file.suffix in READERS}
    return [file for file in found if file not in {REPOSITORY / path for path in without}]


def main(arguments: Sequence[str]) -> int:
    """Print what is wrong, a line each. Exit status 0 = nothing, 1 = something, 2 = the configuration is wrong."""
    try:
        rules = read_rules()
        applied = checks(rules)
        read = files(arguments) if arguments else files(rules.paths, rules.planted)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = [finding for file in read for finding in check_file(file, applied)]
    for finding in found:
        print(f"{os.path.relpath(finding.path)}:{finding.line}: {finding.rule}: {finding.message}")
    print(f"prose: {len(found)} findings in {len(read)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
