"""Execute the notebook that explores a snapshot. Save a copy with its tables and figures, and the same as a page.

    .venv/bin/python scripts/explore.py     # what `make notebook` runs

The notebook in the repository does not change: it has no outputs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from notebook_page import page_of
from services import REPOSITORY
from transformer.files import atomic_path

EXPLORE = REPOSITORY / "notebooks" / "explore_snapshot.ipynb"
PARAMETERS = "parameters"  # tag of the cell that holds the parameters
TIMEOUT_S = 900  # limit of one cell; enough for a large railway on a slow machine


def execute(notebook: Path, parameters: Mapping[str, str], out: Path, folder: Path | None = None) -> None:
    """Run every cell of `notebook` in a fresh kernel. Write the result to `out`, and next to it the page.

    Args:
        parameters: values that replace those in the cell tagged `parameters`.
        folder: working directory of the kernel; None = the folder of the notebook, as in Jupyter.

    Raises:
        CellExecutionError: a cell failed; nothing is written.
    """
    content = nbformat.read(notebook, as_version=4)
    if parameters:
        at = next(i for i, cell in enumerate(content.cells) if PARAMETERS in cell.metadata.get("tags", ()))
        lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        content.cells.insert(at + 1, nbformat.v4.new_code_cell(lines, metadata={"tags": ["injected-parameters"]}))
    where = {"metadata": {"path": str(folder or notebook.parent)}}
    with tempfile.TemporaryDirectory() as sockets:  # sockets in files, not TCP: only this user can connect
        channels = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        NotebookClient(content, kernel_name="python3", timeout=TIMEOUT_S, resources=where, config=channels).execute()
    with atomic_path(out) as temporary:
        nbformat.write(content, temporary)
    page_of(content).write(out.with_suffix(".html"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, meaning in {
        "run": "run folder or id of an MLflow run; default: the newest in data/runs",
        "at": "instant of the snapshot; default: the instant of the last test date at which most trains run",
        "train": "number or id of a train; default: the train with the largest predicted change of delay",
        "data": "folder of event tables; default: the folder that the run was trained on",
        "env": "environment in include/config; default: local",
    }.items():
        parser.add_argument(f"--{name}", help=meaning)
    parser.add_argument(
        "--out",
        type=Path,
        default=REPOSITORY / "data" / "notebooks" / EXPLORE.name,
        help=f"file of the copy; default: data/notebooks/{EXPLORE.name}",
    )
    options = parser.parse_args(argv)
    given = {name.upper(): value for name, value in vars(options).items() if value and name != "out"}
    try:
        execute(EXPLORE, given, options.out, REPOSITORY)
    except CellExecutionError as failure:
        if failure.ename != "UserError":
            print(failure, file=sys.stderr)
            return 1
        print(f"error: {failure.evalue}", file=sys.stderr)
        return 2
    print(f"executed: {options.out}")
    print(f"as a page: {options.out.with_suffix('.html').resolve().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
