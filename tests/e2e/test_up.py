"""`make up` as a person sees it: the pages of Airflow and MLflow in Chromium, and a DAG run that is ended by hand.

The tests share one Airflow, whose start takes a minute. They also take the screenshots of the documentation, and
`make screenshots` keeps them.
"""

import json
import os
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from PIL import Image
from playwright.sync_api import expect

from tests.support.clones import cloned
from tests.support.http import answers
from tests.support.pages import chromium
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_port
from transformer.tracking.names import artifact_page

pytestmark = pytest.mark.slow

PATIENCE_MS = 1000 * PATIENCE_S
SMALL = {  # values of environment `local` in the clone, so that triggers without overrides are short
    "training": {"max_epochs": 2, "batch_size": 16, "snapshots_per_epoch": 64},
    "data": {"grid": {"step_s": 3600}},
    "model": {"n_layers": 1},
}
LONG = ["training.max_epochs=1000", "training.early_stopping.enabled=false", "data.grid.step_s=3600"]


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """A clone without data whose servers are up on free ports, and the output of `make up`."""
    with cloned(tmp_path_factory.mktemp("up") / "a clone") as clone:
        for group, values in SMALL.items():
            path = clone.folder / "include" / "config" / "local" / f"{group}.yaml"
            path.write_text(yaml.safe_dump(values), encoding="utf-8")
        done = clone.with_databases().run("services.py", "up")
        assert done.returncode == 0, done.stderr
        yield clone, done.stdout


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(up, browser):
    """A page of Airflow, logged in. Each test goes to the address that it needs."""
    clone, said = up
    context = browser.new_context(
        viewport={"width": 1280, "height": 800},
        base_url=f"http://127.0.0.1:{clone.airflow_port}",
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto("/")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", password_in(said))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Welcome")).to_be_visible(timeout=PATIENCE_MS)
    yield page
    context.close()


@pytest.fixture
def take(tmp_path):
    """Save a picture of a page in the folder SCREENSHOTS, if that is set."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)

    def screenshot(page, name):
        page.wait_for_timeout(1500)  # panels slide, charts grow
        page.screenshot(path=tmp_path / "whole.png")
        with Image.open(tmp_path / "whole.png") as image:
            image.quantize(128).save(folder / f"{name}.png", optimize=True)

    return screenshot


@pytest.fixture(scope="module")
def ask(up):
    """A function that asks Airflow's API."""
    clone, said = up
    server = f"http://127.0.0.1:{clone.airflow_port}"

    def request(address: str, method: str = "GET", token: str = "", **body: Any) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = json.dumps(body).encode() if body else None
        wanted = urllib.request.Request(server + address, data, headers, method=method)
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            return json.load(answer)

    token = request("/auth/token", "POST", username="admin", password=password_in(said))["access_token"]
    return lambda address, method="GET", **body: request(address, method, token, **body)


def password_in(said):
    return re.search(r"user admin, password (\S+)", said).group(1)


def fill_form(page, overrides):
    """The form of `model_training`, open and filled."""
    page.goto("/dags/model_training")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    form.locator("[name=element_overrides]").fill("\n".join(overrides))
    return form


def trigger(page, overrides):
    """Trigger `model_training` through its form. Return the address of the run's page."""
    form = fill_form(page, overrides)
    form.get_by_role("button", name="Trigger").click()
    page.wait_for_url("**/runs/manual__*")
    return page.url.partition("?")[0]


def watch(page, run):
    """Return the final state of the run, with the same request as its page.

    Meanwhile the page is closed: it would ask for its content every few seconds, and draw it.
    """
    run_id = run.rpartition("/")[2]
    page.goto("about:blank")

    def state():
        return page.request.get(f"/api/v2/dags/model_training/dagRuns/{run_id}").json()["state"]

    wait_until(lambda: state() in ("success", "failed"), run_id, every_s=1)
    return state()


def follow(page, run, task, link):
    """The page that a button of a task opens."""
    page.goto(f"{run}/tasks/{task}/details")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=link).click()
    return opened.value


def test_up_serves_both(up):
    clone, said = up
    assert f"http://127.0.0.1:{clone.airflow_port}   user admin, password " in said
    assert answers(f"http://127.0.0.1:{clone.mlflow_port}/health") == b"OK"
    health = json.loads(answers(f"http://127.0.0.1:{clone.airflow_port}/api/v2/monitor/health"))
    assert {part: state["status"] for part, state in health.items()} == {
        "metadatabase": "healthy",
        "scheduler": "healthy",
        "triggerer": "healthy",
        "dag_processor": "healthy",
    }
    again = clone.run("services.py", "up")
    assert again.stdout.count("already up") == 2
    assert said.count("simulating a railway") == 1
    assert "simulating" not in again.stdout
    moved = clone.run("services.py", "up", MLFLOW_PORT=str(free_port()))
    assert moved.returncode == 2
    assert re.fullmatch(r"error: .*run `make down` first.*\n", moved.stderr)


def test_a_training_from_the_untouched_form_to_its_figures(ask, page, take):
    """The form names neither a server nor data: `make up` on other ports has brought both."""
    ask("/api/v2/dags/model_evaluation", "PATCH", is_paused=True)  # it would evaluate the new model meanwhile
    run = trigger(page, [])
    assert watch(page, run) == "success"
    page.goto(run)
    page.get_by_role("button", name=re.compile("Show Graph")).click()
    for task in ("open_run", "fetch_files", "train_model", "evaluate_model", "register_model", "close_run"):
        expect(page.locator(".react-flow__node").filter(has_text=task)).to_contain_text("success", ignore_case=True)
    take(page, "dag-graph")

    mlflow = follow(page, run, "train_model", "MLflow run")
    run_page = mlflow.url
    expect(mlflow.get_by_text("val/best_skill").first).to_be_visible(timeout=PATIENCE_MS)
    if (assistant := mlflow.get_by_role("button", name="Close")).count():
        assistant.first.click()  # MLflow opens its assistant by itself
    mlflow.get_by_role("tab", name="Model metrics").click()
    mlflow.get_by_placeholder("Search metric charts").fill("val/(mae|skill|translation)")
    expect(mlflow.locator(".js-plotly-plot").first).to_be_visible(timeout=PATIENCE_MS)
    expect(mlflow.get_by_role("heading", name="mae_s", exact=True)).to_be_visible()
    take(mlflow, "mlflow-run")
    mlflow.goto(artifact_page(run_page, "evaluation/figures/error_by_horizon.png"))
    mlflow.reload()  # MLflow takes a click for a changed address, not typing
    figure = mlflow.locator("img[src^='blob:']").first
    expect(figure).to_be_visible(timeout=PATIENCE_MS)
    assert figure.evaluate("image => image.naturalWidth") > 300

    report = follow(page, run, "evaluate_model", "Report")
    frame = report.frame_locator("iframe")
    expect(frame.get_by_role("heading", name=re.compile("Evaluation 20"))).to_be_visible(timeout=PATIENCE_MS)
    if (contents := frame.locator(".contents summary")).is_visible():  # the frame is narrow
        contents.click()
    frame.get_by_role("link", name="Trains", exact=True).click()
    expect(frame.get_by_role("heading", name="Trains", exact=True)).to_be_in_viewport()


def test_a_mistyped_key_is_explained_where_the_run_failed(page):
    run = trigger(page, ["training.max_epoch=1"])
    assert watch(page, run) == "failed"
    page.goto(f"{run}/tasks/open_run")
    expect(page.get_by_text("did you mean 'training.max_epochs'").first).to_be_visible(timeout=PATIENCE_MS)


def test_the_form_says_what_each_field_is(page, take):
    form = fill_form(page, ["training.max_epochs=5"])
    expect(form.get_by_text("Configuration folder in")).to_be_visible()
    expect(form.get_by_text("Earlier MLflow runs")).to_be_visible()
    expect(form.locator("[name=element_warm_start_run_id]")).to_be_hidden()
    take(page, "trigger-form")


@pytest.mark.parametrize("dag", ["model_training", "hyperparameter_tuning", "model_evaluation"])
def test_the_page_of_a_dag_tells_what_it_does_and_how_to_go_on(page, take, dag):
    page.goto(f"/dags/{dag}")
    page.get_by_role("button", name="Dag Docs").click()
    text = page.get_by_role("dialog")
    for heading in ("Steps", "Reads", "Writes", "Trigger", "Rerun and resume", "How failures look"):
        expect(text.get_by_role("heading", name=heading, exact=True)).to_be_attached()
    if dag == "model_training":
        take(page, "dag-docs")


def training_process(folder: str) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "train-model" in words and "transformer" in words and any(folder in word for word in words):
            return process
    return None


@pytest.mark.parametrize("moment", ["running", "up_for_retry"])
def test_a_training_that_was_marked_as_failed_has_failed(up, ask, tiny_data, tmp_path, moment):
    """Airflow skips the tasks that wait. They alone would make the DAG run a success, and the MLflow run FINISHED."""
    from mlflow import MlflowClient

    clone, _ = up
    mlflow = f"http://127.0.0.1:{clone.mlflow_port}"
    dag = "/api/v2/dags/model_training"
    own = [
        f"data.local_folder={tiny_data}",
        f"paths.cache={tmp_path}/cache",
        f"paths.runs={tmp_path}/runs",
    ]
    conf = {"overrides": [*LONG, *own]}
    ask(dag, "PATCH", is_paused=False)
    run = f"{dag}/dagRuns/" + ask(f"{dag}/dagRuns", "POST", logical_date=None, conf=conf)["dag_run_id"]

    def state(task: str) -> str | None:
        found: str | None = ask(f"{run}/taskInstances/{task}")["state"]
        return found

    wait_until(lambda: training_process(str(tmp_path)), "the training", every_s=0.5)
    if moment == "up_for_retry":
        process = training_process(str(tmp_path))
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)  # as if out of memory: Airflow tries again after half a minute
    wait_until(lambda: state("train_model") == moment, moment, every_s=0.5)
    ask(run, "PATCH", state="failed")
    wait_until(lambda: ask(run)["state"] in ("success", "failed"), "the end of the DAG run", every_s=0.5)

    assert ask(run)["state"] == "failed"
    assert state("train_model") == ("failed" if moment == "running" else "skipped")
    assert (state("register_model"), state("close_run"), state("check_stages")) == ("skipped", "success", "failed")
    opened = ask(f"{run}/taskInstances/open_run/xcomEntries/run_id")["value"]
    closed = MlflowClient(mlflow).get_run(opened)
    assert closed.info.status == "FAILED"
    assert closed.data.tags["failure_reason"].startswith("train_model: ")


def test_down_stops_both(up):
    """This test is the last one, because the others need the servers that it stops."""
    clone, _ = up
    pids = [json.loads(path.read_text())["pid"] for path in clone.folder.glob(".run/*.json")]
    assert len(pids) == 2
    family = [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    down = clone.run("services.py", "down")
    assert down.stdout.splitlines() == ["Airflow: stopped", "MLflow: stopped"]
    assert not [process for process in family if process.is_running()]
    assert not list(clone.folder.glob(".run/*.json"))
