"""The notebook shows the results of the library, and is stored without outputs."""

import base64
import html
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import polars as pl
import pytest

from tests.support.pages import Page, assert_fits, chromium

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "notebooks" / "explore_snapshot.ipynb"
AT = "2025-01-13T08:00"
FIGURES = ("outlook", "attention", "map")


def ruff(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_it_is_stored_without_outputs() -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert set(stored.metadata) == {"kernelspec", "language_info"}  # no trace of the machine on which it was edited


def test_its_parameters_come_first_and_its_cells_are_short() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    first = next(cell for cell in cells if cell.cell_type == "code")
    assert first.metadata["tags"] == ["parameters"]
    names: dict[str, str] = {}
    exec(first.source, names)
    assert {name: names[name] for name in ("RUN", "AT", "TRAIN")} == {"RUN": "", "AT": "", "TRAIN": ""}
    assert [cell.id for cell in cells if cell.cell_type == "code" and len(cell.source.splitlines()) > 10] == []
    for before, cell in itertools.pairwise(cells):  # a text before each cell explains its output
        if cell.cell_type == "code" and cell.id not in ("repository", "imports"):
            assert before.cell_type == "markdown", cell.id


def test_lint_reads_it_and_finds_nothing() -> None:
    assert str(NOTEBOOK) in ruff("check", "--show-files").stdout.splitlines()
    for check in (("check",), ("format", "--check")):
        done = ruff(*check, str(NOTEBOOK))
        assert done.returncode == 0, done.stdout + done.stderr


def make_notebook(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the command of `make notebook`."""
    command = [sys.executable, "scripts/explore.py", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def out(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executed copy."""
    out = tmp_path_factory.mktemp("executed") / "explored.ipynb"
    before = NOTEBOOK.read_bytes()
    done = make_notebook("--run", str(trained_folder), "--at", AT, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert NOTEBOOK.read_bytes() == before
    return out


@pytest.fixture(scope="module")
def executed(out: Path) -> dict[str, nbformat.NotebookNode]:
    """The cells of the executed copy by their id."""
    return {cell.id: cell for cell in nbformat.read(out, as_version=4).cells}


def table(cell: nbformat.NotebookNode) -> list[dict[str, str]]:
    """The rows of the table that a cell shows."""
    (shown,) = [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
    head, *rows = [
        [html.unescape(text).strip('"') for text in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", shown)
    ]
    return [dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head) and row[0] not in ("str", "i16")]


@pytest.fixture(scope="module")
def expected(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The predictions that `predict` writes for the same instant."""
    from transformer.cli import main
    from transformer.config import read_value

    out = tmp_path_factory.mktemp("predicted") / "predictions.parquet"
    data = read_value((trained_folder / "config" / "config.yaml").read_text(encoding="utf-8"))["data"]["local_folder"]
    assert main(["predict", "--run-folder", str(trained_folder), "--data", data, "--at", AT, "--out", str(out)]) == 0
    return pl.read_parquet(out)


@pytest.mark.slow
def test_its_tables_are_the_predictions(executed: dict[str, nbformat.NotebookNode], expected: pl.DataFrame) -> None:
    trains = table(executed["snapshot"])
    assert {row["train_id"] for row in trains} == set(expected["train_id"])
    changes = {row["train_id"]: int(row["change_s"]) for row in trains if row["departed"] == "true"}
    shown = table(executed["train"])
    columns = ["predicted_delay_s", "low_90_delay_s", "high_90_delay_s", "translation_delay_s"]
    numbers = [[int(row[name]) for name in ("rank", *columns)] for row in shown]
    of_trains = {name: group for (name,), group in expected.group_by("train_id")}
    same = [
        name
        for name, group in of_trains.items()
        if [list(row) for row in group.sort("rank").select("rank", *columns).rows()] == numbers
    ]
    assert len(same) == 1 and len(numbers) > 1
    assert [row["point"] for row in shown] == of_trains[same[0]].sort("rank")["op_name"].to_list()
    # Among the trains with most events ahead, this train's delay changes most.
    rivals = [name for name in changes if of_trains[name].height == max(of_trains[other].height for other in changes)]
    assert abs(changes[str(same[0])]) == max(abs(changes[str(name)]) for name in rivals)


@pytest.mark.slow
def test_its_figures_are_there_and_nothing_else_is_printed(executed: dict[str, nbformat.NotebookNode]) -> None:
    for name in FIGURES:
        (picture,) = [o.data["image/png"] for o in executed[name].outputs if "image/png" in o.get("data", {})]
        assert len(base64.b64decode(picture)) > 20_000, name
    kinds = {o.output_type for cell in executed.values() for o in cell.get("outputs", [])}
    streams = [o.text for cell in executed.values() for o in cell.get("outputs", []) if o.output_type == "stream"]
    assert kinds == {"execute_result", "stream"}
    assert len(streams) == 2 and streams[0].startswith("2025-01-13 08:00 CET: ") and "(3, 1, 2, " in streams[1]


@pytest.mark.slow
def test_the_page_next_to_it_has_its_tables_and_figures(out: Path, executed: dict[str, nbformat.NotebookNode]) -> None:
    page = Page(out.with_suffix(".html"))
    assert page.open == []
    trains = table(executed["snapshot"])
    header, *rows = page.tables["The snapshot"]
    assert [dict(zip(header, row, strict=True)) for row in rows] == trains
    assert len(page.tables["One train"]) == 1 + len(table(executed["train"]))
    assert len(page.all("img")) == len(FIGURES)
    assert f"2025-01-13 08:00 CET: {len(trains)} trains, " in page.text


@pytest.mark.slow
def test_the_page_fits_everywhere(out: Path) -> None:
    with chromium() as browser:
        assert_fits(browser, out.with_suffix(".html"))


@pytest.mark.slow
def test_it_runs_from_its_own_folder_too(trained_folder: Path, tmp_path: Path) -> None:
    """Jupyter and VS Code start it like this; the script starts it in the root."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        import explore
    finally:
        sys.path.pop(0)
    out = tmp_path / "explored.ipynb"
    explore.execute(NOTEBOOK, {"RUN": str(trained_folder), "AT": AT}, out)
    assert sum("image/png" in o.get("data", {}) for c in nbformat.read(out, 4).cells for o in c.get("outputs", [])) == 3


@pytest.mark.slow
def test_without_a_run_it_ends_in_one_line(tmp_path: Path) -> None:
    folders = ("include", "notebooks", "scripts", "transformer")
    for name in folders:
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "scripts/explore.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.match(r"error: data/runs .*; run `make train`", done.stderr.splitlines()[-1])
    assert not (tmp_path / "data").exists()
