"""A page for people as one HTML file: a lead, facts, warnings, and sections of texts, figures, tables and commands.

The page opens offline, in dark and light mode, on a phone, on a wall screen and on paper. Figures and styles are inside
the file. Its policy lets no script run but `page.js`. Every text is escaped unless it is `Markup`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import jinja2
from markupsafe import Markup
from PIL import Image

from transformer.files import write_text

TEMPLATE = "page.html.jinja"
SCRIPT = Path(__file__).with_name("page.js")
CSS_DPI = 96  # pixels of CSS in an inch
WIDE_PX = 1_000  # a wider figure is too small to read in one of several columns
WIDE_COLUMNS = {True: 9, False: 6}  # a table of numbers, or of texts, with more columns needs the whole width


@dataclass(frozen=True)
class Cell:
    text: str
    worse: bool = False  # than the baseline or a limit


@dataclass(frozen=True)
class Table:
    caption: str
    header: Sequence[str]
    lines: Sequence[Sequence[Cell]]  # the first cell names its line
    numbers: bool = True  # whether the other cells are numbers
    note: str = ""

    @property
    def wide(self) -> bool:
        return len(self.header) > WIDE_COLUMNS[self.numbers]


@dataclass(frozen=True)
class Picture:
    caption: str
    alt: str  # read to people who do not see it
    source: str  # data URI
    width: int  # pixels of CSS at full size
    height: int

    @classmethod
    def of(cls, png: bytes, caption: str, alt: str) -> Self:
        """The content of a PNG file. Its full size is the size in inches for which it was drawn."""
        with Image.open(BytesIO(png)) as image:
            width, height = image.size
            scale = CSS_DPI / image.info.get("dpi", (CSS_DPI,))[0]
        source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
        return cls(caption, alt, source, round(width * scale), round(height * scale))

    @property
    def wide(self) -> bool:
        return self.width > WIDE_PX


@dataclass(frozen=True)
class Section:
    """A part of a page. It is left out if it has no content."""

    title: str
    texts: Sequence[str | Markup] = ()
    figures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(",", "").replace(" ", "-")

    @property
    def columns(self) -> bool:
        """Whether there is enough content to place it in columns."""
        return len(self.figures) + len(self.tables) > 1

    def __bool__(self) -> bool:
        return bool(self.texts or self.figures or self.tables or self.commands)


@dataclass(frozen=True)
class Page:
    """
    Attributes:
        lead: the sentence that says what matters most.
        facts: label, value and meaning of each of the few numbers that count.
        remarks: lines below the facts.
        warnings: reasons to read the page with care.
        links: text and address; an address that is no web address is left out.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str, str]] = ()
    remarks: Sequence[str] = ()
    warnings: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()

    def html(self) -> str:
        script = SCRIPT.read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        return _template().render(
            page=self,
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            sections=[section for section in self.sections if section],
            links=[(text, url) for text, url in self.links if url.startswith(("https://", "http://"))],
        )

    def write(self, target: Path) -> Path:
        """Write the page to `target`, atomically."""
        write_text(target, self.html())
        return target


def plain_number(text: str) -> str:
    """The text with a true minus sign, since screen readers skip a hyphen, and with its unit on the same line."""
    return text.replace("-", "−").replace(" ", "\N{NO-BREAK SPACE}")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)
