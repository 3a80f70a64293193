"""The pages that people open: their content for assertions, and a browser that shows them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.support.programs import CHROMIUM, require
from transformer.pages.page import SCRIPT

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
    """The content of a page: tables as lists of cells by heading, texts, scripts, and every tag with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.scripts: list[str] = []
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
        elif self.open and self.open[-1] == "script":
            self.scripts.append(data)
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
    assert links.first.is_visible() == (width >= 1_024)
    for link in (links.first, links.last):
        if width < 1_024:
            assert 0 <= summary.bounding_box()["y"] < page.viewport_size["height"]
            summary.click()
        link.click()
        heading, contents = page.locator(link.get_attribute("href")), page.locator(".contents").bounding_box()
        covered = contents["y"] + contents["height"] if width < 1_024 else 0
        assert covered - 1 <= heading.bounding_box()["y"] < page.viewport_size["height"], width


def assert_safe(page: Page) -> None:
    """Fail if a page can fetch anything, or can run anything but the script of every page."""
    assert not {"link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    assert page.scripts == [SCRIPT.read_text(encoding="utf-8")]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    policies = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    allowed = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert policies == [allowed]
    assert page.tags.index(("meta", {"http-equiv": "Content-Security-Policy", "content": allowed})) < page.tags.index(
        ("style", {})
    )
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
