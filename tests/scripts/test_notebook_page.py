"""An executed notebook as a page: texts, tables and figures below their headings, and no code."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import nbformat.v4 as new
from PIL import Image

from tests.support.pages import Page, assert_safe

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from notebook_page import page_of

EVIL = "<script>alert('x')</script>"


def picture() -> str:
    content = io.BytesIO()
    Image.new("L", (400, 200)).save(content, format="png", dpi=(192, 192))
    return base64.b64encode(content.getvalue()).decode()


def test_each_heading_has_its_texts_tables_figures_and_printed_lines(tmp_path: Path) -> None:
    shown = (
        "<table><thead><tr><th>train</th><th>delay</th></tr><tr><td>str</td><td>i64</td></tr></thead><tbody>"
        "<tr><td>&quot;7 &lt;b&gt;&quot;</td><td>60</td></tr></tbody></table>"
    )
    result = {"output_type": "execute_result"}
    notebook = new.new_notebook(
        cells=[
            new.new_markdown_cell(f"# Title\n\nAbout *it*. {EVIL}"),
            new.new_code_cell("secret_code()", outputs=[new.new_output("stream", text="first line\nsecond line\n")]),
            new.new_markdown_cell("## Trains\n\n- one\n- two"),
            new.new_code_cell("t", outputs=[new.new_output(**result, data={"text/html": shown, "text/plain": "t"})]),
            new.new_markdown_cell("The figure shows delays. In minutes."),
            new.new_code_cell("f", outputs=[new.new_output(**result, data={"image/png": picture()})]),
            new.new_code_cell("d", outputs=[new.new_output(**result, data={"text/plain": "{'a': 1}"})]),
        ]
    )
    page = Page(page_of(notebook).write(tmp_path / "page.html"))
    assert page.open == []
    assert [heading["id"] for heading in page.all("h2")] == ["about", "trains"]
    assert page.text.count("first line.") == 1  # the lead
    assert len(page.all("em")) == 1 and EVIL in page.text
    assert_safe(page)
    assert page.tables == {"Trains": [["train", "delay"], ["7 <b>", "60"]]}
    (image,) = page.all("img")
    assert (image["width"], image["alt"]) == ("200", "Trains: The figure shows delays")
    assert "{'a': 1}" in page.text and "secret_code" not in page.text
