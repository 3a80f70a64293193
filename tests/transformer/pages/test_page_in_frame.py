"""A page in a sandboxed frame, as MLflow shows it: the contents lead to the sections, and no other script runs."""

from __future__ import annotations

import pytest

from tests.support.pages import chromium
from transformer.pages.page import Page, Section

pytestmark = pytest.mark.slow
FRAME = """html => {
  document.body.innerHTML = '<iframe sandbox="allow-scripts" style="width: 1100px; height: 600px"></iframe>';
  document.querySelector("iframe").src = URL.createObjectURL(new Blob([html], { type: "text/html" }));
}"""


def test_the_contents_lead_to_the_sections_in_a_sandboxed_frame() -> None:
    sections = [Section(f"Part {number}", texts=["line"] * 100) for number in range(3)]
    html = Page("Title", "The lead.", sections).html()
    with chromium() as browser:
        page = browser.new_page()
        page.evaluate(FRAME, html)
        frame = page.frame_locator("iframe")
        heading = frame.get_by_role("heading", name="Part 2")
        heading.wait_for()
        top = heading.bounding_box()["y"]
        frame.get_by_role("link", name="Part 2").click()
        assert top > 600 > heading.bounding_box()["y"] >= 0


def test_no_other_script_runs() -> None:
    html = Page("Title", "The lead.", [Section("Part")]).html()
    evil = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title = 'evil'\"></main>"
    assert html.count("</main>") == 1
    with chromium() as browser:
        page = browser.new_page()
        page.set_content(html.replace("</main>", evil))
        page.wait_for_timeout(500)
        assert page.title() == "Title"
