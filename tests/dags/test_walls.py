"""The packages that the parser may load, and the content of a DAG file. `make lint` checks the table of imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ML_STACK = ("torch", "lightning", "mlflow", "optuna", "polars", "pandas")
DAG_FILES = sorted((REPOSITORY / "dags").glob("*.py"))

# prose: allow lexical_illusions – a program
PARSE_WITH_ML_STACK_BLOCKED = f"""
import sys
for name in {ML_STACK!r}:
    sys.modules[name] = None  # importing it now raises ImportError
from airflow.dag_processing.dagbag import DagBag
import delay_pipeline_plugin
bag = DagBag(sys.argv[1])
assert bag.dags, "empty bag"
assert not bag.import_errors, bag.import_errors
"""


def test_dags_and_plugins_parse_without_the_ml_stack():
    done = subprocess.run(
        [sys.executable, "-c", PARSE_WITH_ML_STACK_BLOCKED, str(REPOSITORY / "dags")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_dag_files_hold_wiring_only(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    documentation = tree.body[0].end_lineno  # not counted as wiring
    assert len(source.splitlines()) - documentation < 85
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("task" in ast.unparse(d) for d in node.decorator_list):
            statements = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            assert len(statements) == 1, f"{node.name} does more than call one function"


def test_dates_and_zones_are_those_of_pendulum():
    """Pendulum is the date library of Airflow: it has its time zones, and durations that are easy to read."""
    for path in [*DAG_FILES, *(REPOSITORY / "plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {"datetime", "zoneinfo"} & {*names}, f"{path}: import pendulum instead"


def test_there_are_dag_files():
    assert DAG_FILES
