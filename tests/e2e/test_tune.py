"""`make tune`: a whole study with the real stages and a real MLflow server, its continuation, and refused input."""

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_train import OVERRIDES, runs
from tests.support.http import answers
from tests.support.patience import wait_until
from tests.support.ports import free_port

SPACE = "search.space=[{key: training.learning_rate, low: 3e-4, high: 3e-3, log: true}]"
STUDY = [*OVERRIDES, "--set", SPACE]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trials", "0"], "TRIALS='0' "),
        (["--trials", "many"], "TRIALS='many' "),
        (["--workers", "2"], "search.n_workers=2"),
        (["--data", "nowhere"], "DATA=nowhere "),
        (["--env", "optna"], "did you mean 'optuna'"),
        (["--set", "search.n_trial=3"], "did you mean 'search.n_trials'"),
        (["--set", "search.space=[{key: model.d_modl, choices: [32]}]"], "model.d_modl"),
    ],
)
def test_wrong_input_is_one_line_before_anything_starts(clone, arguments, words):
    done = clone.run("tune.py", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not (clone.folder / ".airflow").exists()


@pytest.mark.slow
def test_a_study_whole_and_gone_on_with(clone, tiny_data):
    clone.with_databases()

    def tune(trials):
        done = clone.run("tune.py", "--data", str(tiny_data), "--trials", str(trials), *STUDY)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    out = tune(2)
    last = out[out.rindex("MLflow run  ") :]
    server = f"http://127.0.0.1:{clone.mlflow_port}"
    assert re.match(rf"MLflow run  {server}/#/experiments/\d+/runs/\w+\?workflowType=machine_learning\n", last)
    assert "Optuna Dashboard  .venv/bin/optuna-dashboard sqlite:///data/optuna/studies.db\n" in last
    assert re.search("MLflow .*this study.*`make up`", last)
    assert "train with these values" in out

    tune(3)
    name = f"make-tune-{tiny_data.name}"
    with sqlite3.connect(clone.folder / "data" / "optuna" / "studies.db") as database:
        assert database.execute("select study_name from studies").fetchall() == [(name,)]
        assert database.execute("select count(*) from trials").fetchone() == (3,)
    found = runs(clone)
    assert {status for status, _ in found} == {"FINISHED"}
    studies = [tags for _, tags in found if "mlflow.parentRunId" not in tags]
    assert (len(studies), len(found)) == (2, 2 + 3)
    assert {(tags["dag_id"], tags["study_name"]) for tags in studies} == {("hyperparameter_tuning", name)}
    assert dashboard_studies(f"sqlite:///{clone.folder / 'data' / 'optuna' / 'studies.db'}") == [name]


def dashboard_studies(url):
    """Return the names of the studies that Optuna Dashboard shows for a database."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "optuna-dashboard"), "--port", str(port), url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        studies = f"http://127.0.0.1:{port}/api/studies"
        wait_until(lambda: answers(studies), "the dashboard", process)
        return [study["study_name"] for study in json.loads(answers(studies))["study_summaries"]]
    finally:
        process.kill()
        process.wait()
