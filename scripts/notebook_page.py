"""An executed notebook as a page with the look of the reports: its texts, tables and figures, without its code."""

from __future__ import annotations

import base64
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformer.pages.page import Cell, Page, Picture, Section, Table

MARKDOWN = MarkdownIt("commonmark", {"html": False})
HEADING = re.compile(r"^#+ (.+)\n*", re.MULTILINE)


def page_of(notebook: NotebookNode) -> Page:
    """A section for each heading. The first heading is the title, and the first printed line is the lead."""
    title, *sections = (_section(heading, cells) for heading, cells in _parts(notebook))
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    lead = next(output.text.partition("\n")[0] for output in outputs if output.output_type == "stream")
    return Page(title.title, f"{lead}.", [Section("About", title.texts), *sections])


def _parts(notebook: NotebookNode) -> Iterator[tuple[str, list[NotebookNode]]]:
    """Each heading with the cells below it."""
    cells: list[NotebookNode] = []
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := HEADING.match(cell.source)):
            if heading:
                yield heading, cells
            heading, cells = found[1], []
        cells.append(cell)
    yield heading, cells


def _section(heading: str, cells: list[NotebookNode]) -> Section:
    texts = [HEADING.sub("", cell.source) for cell in cells if cell.cell_type == "markdown"]
    figures, tables, printed = [], [], []
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if "image/png" in data:
            alt = f"{heading}: {texts[-1].partition('. ')[0]}"
            figures.append(Picture.of(base64.b64decode(data["image/png"]), heading, " ".join(alt.split())))
        elif "text/html" in data:
            tables.append(_table(heading, data["text/html"]))
        else:
            printed += (output.get("text") or data["text/plain"]).splitlines()
    return Section(heading, [Markup(MARKDOWN.render(text)) for text in texts], figures, tables, printed)


def _table(heading: str, shown: str) -> Table:
    """A data frame as Polars shows it: a row of names, a row of types, and the values."""
    rows = [
        [html.unescape(cell).strip('"') for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", shown, re.DOTALL)
    ]
    header, _, *values = [row for row in rows if row]
    return Table(heading, header, [[Cell(text) for text in row] for row in values], numbers=False)
