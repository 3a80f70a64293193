"""A page: its parts in their order, escaped texts, and pictures at the size for which they were drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from markupsafe import Markup
from PIL import Image

from tests.support import pages
from transformer.pages.page import Cell, Page, Picture, Section, Table, plain_number

EVIL = "<script>alert('x')</script>"


def written(folder: Path, *sections: Section, **parts: object) -> pages.Page:
    target = folder / "page.html"
    assert Page("Title", "The lead.", sections, **parts).write(target) == target  # type: ignore[arg-type]
    page = pages.Page(target)
    assert page.open == []
    return page


@pytest.mark.parametrize(
    ("pixels", "dpi", "size"), [(1_728, 192, 864), (864, 96, 864), (900, 72, 1_200), (300, None, 300)]
)
def test_a_picture_has_the_size_for_which_it_was_drawn(tmp_path: Path, pixels: int, dpi: int | None, size: int) -> None:
    path = tmp_path / "picture.png"
    Image.new("L", (pixels, pixels)).save(path, **({"dpi": (dpi, dpi)} if dpi else {}))
    picture = Picture.of(path.read_bytes(), "caption", "alt")
    assert (picture.width, picture.height, picture.wide) == (size, size, size > 1_000)


def test_an_empty_section_is_left_out_of_the_page_and_its_contents(tmp_path: Path) -> None:
    page = written(tmp_path, Section("Empty"), Section("Full of it", texts=["something"]))
    assert [link["href"] for link in page.all("a")] == ["#full-of-it"]
    assert [heading["id"] for heading in page.all("h2")] == ["full-of-it"]


def test_parts_that_are_not_given_leave_no_trace(tmp_path: Path) -> None:
    page = written(tmp_path, Section("Only", commands=["make"]))
    assert not {"dl", "table", "figure"} & {tag for tag, _ in page.tags}
    assert "with care" not in page.text and "make" in page.text


def test_lead_facts_remarks_warnings_and_links_are_shown(tmp_path: Path) -> None:
    parts = {
        "facts": [("label", "12.0 s", "meaning")],
        "remarks": ["a remark"],
        "warnings": ["a warning"],
        "links": [("elsewhere", "https://example.org/"), ("evil", "javascript:alert(1)")],
    }
    page = written(tmp_path, **parts)
    for text in ("The lead.", "label", "12.0 s", "meaning", "a remark", "Read the result with care", "a warning"):
        assert text in page.text, text
    assert [link["href"] for link in page.all("a")] == ["https://example.org/"]


def test_texts_are_escaped_and_markup_is_not(tmp_path: Path) -> None:
    table = Table(EVIL, [EVIL, EVIL], [[Cell(EVIL), Cell(EVIL)]], note=EVIL)
    section = Section(EVIL, texts=[EVIL, Markup("<em>a word</em>")], tables=[table], commands=[EVIL])
    page = written(tmp_path, section, facts=[(EVIL, EVIL, EVIL)], remarks=[EVIL], warnings=[EVIL])
    pages.assert_safe(page)
    assert len(page.all("em")) == 1
    assert page.tables[EVIL] == [[EVIL, EVIL], [EVIL, EVIL]]


def test_a_number_keeps_its_unit_and_has_a_true_minus_sign() -> None:
    assert plain_number("-1.5 s") == "−1.5\N{NO-BREAK SPACE}s"
