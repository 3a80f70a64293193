"""Runs on a real MLflow server: opening, reusing, resuming, closing, and keeping secrets."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.support.gate import Gate
from tests.support.messages import assert_names
from transformer.config import GROUPS, Config, load_config, valid_keys, with_values
from transformer.errors import DiskError, ServiceError, UnansweredError, UserError
from transformer.evaluation.outcome import Outcome
from transformer.tracking import runs
from transformer.tracking.client import mlflow_errors, public_address
from transformer.tracking.origin import process_user
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import close_run, configuration_hash, open_run, run_url

NOBODY = "http://me:geheim@127.0.0.1:9"  # the discard port: nothing listens there
UNTRACKED = "training.mlflow.use_mlflow=false"
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove after each test the variables that the module sets for MLflow's client."""
    before = dict(os.environ)
    monkeypatch.setenv("TRANSFORMER_GIT_COMMIT", "0123abcd")
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def config(mlflow_server: str) -> Config:
    return load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}"])


@pytest.fixture
def client(mlflow_server: str) -> MlflowClient:
    return MlflowClient(tracking_uri=mlflow_server)


@pytest.fixture
def secret_config(mlflow_server: str) -> Config:
    """The same server, with a user name and password in its address; the server asks for neither."""
    return load_config("local", [f"training.mlflow.tracking_uri={mlflow_server.replace('//', '//me:geheim@')}"])


def refusal(act: Callable[[], Any], kind: type[Exception] = UserError) -> str:
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "geheim" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def run_stage(run: RunLog, finishes: bool = False) -> None:
    with run.running_stage(finishes):
        pass


def artifact_text(client: MlflowClient, run: Run | str, path: str, folder: Path) -> str:
    run_id = run if isinstance(run, str) else run.info.run_id
    return Path(client.download_artifacts(run_id, path, str(folder))).read_text(encoding="utf-8")


# --- opening ---------------------------------------------------------------------------------------------------------
@slow
def test_a_new_run_tells_where_it_comes_from(
    config: Config, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFORMER_IMAGE", "registry/trains:1")
    tags = {"dag_id": "model_training", "airflow_run_id": "manual__1"}
    run_id = open_run(config, env="local", overrides=["training.seed=1", "a=b"], tags=tags)
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name.startswith("local 20")
    assert client.get_experiment(run.info.experiment_id).name == "train-delays"
    assert RunLog(config, run_id).get_json_tag("overrides") == ["training.seed=1", "a=b"]
    assert {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")} == {
        "env": "local",
        "overrides": run.data.tags["overrides"],
        "configuration_hash": configuration_hash(config),
        "git_commit": "0123abcd",
        "image": "registry/trains:1",
        **tags,
    }
    assert set(run.data.params) == set(valid_keys())
    assert run.data.params["training.max_epochs"] == "8"
    assert run.data.params["data.split.train"] == "[]"
    written = yaml.safe_load(artifact_text(client, run, "config/config.yaml", tmp_path))
    assert written["training"]["max_epochs"] == 8
    assert set(written) == set(GROUPS)


@slow
def test_a_run_shows_its_source_and_its_user(
    config: Config, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(run_id: str) -> tuple[str, ...]:
        tags = client.get_run(run_id).data.tags
        keys = ("mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "mlflow.user")
        return tuple(tags[key] for key in keys)

    monkeypatch.setenv("LOGNAME", "linus")
    by_hand = open_run(config, env="local")
    assert shown(by_hand) == ("python -m transformer", "LOCAL", "0123abcd", "linus")
    by_dag = open_run(config, env="local", tags={"dag_id": "model_training"}, user="ada")
    assert shown(by_dag) == ("model_training", "JOB", "0123abcd", "ada")
    assert shown(RunLog(config, by_dag).open_child(config, "trial 0", {}, {}).run_id) == shown(by_dag)
    monkeypatch.setenv("TRANSFORMER_GIT_COMMIT", "4567cdef")
    open_run(config, env="local", warm_start_run_id=by_dag, resume=True)
    assert shown(by_dag) == ("model_training", "JOB", "4567cdef", "ada")  # a person who resumes a run did not create it


def test_a_user_id_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 50000")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert process_user() == "unknown"


@slow
def test_an_experiment_is_one_of_model_training(client: MlflowClient, mlflow_server: str) -> None:
    """MLflow opens an experiment without a kind on its pages for GenAI until a training run is in it."""

    def kind_after_opening(name: str) -> str:
        overrides = [f"training.mlflow.tracking_uri={mlflow_server}", f"training.mlflow.experiment_name={name}"]
        open_run(load_config("local", overrides), env="local")
        return str(client.get_experiment_by_name(name).tags["mlflow.experimentKind"])

    client.create_experiment("of an earlier release")
    client.create_experiment("chosen by a person", tags={"mlflow.experimentKind": "regression"})
    assert kind_after_opening("new") == "custom_model_development"
    assert kind_after_opening("of an earlier release") == "custom_model_development"
    assert kind_after_opening("chosen by a person") == "regression"


@slow
def test_a_given_run_is_used_and_runs_again(config: Config, client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    client.set_tag(run_id, "mine", "stays")
    client.set_terminated(run_id, "FINISHED")
    assert open_run(config, env="dev", run_id=run_id) == run_id
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert (run.data.tags["mine"], run.data.tags["env"]) == ("stays", "dev")
    assert run.data.params["training.max_epochs"] == "8"


@slow
def test_opening_again_forgets_why_it_failed(config: Config, client: MlflowClient) -> None:
    run_id = open_run(config, env="local")
    for reopen in (
        lambda: open_run(config, env="local", run_id=run_id),
        lambda: open_run(config, env="local", warm_start_run_id=run_id, resume=True),
    ):
        close_run(config, run_id, "FAILED", "train_model: out of memory")
        run = client.get_run(run_id)
        assert (run.info.status, run.data.tags["failure_reason"]) == ("FAILED", "train_model: out of memory")
        reopen()
        run = client.get_run(run_id)
        assert run.info.status == "RUNNING"
        assert "failure_reason" not in run.data.tags


@slow
@pytest.mark.parametrize(
    ("before", "finishes", "fails", "after"),
    [
        (("FINISHED", ""), False, False, ("FINISHED", "")),
        (("FINISHED", ""), True, True, ("FINISHED", "")),
        (("FAILED", "fetch_files: no data"), False, False, ("FAILED", "fetch_files: no data")),
        (("FAILED", "train_model: out of memory"), True, False, ("FINISHED", "")),
        (("KILLED", "by hand"), True, True, ("KILLED", "by hand")),
        (("RUNNING", ""), True, False, ("RUNNING", "")),
        (("RUNNING", ""), True, True, ("RUNNING", "")),
    ],
)
def test_a_stage_leaves_a_run_that_had_ended_ended(
    config: Config, client: MlflowClient, before: tuple[str, str], finishes: bool, fails: bool, after: tuple[str, str]
) -> None:
    run_id = open_run(config, env="local")
    if before[0] != "RUNNING":
        close_run(config, run_id, *before)

    def found() -> tuple[str, str]:
        run = client.get_run(run_id)
        return run.info.status, run.data.tags.get("failure_reason", "")

    with suppress(KeyError), RunLog(config, run_id).running_stage(finishes):
        assert found() == ("RUNNING", "")
        if fails:
            raise KeyError
    assert found() == after


@slow
def test_a_server_that_has_gone_does_not_hide_why_a_stage_failed(
    mlflow_gate: Gate, caplog: pytest.LogCaptureFixture, pauses: list[float]
) -> None:
    config = load_config("local", [f"training.mlflow.tracking_uri={mlflow_gate.url}"])
    run_id = open_run(config, env="local")
    close_run(config, run_id)
    with pytest.raises(UserError, match="no data"), RunLog(config, run_id).running_stage(finishes=False):
        mlflow_gate.stop()
        raise UserError("no data")
    assert f"MLflow run {run_id} stays RUNNING: MLflow at " in caplog.text and sum(pauses) >= 120


@slow
def test_closing_as_finished_forgets_an_earlier_failure(config: Config, client: MlflowClient) -> None:
    run_id = open_run(config, env="local")
    close_run(config, run_id, "FAILED", "train_model: out of memory")
    close_run(config, run_id)
    run = client.get_run(run_id)
    assert (run.info.status, "failure_reason" in run.data.tags) == ("FINISHED", False)


@slow
def test_resuming_with_another_configuration_keeps_params_and_says_so(
    config: Config, client: MlflowClient, mlflow_server: str, tmp_path: Path
) -> None:
    run_id = open_run(config, env="local")
    override = "training.max_epochs=40"
    longer = load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}", override])
    assert open_run(longer, env="local", overrides=[override], warm_start_run_id=run_id, resume=True) == run_id
    run = client.get_run(run_id)
    assert run.data.params["training.max_epochs"] == "8"
    assert RunLog(config, run_id).get_json_tag("overrides") == ["training.max_epochs=40"]
    assert run.data.tags["configuration_hash"] == configuration_hash(longer) != configuration_hash(config)
    assert "warm_start_run_id" not in run.data.tags
    assert yaml.safe_load(artifact_text(client, run, "config/config.yaml", tmp_path))["training"]["max_epochs"] == 40


@slow
def test_a_warm_start_is_a_new_run_that_names_the_old(config: Config, client: MlflowClient) -> None:
    first = open_run(config, env="local")
    close_run(config, first)
    second = open_run(config, env="local", warm_start_run_id=first)
    assert second != first
    assert client.get_run(second).data.tags["warm_start_run_id"] == first
    assert client.get_run(first).info.status == "FINISHED"
    into = client.create_run("0").info.run_id
    assert open_run(config, env="local", run_id=into, warm_start_run_id=first) == into


@slow
@pytest.mark.parametrize("name", ["run_id", "warm_start_run_id"])
@pytest.mark.parametrize("run_id", ["0" * 32, "no such run", "ü/…"])
def test_an_unknown_run_is_one_line(config: Config, name: str, run_id: str) -> None:
    message = refusal(lambda: open_run(config, env="local", **{name: run_id}))  # type: ignore[arg-type]
    assert_names(message, f"{name}={run_id!r}", "MLflow server", "copy the id")


@slow
def test_a_deleted_run_is_one_line(config: Config, client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    client.delete_run(run_id)
    for act in (
        lambda: open_run(config, env="local", run_id=run_id),
        lambda: open_run(config, env="local", warm_start_run_id=run_id),
        lambda: run_stage(RunLog(config, run_id)),
    ):
        assert_names(refusal(act), run_id, "deleted", "restore it")


@slow
def test_a_deleted_experiment_is_one_line(client: MlflowClient, mlflow_server: str) -> None:
    client.delete_experiment(client.create_experiment("gone"))
    config = load_config(
        "local", [f"training.mlflow.tracking_uri={mlflow_server}", "training.mlflow.experiment_name=gone"]
    )
    message = refusal(lambda: open_run(config, env="local"))
    assert_names(message, "MLflow experiment 'gone'", "deleted", "restore it", "training.mlflow.experiment_name")


def test_resuming_needs_a_run_and_no_other() -> None:
    config = load_config("local")
    message = refusal(lambda: open_run(config, env="local", resume=True))
    assert_names(message, "resume_run=true", "warm_start_run_id")
    message = refusal(lambda: open_run(config, env="local", run_id="b", warm_start_run_id="a", resume=True))
    assert_names(message, "resume_run=true", "'a'", "run_id='b'", "leave run_id out")


@slow
def test_a_run_is_called_by_its_name_or_its_environment(config: Config, client: MlflowClient) -> None:
    names = [client.get_run(open_run(config, env="local", name=name)).info.run_name for name in ("study wide", "")]
    assert names[0].startswith("study wide 20") and names[1].startswith("local 20")


# --- closing and showing ---------------------------------------------------------------------------------------------
@slow
def test_closing(config: Config, client: MlflowClient) -> None:
    finished, failed = open_run(config, env="local"), open_run(config, env="local")
    close_run(config, finished)
    close_run(config, failed, "FAILED", reason="x" * 20_000)
    assert client.get_run(finished).info.status == "FINISHED"
    assert client.get_run(finished).info.end_time is not None
    assert "failure_reason" not in client.get_run(finished).data.tags
    assert client.get_run(failed).info.status == "FAILED"
    assert client.get_run(failed).data.tags["failure_reason"].startswith("xxx")


@slow
def test_closing_prints_no_password(secret_config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    run = RunLog(secret_config, open_run(secret_config, env="local"))
    run.open_child(secret_config, "trial 0", {}, {}).close("FINISHED")
    run.close("FINISHED")
    said = capfd.readouterr()
    assert said.out == ""
    assert "geheim" not in said.err


def test_closing_knows_three_ways_to_end() -> None:
    with pytest.raises(ValueError, match="SCHEDULED"):
        close_run(load_config("local"), "abc", "SCHEDULED")


# --- nested runs -----------------------------------------------------------------------------------------------------
@slow
def test_a_child_inherits_its_origin_and_has_its_own_params_and_configuration(
    config: Config, client: MlflowClient, tmp_path: Path
) -> None:
    parent = RunLog(config, open_run(config, env="local", tags={"dag_id": "tuning", "airflow_run_id": "manual"}))
    parent.set_tags({"best_trial": "3"})
    changed = with_values(config, {"model.n_layers": 1}, "trial 7")
    child = parent.open_child(changed, "trial 7", {"model.n_layers": 1}, {"trial": "7"})
    child.close("KILLED", "pruned after epoch 2")
    stored = client.get_run(child.run_id)
    assert stored.info.run_name == "trial 7"
    assert stored.info.experiment_id == client.get_run(parent.run_id).info.experiment_id
    assert stored.info.status == "KILLED"
    assert stored.data.params == {"model.n_layers": "1"}
    assert stored.data.tags["mlflow.parentRunId"] == parent.run_id
    assert {key: stored.data.tags[key] for key in ("env", "dag_id", "airflow_run_id", "git_commit", "trial")} == {
        "env": "local", "dag_id": "tuning", "airflow_run_id": "manual", "git_commit": "0123abcd", "trial": "7",
    }  # fmt: skip
    assert "best_trial" not in stored.data.tags
    assert stored.data.tags["failure_reason"] == "pruned after epoch 2"
    assert stored.data.tags["configuration_hash"] == configuration_hash(changed)
    assert "n_layers: 1" in artifact_text(client, child.run_id, "config/config.yaml", tmp_path)


@slow
def test_running_runs_are_found_by_their_tags(config: Config) -> None:
    parent = RunLog(config, open_run(config, env="local"))
    children = [
        parent.open_child(config, f"trial {n}", {}, {"trial": str(n), "study_id": "a" if n else "b"}) for n in range(3)
    ]
    children[1].close("FINISHED")
    found = parent.running({"study_id": "a"})
    assert list(found) == [children[2].run_id]
    assert found[children[2].run_id]["trial"] == "2"


@slow
def test_a_child_is_found_by_its_tags(config: Config, client: MlflowClient) -> None:
    parent, other = (RunLog(config, open_run(config, env="local")) for _ in range(2))
    assert parent.find_child({"window": "a"}) is None
    older, newer = (parent.open_child(config, "window a", {}, {"window": "a"}, inherits=()) for _ in range(2))
    other.open_child(config, "window a", {}, {"window": "a"})
    assert "env" not in client.get_run(newer.run_id).data.tags
    older.set_tags({"request/0": "x"})

    def found(tags: dict[str, str]) -> str:
        child = parent.find_child(tags)
        return child.run_id if child else ""

    assert found({"window": "a"}) == newer.run_id
    assert found({"window": "a", "request/0": ""}) == older.run_id
    assert found({"request/1": ""}) == ""
    client.delete_run(newer.run_id)
    assert found({"window": "a"}) == older.run_id
    assert RunLog(config, "").find_child({"window": "a"}) is None


@slow
def test_a_param_longer_than_the_server_takes_is_shortened(config: Config, client: MlflowClient) -> None:
    entry = {"key": "model.n_layers", "choices": list(range(1, 3_000))}
    long = load_config(
        "local", [f"training.mlflow.tracking_uri={config.training.mlflow.tracking_uri}", f"search.space=[{entry}]"]
    )
    params = client.get_run(open_run(long, env="local")).data.params
    assert len(params["search.space"]) == 6_000
    assert params["search.space"].endswith("…")


LONG = json.dumps({"train": [f"20{year}-01-{day:02d}" for year in range(10, 60) for day in range(1, 29)]})  # 19,000


@slow
@pytest.mark.parametrize("name", ["split", "request/0123456789abcdef", "evaluated/2024-12-20..2024-12-21", "ü b"])
def test_a_tag_of_any_length_is_read_back(config: Config, client: MlflowClient, name: str) -> None:
    """The server would cut it off after 8,000 characters, without an error."""
    run = RunLog(config, open_run(config, env="local"))
    for value in ("x" * 8_000, "x" * 8_001, LONG, LONG + " ", "é\n" * 5_000, "short"):
        run.set_tags({name: value})
        assert run.get_tag(name) == value
    run.set_tags({name: LONG})
    shown = client.get_run(run.run_id).data.tags[name]
    assert re.fullmatch(r'\{"train": \["2010-01-01", .{150,200}… \(in artifact tags/\S+\.txt\)', shown)


@slow
def test_a_child_inherits_a_long_tag_whole(config: Config, client: MlflowClient) -> None:
    parent = RunLog(config, open_run(config, env="local"))
    parent.set_tags({"split": LONG})
    child = parent.open_child(config, "trial 0", {}, {})
    client.delete_run(parent.run_id)
    assert child.get_tag("split") == LONG


@slow
def test_overrides_of_any_length_are_kept(config: Config) -> None:
    overrides = [f"search.study_name={'a' * 100}{n}" for n in range(100)]
    assert RunLog(config, open_run(config, env="local", overrides=overrides)).get_json_tag("overrides") == overrides


@slow
def test_a_json_value_is_an_artifact_that_its_tag_names_in_words(config: Config, client: MlflowClient) -> None:
    run = RunLog(config, open_run(config, env="local"))
    value = {"train": ["2025-01-06..2025-01-10"], "test": ["http://me:geheim@host", "é"]}
    run.set_json_tag("split", value, "train 2025-01-06..2025-01-10; test http://me:geheim@host")
    kept = {**value, "test": ["http://***@host", "é"]}
    assert run.get_json_tag("split") == kept
    shown = client.get_run(run.run_id).data.tags["split"]
    pattern = r"train 2025-01-06\.\.2025-01-10; test http://\*\*\*@host \(in artifact tags/split-\w{16}\.json\)"
    assert re.fullmatch(pattern, shown)
    child = run.open_child(config, "trial 0", {}, {})
    client.delete_run(run.run_id)
    assert child.get_json_tag("split") == kept
    assert client.get_run(child.run_id).data.tags["split"] == shown


@slow
def test_a_json_value_of_an_earlier_release_stands_in_its_tag(config: Config, client: MlflowClient) -> None:
    run = RunLog(config, open_run(config, env="local"))
    client.set_tag(run.run_id, "best_overrides", '["model.d_model=16"]')
    assert run.get_json_tag("best_overrides") == ["model.d_model=16"]
    earlier = '{"window": "test", "headline": "MAE 1.0 s", "decision": "promote", "reason": "better", "version": 3}'
    client.set_tag(run.run_id, "request/abc", earlier)
    outcome = Outcome.find(run, "abc")
    assert (outcome.headline, outcome.decision.promotes, outcome.decision.version) == ("MAE 1.0 s", True, 3)


@slow
def test_a_long_tag_without_its_artifact_is_one_line(config: Config, client: MlflowClient) -> None:
    run = RunLog(config, open_run(config, env="local"))
    run.set_tags({"split": LONG})
    for tag in ("train 2025-01-06 (in artifact tags/split-gone.txt)", "in artifact tags/split-gone.txt"):
        client.set_tag(run.run_id, "split", tag)
        assert_names(refusal(lambda: run.get_tag("split")), run.run_id, "'split'", "tags/split-gone.txt", "another run")


@slow
def test_a_long_tag_of_an_earlier_release_is_read_from_its_artifact(config: Config, client: MlflowClient) -> None:
    run = RunLog(config, open_run(config, env="local"))
    client.log_text(run.run_id, LONG, "tags/split-0123456789abcdef.txt")
    client.set_tag(run.run_id, "split", f"in artifact tags/split-0123456789abcdef.txt: {LONG[:200]}…")
    assert run.get_tag("split") == LONG
    assert run.open_child(config, "trial 0", {}, {}).get_tag("split") == LONG


@slow
def test_a_metric_name_of_any_length_is_logged_and_read_back(config: Config, client: MlflowClient) -> None:
    """The server would refuse the whole request."""
    run = RunLog(config, open_run(config, env="local"))
    names = ["m" * 250, "m" * 251, f"test/train_type/{'é' * 300}/mae_s", f"test/train_type/{'é' * 300}/rmse_s"]
    run.log_metrics(dict(zip(names, (1, 2, 3, 4), strict=True)))
    assert [run.get_metric(name) for name in names] == [1, 2, 3, 4]
    kept = client.get_run(run.run_id).data.metrics
    assert names[0] in kept and len(kept) == 4 and max(map(len, kept)) == 250


@slow
def test_the_address_of_a_run(config: Config, secret_config: Config, client: MlflowClient, mlflow_server: str) -> None:
    run_id = open_run(config, env="local")
    experiment = client.get_run(run_id).info.experiment_id
    expected = f"{mlflow_server}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"
    assert run_url(config, run_id) == run_url(secret_config, run_id) == expected
    assert run_url(config, "") == ""


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("https://me:geheim@mlflow.example.org/path/", "https://mlflow.example.org/path"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_the_public_address_of_the_server(uri: str, expected: str) -> None:
    assert public_address(load_config("local", [f"training.mlflow.tracking_uri={uri}"])) == expected


# --- logging ---------------------------------------------------------------------------------------------------------
@slow
def test_what_a_run_log_writes(config: Config, client: MlflowClient, tmp_path: Path) -> None:
    run_id = open_run(config, env="local")
    run = RunLog(config, run_id)
    run_stage(run)
    run.log_metrics({f"fine/{n}": n for n in range(1_500)})
    run.log_metrics({"val/mae_s": 100}, step=1)
    run.log_metrics({"val/mae_s": 90.5}, step=2)
    run.set_tags({"data_fingerprint": "f00"})
    stored = client.get_run(run_id).data
    assert (stored.metrics["fine/1499"], stored.metrics["val/mae_s"]) == (1499, 90.5)
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "val/mae_s")] == [(1, 100), (2, 90.5)]
    assert stored.tags["data_fingerprint"] == "f00"


@slow
def test_artifacts_come_back_as_they_went(config: Config, tmp_path: Path) -> None:
    run = RunLog(config, open_run(config, env="local"))
    content = os.urandom(3_000_000)
    (tmp_path / "up" / "figures").mkdir(parents=True)
    (tmp_path / "up" / "best.ckpt").write_bytes(content)
    (tmp_path / "up" / "figures" / "map.txt").write_text("map")
    run.log_artifact(tmp_path / "up" / "best.ckpt", "checkpoints")
    run.log_artifacts(tmp_path / "up", "evaluation")
    fetched = run.download("checkpoints/best.ckpt", tmp_path / "down" / "new")
    assert fetched == tmp_path / "down" / "new" / "checkpoints" / "best.ckpt"
    assert fetched.read_bytes() == content
    assert [path.name for path in (tmp_path / "down" / "new").iterdir()] == ["checkpoints"]
    assert run.download("evaluation/figures/map.txt", tmp_path / "down").read_text() == "map"
    # The next epoch's file takes the place of the last.
    (tmp_path / "up" / "best.ckpt").write_bytes(b"2")
    run.log_artifact(tmp_path / "up" / "best.ckpt", "checkpoints")
    assert run.download("checkpoints/best.ckpt", tmp_path / "down" / "new").read_bytes() == b"2"


@slow
def test_a_missing_artifact_or_run_is_one_line(config: Config, tmp_path: Path) -> None:
    run_id = open_run(config, env="local")
    for artifact in ("checkpoints/last.ckpt", "last.ckpt"):
        message = refusal(lambda artifact=artifact: RunLog(config, run_id).download(artifact, tmp_path))  # type: ignore[misc]
        assert_names(message, f"MLflow run {run_id}", f" {artifact};", "finish an epoch")
    assert_names(refusal(lambda: RunLog(config, "none").download("a/b", tmp_path)), "'none'", "MLflow server")
    assert_names(refusal(lambda: run_stage(RunLog(config, "none"))), "--run-id='none'", "MLflow server")


# --- without MLflow --------------------------------------------------------------------------------------------------
def test_without_mlflow_nothing_is_asked_of_a_server(tmp_path: Path) -> None:
    config = load_config("local", [UNTRACKED, f"training.mlflow.tracking_uri={NOBODY}"])
    assert open_run(config, env="local", tags={"dag_id": "x"}) == ""
    assert run_url(config, "") == ""
    close_run(config, "", "FAILED", "reason")
    run = RunLog(config, "")
    run_stage(run)
    run.log_metrics({"a": 1})
    run.set_tags({"a": "b"})
    run.log_artifact(tmp_path / "none", "x")
    run.log_artifacts(tmp_path, "x")
    run.close("FAILED", "reason")
    assert run.open_child(config, "trial 0", {}, {}).run_id == ""
    assert run.running({"study_id": "a"}) == {}
    with pytest.raises(ValueError, match="no run"):
        run.download("a", tmp_path)


def test_without_mlflow_there_are_no_runs() -> None:
    config = load_config("local", [UNTRACKED])
    for act in (
        lambda: open_run(config, env="local", run_id="a"),
        lambda: open_run(config, env="local", warm_start_run_id="a"),
        lambda: RunLog(config, "a"),
        lambda: close_run(config, "a"),
    ):
        assert_names(refusal(act), "training.mlflow.use_mlflow=false", "leave the run ids out", "true")


# --- a server that is not there --------------------------------------------------------------------------------------
@slow
def test_no_server_is_one_line_after_two_minutes(tmp_path: Path, pauses: list[float]) -> None:
    config = load_config("local", [f"training.mlflow.tracking_uri={NOBODY}"])
    for act in (
        lambda: open_run(config, env="local"),
        lambda: run_stage(RunLog(config, "a")),
        lambda: RunLog(config, "a").download("b", tmp_path),
    ):
        pauses.clear()
        message = refusal(act, UnansweredError)
        assert 120 <= sum(pauses) < 130
        assert_names(message, "MLflow at http://127.0.0.1:9 did not answer for 12", "Connection refused", "`make up`")
        assert_names(message, "correct training.mlflow.tracking_uri", "training.mlflow.use_mlflow=false")


@slow
def test_something_else_at_the_address_is_one_line(mlflow_server: str) -> None:
    config = load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}/elsewhere"])
    assert_names(refusal(lambda: open_run(config, env="local")), "no MLflow server", f"{mlflow_server}/elsewhere")


def test_an_address_mlflow_does_not_know_is_one_line() -> None:
    config = load_config("local", ["training.mlflow.tracking_uri=gopher://me:geheim@host"])
    assert_names(refusal(lambda: open_run(config, env="local")), "training.mlflow.tracking_uri=gopher://host ")


@slow
def test_a_server_that_goes_away_is_waited_for(mlflow_gate: Gate, tmp_path: Path, pauses: list[float]) -> None:
    uri = mlflow_gate.url.replace("//", "//me:geheim@")
    config = load_config("local", [f"training.mlflow.tracking_uri={uri}"])
    run = RunLog(config, open_run(config, env="local"))
    run_stage(run)
    mlflow_gate.stop()
    (tmp_path / "file").touch()
    for act in (
        lambda: run.log_metrics({"a": 1}),
        lambda: run.set_tags({"a": "b"}),
        lambda: run.log_artifact(tmp_path / "file", "x"),
        lambda: close_run(config, run.run_id),
        lambda: run_url(config, run.run_id),
    ):
        pauses.clear()
        began = time.perf_counter()
        assert refusal(act, UnansweredError).startswith(f"MLflow at {mlflow_gate.url} did not answer for 12")
        assert sum(pauses) + time.perf_counter() - began >= 120  # the requests themselves take time as well


@slow
def test_a_tag_that_a_person_changed_is_one_line(config: Config) -> None:
    run = RunLog(config, open_run(config, env="local"))
    assert run.get_json_tag("split") is None
    run.set_tags({"split": '{"train": []}'})
    assert run.get_json_tag("split") == {"train": []}
    run.set_tags({"split": '{"train": ["2024-', "evaluated/a": '{"windows": "a"}', "evaluated/b": "[]"})
    expected = (run.run_id, "does not hold what this program wrote", "restore its value")
    assert_names(refusal(lambda: run.get_json_tag("split")), "'split'", *expected)
    for window in ("a", "b"):
        assert_names(refusal(lambda window=window: Outcome.of_window(run, window)), f"'evaluated/{window}'", *expected)


# --- other faults ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [KeyError("content"), TypeError("unhashable"), OSError(errno.ENOSPC, "disk full")])
def test_our_own_error_is_not_blamed_on_the_server(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, mlflow_errors(load_config("local")):
        raise error
    assert caught.value is error


@slow
def test_whatever_the_client_raises_is_blamed_on_the_server(
    config: Config, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that the client calls may raise anything, for example when the answer is that of another program."""

    def get(*_: Any, **__: Any) -> None:
        raise KeyError("run")

    monkeypatch.setattr(requests.Session, "request", get)
    message = refusal(lambda: RunLog(config, "a").get_tag("b"), ServiceError)
    assert message == f"MLflow at {config.training.mlflow.tracking_uri}: 'run'"


@slow
def test_a_disk_that_fills_during_a_download_is_not_blamed_on_the_server(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunLog(config, open_run(config, env="local"))
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    run.log_artifact(tmp_path / "file", "x")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # the same error path as a full disk: EFBIG
    try:
        message = refusal(lambda: run.download("x/file", tmp_path / "down"), DiskError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_names(message, str(tmp_path / "down"), "cannot be written", "free space")
    assert not list((tmp_path / "down").iterdir())


# --- secrets ---------------------------------------------------------------------------------------------------------
@slow
def test_no_password_reaches_the_server_s_pages(
    secret_config: Config, config: Config, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = secret_config.training.mlflow.tracking_uri
    run_id = open_run(
        secret_config,
        env="local",
        overrides=[f"training.mlflow.tracking_uri={uri}", "a=1"],
        tags={"from": f"see {uri}"},
    )
    log = RunLog(secret_config, run_id)
    run_stage(log)
    log.set_tags({"address": uri})
    (tmp_path / "a.txt").write_text("artifact")
    log.log_artifact(tmp_path / "a.txt", "x")
    assert log.download("x/a.txt", tmp_path / "down").read_text() == "artifact"
    close_run(secret_config, run_id, "FAILED", f"cannot reach {uri}")
    run = client.get_run(run_id)
    address = uri.replace("me:geheim", "***")
    assert log.get_json_tag("overrides") == [f"training.mlflow.tracking_uri={address}", "a=1"]
    assert run.data.tags["failure_reason"] == f"cannot reach {address}"
    assert run.data.params["training.mlflow.tracking_uri"] == address
    text = artifact_text(client, run, "config/config.yaml", tmp_path)
    assert yaml.safe_load(text)["training"]["mlflow"]["tracking_uri"] == address
    for shown in (str(run.to_dictionary()), text, caplog.text):
        assert "geheim" not in shown


def test_another_password_is_not_another_configuration() -> None:
    one, other, elsewhere = (
        load_config("local", [f"training.mlflow.tracking_uri=http://{where}"])
        for where in ("me:geheim@host", "you:secret@host", "me:geheim@elsewhere")
    )
    assert configuration_hash(one) == configuration_hash(other) != configuration_hash(elsewhere)


# --- origin ----------------------------------------------------------------------------------------------------------
def test_the_commit_is_the_image_s_or_the_working_tree_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.git_commit() == "0123abcd"
    monkeypatch.delenv("TRANSFORMER_GIT_COMMIT")
    assert runs.git_commit() == "unknown" or len(runs.git_commit()) == 40
    monkeypatch.setenv("PATH", "")
    assert runs.git_commit() == "unknown"
