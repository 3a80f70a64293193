"""The site builds in strict mode, holds the tables that the code generates, and loads nothing from another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from delay_pipeline.params import evaluation_params, training_params, tuning_params
from transformer.config import ChoicesConfig, ProfileConfig, RangeConfig, valid_keys
from transformer.data.tables import EVENT_SCHEMA, JOURNEY_SCHEMA, OP_NODE_SCHEMA

REPOSITORY = Path(__file__).resolve().parents[2]
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


class Page(HTMLParser):
    """The rows of the tables of a page, and the addresses that the page loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self._cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        address = given.get(LOADING.get(tag, ""))
        if address and (tag != "link" or given.get("rel") in ("stylesheet", "icon", "preload", "preconnect")):
            self.loads.append(address)
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_every_key_has_its_default_and_its_meaning(site: Path) -> None:
    page = Page(site / "configuration.html")
    shown = {row[0]: row for row in page.rows if row}
    assert set(valid_keys()) <= set(shown)
    assert [key for key in valid_keys() if not all(shown[key][1:3]) or len(shown[key][3]) < 8] == []
    entries = {*ChoicesConfig.model_fields, *RangeConfig.model_fields, *ProfileConfig.model_fields}
    assert [key for key in entries if not any(row and row[0] == key and row[3] for row in page.rows)] == []


@pytest.mark.slow
def test_a_key_tells_its_value_and_the_environments_that_differ(site: Path) -> None:
    page = Page(site / "configuration.html")
    assert page.row("model.d_model")[1:3] == ["whole number", "64"]
    assert page.row("training.precision")[1].startswith("auto, 32-true")
    assert page.row("data.endpoint_url")[1:3] == ["text or null", "null"]
    assert page.row("data.split.train")[1:3] == ["list of texts", "[]"]
    assert page.row("search.space")[1:3] == ["list", "12 entries"]
    assert page.row("evaluation.gate.breakdowns")[1] == "list of texts"
    assert page.row("compute.backend")[3].endswith("dev, prod: kubernetes")
    assert "optuna: 6" in page.row("training.max_epochs")[3]


@pytest.mark.slow
@pytest.mark.parametrize("make", [training_params, tuning_params, evaluation_params])
def test_every_param_has_its_title_and_its_meaning(site: Path, make) -> None:
    rows = Page(site / "dag-params.html").rows
    for name, param in make({}).items():
        assert any(row[:2] == [name, param.schema["title"]] and row[4] for row in rows), name


@pytest.mark.slow
def test_every_column_has_its_meaning(site: Path) -> None:
    rows = [row for row in Page(site / "data.html").rows if row]
    for table in (EVENT_SCHEMA, OP_NODE_SCHEMA, JOURNEY_SCHEMA):
        names = list(table)
        at = next(i for i in range(len(rows)) if [row[0] for row in rows[i : i + len(names)]] == names)
        assert [row[0] for row in rows[at : at + len(names)] if not row[3]] == []
    required = [row[2] for row in rows if row[0] in ("planned_ts", "delay_sec")]
    assert required == ["yes", ""]


@pytest.mark.slow
def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    loads = {address for page in pages for address in Page(page).loads}
    assert any(address.endswith(".css") for address in loads)
    assert [address for address in loads if re.match(r"(https?:)?//", address)] == []
    outside = re.compile(rb"@import|url\(['\"]?(https?:)?//")
    assert [path.name for path in site.rglob("*.css") if outside.search(path.read_bytes())] == []


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    configured = pages(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    docs = REPOSITORY / "docs"
    assert sorted(configured) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))


def test_files_that_pages_name_exist() -> None:
    named = re.compile(r"`((?:transformer|plugins|dags|scripts|tests|include|deploy|benchmarks)/[\w./-]*)`")
    missing = {
        f"{page.name}: {name}"
        for page in [*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md")]
        for name in named.findall(page.read_text(encoding="utf-8"))
        if not (REPOSITORY / name).exists()
    }
    assert missing == set()


def test_the_shapes_of_the_model_page_are_those_of_the_network() -> None:
    from transformer.config import load_config
    from transformer.model.network import DelayTransformer, NetworkShape

    scales = {"delay": 1.0, "change": 1.0, "running_trains": 1.0, "resolution": 60.0}
    config = load_config("local")
    size = config.data.snapshot
    shape = NetworkShape(
        size.n_prev, size.n_foll, ["a", "b", "c"], [1], {"laplacian": config.embeddings.laplacian.dim}, scales
    )
    network = DelayTransformer(config.model, shape)
    text = " ".join((REPOSITORY / "docs" / "model.md").read_text(encoding="utf-8").split())
    assert f"railway's load: {network.members[0].token[0].in_features} numbers" in text
    assert f"`[C, {network.members[0].head_event.in_features}] → [C, H]`" in text
    assert f"L = {len(network.live_columns)}" in text
    assert f"{sum(weight.numel() for weight in network.parameters()) / 1000:.0f} thousand parameters" in text


def test_tests_that_pages_name_exist() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 10
    assert [name for path, name in named if f"def {name}(" not in (REPOSITORY / path).read_text(encoding="utf-8")] == []
