"""The pages that people open: their content for assertions, and a browser that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.support.programs import CHROMIUM, require

QUIET = [
    "--no-sandbox",  # CI is root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright. Without Chromium, the test is skipped, or fails if `CI` is set."""
    path = require(CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


class Page(HTMLParser):
    """The content of a page: tables as lists of cells by heading, texts, and every tag with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.open: list[str] = []
        self._heading = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "input"):
            self.open.append(tag)
        if tag == "h3":
            self._heading = ""
        elif tag == "table":
            self.tables[self._heading] = []
        elif tag == "tr":
            self.tables[self._heading].append([])
        elif tag in ("th", "td"):
            self.tables[self._heading][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[self._heading][-1][-1] += data
        elif self.open and self.open[-1] == "h3":
            self._heading += data
        elif "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


WIDTHS = (400, 800, 1_100, 1_600)  # pixels: a phone, a tablet, a small and a large window
PAPER = 688  # pixels between the margins of A4
_MISFITS = (Path(__file__).parent / "misfits.js").read_text(encoding="utf-8")


def assert_fits(browser: Any, path: Path) -> None:
    """Fail if anything is cut or beyond the edge, in a window of each width or on A4, or if a figure is blown up."""
    page = browser.new_page()
    page.goto(path.as_uri())
    try:
        for width in (*WIDTHS, 3_840):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(_MISFITS, False) == [], f"{width} pixels wide"
            _assert_contents_stay(page, width)
        page.emulate_media(media="print")
        page.set_viewport_size({"width": PAPER, "height": 1_000})
        assert page.evaluate(_MISFITS, True) == [], "printed"
        assert not page.locator(".contents").is_visible()
    finally:
        page.close()


def _assert_contents_stay(page: Any, width: int) -> None:
    """Fail unless the contents are in sight at the end of the page, and lead to a section."""
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    summary, links = page.locator(".contents summary"), page.locator(".contents a")
    if width < 1_024:
        top, height = summary.bounding_box()["y"], page.viewport_size["height"]
        assert 0 <= top < height
        assert not links.first.is_visible()
        summary.click()
    for link in (links.first, links.last):
        assert link.is_visible()
        link.click()
        heading = page.locator(link.get_attribute("href"))
        assert page.evaluate("box => box.getBoundingClientRect().top >= 0", heading.element_handle())
        assert link.is_visible()
    if width < 1_024:
        summary.click()
    else:
        page.evaluate("scrollTo(0, 0)")
