"""The command line: its options, its exit statuses, and one `error: …` line for every mistake."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import Gate
from tests.support.messages import assert_names
from transformer import stages
from transformer.cli import main
from transformer.config import valid_keys
from transformer.data.survey import Survey
from transformer.errors import ServiceError

REPOSITORY = Path(__file__).resolve().parents[2]
AT = ["--at", "2025-01-25T08:00"]
UNTRACKED = ["--set", "training.mlflow.use_mlflow=false"]
SECRET = "http://me:geheim@127.0.0.1:9"
COMMANDS = {  # what the help of each command names
    "fetch-files": ["event tables"],
    "compute-statistics-and-embeddings": ["statistics", "embeddings", "training dates"],
    "train-model": ["transformer"],
    "evaluate-model": ["best checkpoint", "test dates"],
    "register-model": ["run's model", "version", "challenger"],
    "tune": ["trials", "search.study_name"],
    "report-study": ["table", "figures", "best values", "search.study_name"],
    "promote": ["version", "registered model", "champion"],
    "rollback": ["previous champion"],
    "predict": ["delays", "every train", "instant"],
    "config": ["merged configuration", "value"],
    "simulate": ["sample data", "railway"],
    "import": ["files", "public source"],
    "import-infrabel": ["import infrabel"],
}
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove after each test the variables that the commands set for libraries; keep the help from wrapping."""
    before = dict(os.environ)
    monkeypatch.setenv("COLUMNS", "200")
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with `status` and one `error: …` line, and returns that line."""

    def run(arguments: Sequence[str | Path], status: int = 2) -> str:
        assert main([str(word) for word in arguments]) == status
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, err
        assert err.splitlines()[-1] == lines[0]
        assert "Traceback" not in err
        assert "geheim" not in out + err
        return lines[0].removeprefix("error: ")

    return run


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


# --- the command line stays as it is ---------------------------------------------------------------------------------
def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    listed = dict(re.findall(r"^    ([a-z-]+)\s+(.+)$", help_of([], capsys), re.MULTILINE))
    assert listed.keys() == COMMANDS.keys()
    for command, named in COMMANDS.items():
        assert_names(listed[command], *named)


STAGE = {"--env", "--set", "--run-id", "--result"}
IMPORT = {"--months", "--dates", "--to", "--from", "--missing", "--points", "--keep-zeros", "--route-types", "--result"}
DECISION = {"--env", "--set", "--result", "--why", "--by"}
SIMULATION = {
    *("--seed", "--start-date", "--service-dates", "--lines", "--points", "--journeys-per-day", "--weekend-share"),
    *("--delay-severity", "--headway-s", "--transfer-s", "--wait-limit-s", "--turn-round-s", "--resolution-s"),
    *("--missing-terminus-share", "--missing-share", "--silent-share", "--missing-first-stop-share"),
    *("--missing-position-share", "--timezone"),
}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("fetch-files", STAGE),
        ("compute-statistics-and-embeddings", STAGE),
        ("train-model", {*STAGE, "--warm-start-run-id", "--resume"}),
        (
            "evaluate-model",
            {*STAGE, "--from", "--to", "--last", "--again", "--if-new", "--allow-training-dates", "--request"},
        ),
        ("register-model", STAGE),
        ("promote", {*DECISION, "--version"}),
        ("rollback", DECISION),
        ("tune", {*STAGE, "--warm-start-run-id", "--worker"}),
        ("report-study", STAGE),
        (
            "predict",
            {
                *("--env", "--set", "--result", "--run-id", "--run-folder", "--at", "--ride", "--data", "--out"),
                "--transfer-minutes",
            },
        ),
        ("config", {"--env", "--set", "--result"}),
        ("simulate", {"--to", "--overwrite", "--rotations", "--result", *SIMULATION}),
        ("import", {*IMPORT, "--list"}),
        ("import-infrabel", IMPORT),
    ],
)
def test_options_of_each_command(command: str, options: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An option that is removed or renamed breaks deployed DAGs and pods: say so in the changelog."""
    shown = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", help_of([command], capsys), re.MULTILINE))
    assert shown == options | {"--help"}


def test_the_module_runs() -> None:
    done = python("-m", "transformer", "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


# --- config ----------------------------------------------------------------------------------------------------------
def test_config_prints_each_value_and_where_it_came_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFORMER_ENV", "prod")
    arguments = ["config", "--env", "dev", "--set", "training.max_epochs=7", "--set", "data.split.test=[2024-12-21]"]
    assert main([*arguments, "--result", str(tmp_path / "config.json")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    printed = {
        key: (json.loads(value), source)
        for key, value, source in re.findall(r"^([\w.]+): (.*?) +# (.+)$", out, re.MULTILINE)
    }
    assert list(printed) == valid_keys()
    assert printed["training.max_epochs"] == (7, "--set")
    assert printed["data.split.test"] == (["2024-12-21"], "--set")
    assert printed["data.bucket_name"] == ("train-delays-dev", "dev/data.yaml")
    assert printed["data.endpoint_url"] == (None, "base/data.yaml")
    assert printed["training.seed"] == (42, "schema default")
    result = json.loads((tmp_path / "config.json").read_text())
    assert result["config"]["training"]["max_epochs"] == 7
    assert result["sources"] == {key: source for key, (_, source) in printed.items()}


def test_config_takes_its_environment_from_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFORMER_ENV", "prod")
    assert main(["config"]) == 0
    assert '"train-delays-prod"' in capsys.readouterr().out


def test_config_tells_no_password(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["config", "--set", f"training.mlflow.tracking_uri={SECRET}", "--set", f"data.endpoint_url={SECRET}"]
    assert main([*arguments, "--result", str(tmp_path / "config.json")]) == 0
    shown = capsys.readouterr()
    for text in (shown.out, (tmp_path / "config.json").read_text()):
        assert text.count("http://***@127.0.0.1:9") == 2
        assert "geheim" not in text


def test_a_reader_that_has_seen_enough_is_no_mistake() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "transformer", "config"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (1, b"")


# --- exit status 2 ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["COMMAND", "`python -m transformer --help`"]),
        (["fetch"], ["invalid choice", "'fetch'"]),
        (["config", "--evn", "local"], ["unrecognized", "--evn local"]),
        (["fetch-files", "--run", "abc"], ["unrecognized", "--run abc"]),
        (["config", "--set"], ["--set", "expected one argument", "`python -m transformer config --help`"]),
        (["config", "--env", "lokal"], ["unknown environment", "'lokal'", "'local'"]),
        (["config", "--env", "base"], ["unknown environment", "'base'"]),
        (["train-model", "--set", "training.max_epoch=1"], ["training.max_epoch", "'training.max_epochs'"]),
        (["train-model", "--set", "training.max_epochs=many"], ["training.max_epochs", "many", "whole number"]),
        (["train-model", "--set", "training.max_epochs"], ["training.max_epochs", "key=value"]),
        (["train-model", "--set", "model.dropout=2"], ["model.dropout", "2", "[0, 1)"]),
        (["config", "--set", f"training.seed={SECRET}"], ["training.seed", "http://***@127.0.0.1:9", "whole number"]),
        (["config", "--set", f"{SECRET}"], ["key=value"]),
        (["config", SECRET], ["unrecognized", "http://***@127.0.0.1:9"]),
        (["train-model", "--run-id", "../../x"], ["--run-id", "'../../x'", "MLflow run id"]),
        (["tune", "--warm-start-run-id", "a/b"], ["--warm-start-run-id", "'a/b'", "MLflow run id"]),
        (["predict", "--run-id", "..", "--at", "now", "--out", "x.csv"], ["'..'", "MLflow run id"]),
        (["train-model", "--resume"], ["--resume", "--run-id"]),
        (["fetch-files", "--run-id", "abc", *UNTRACKED], ["training.mlflow.use_mlflow=false", "run ids"]),
        (["evaluate-model", "--last", "two"], ["--last", "int", "'two'"]),
        (["evaluate-model", "--last", "0", *UNTRACKED], ["--last 0", "above 0"]),
        (["evaluate-model", "--from", "2024-12-20", *UNTRACKED], ["--from", "--to"]),
        (["evaluate-model", "--again", *UNTRACKED], ["--again", "window", "--from and --to, or --last N"]),
        (["evaluate-model", "--allow-training-dates", *UNTRACKED], ["--allow-training-dates", "window", "--last N"]),
        (["evaluate-model", "--if-new", *UNTRACKED], ["--if-new", "window", "--last N"]),
        (["evaluate-model", "--request", "a", *UNTRACKED], ["--request a", "add --run-id"]),
        (["register-model", *UNTRACKED], ["register-model", "--run-id"]),
        (["promote", *UNTRACKED], ["use_mlflow=false", "model registry", "true"]),
        (["rollback", *UNTRACKED], ["use_mlflow=false", "model registry", "true"]),
        (["predict", "--at", "2024-12-21T08:00", "--out", "x.csv"], ["--run-id", "--run-folder"]),
        (["predict", "--run-id", "a", "--out", "x.csv"], ["--at", "--ride", "required"]),
        (["predict", "--run-id", "a", "--at", "x"], ["required", "--out"]),
        (["predict", "--run-id", "a", "--run-folder", "b", "--at", "x", "--out", "y.csv"], ["not allowed", "--run-id"]),
        (["predict", "--run-id", "a", "--at", "x", "--out", "y.xls"], ["--out y.xls", "'.xls'", ".csv"]),
        (["predict", "--run-id", "a", "--at", "x", "--out", "y.csv", *UNTRACKED], ["--at 'x'", "time"]),
        (["predict", "--run-id", "a", *AT, "--out", "y.csv", *UNTRACKED], ["use_mlflow=false", "run ids"]),
        (
            ["predict", "--run-folder", "none", *AT, "--out", "y.csv", "--transfer-minutes", "-1"],
            ["--transfer-minutes -1", "from 0 to 60"],
        ),
        (
            ["predict", "--run-folder", "none", "--ride", "x", "--out", "y.parquet", "--transfer-minutes", "5"],
            ["--transfer-minutes", "needs --at"],
        ),
        (
            ["predict", "--run-folder", "none", *AT, "--out", "y.csv"],
            ["best.ckpt", "does not exist", "train the model"],
        ),
        (["simulate", "--seed", "one"], ["--seed", "int", "'one'"]),
        (["simulate", "--lines", "0"], ["lines=0", "at least 1"]),
        (["import-infrabel", "--months", "2025-01"], ["--to is missing"]),
        (["import-infrabel", "--months", "2025-13", "--to", "x"], ["2025-13"]),
        (["import"], ["the source is missing", "ride", "--list"]),
        (["import", "rde", "--to", "x"], ["'rde'", "ride"]),
        (["import", "ride", "--to", "x"], ["--months or --dates is missing", "--from"]),
        (["import", "ride", "--from", ".", "--to", "x", "--keep-zeros"], ["ride has no option --keep-zeros"]),
        (
            ["import", "ride", "--months", "2025-01", "--dates", "2025-01-06"],
            ["--dates", "not allowed with", "--months"],
        ),
    ],
)
def test_a_mistake_is_one_line_and_exits_2(
    fails: Callable[..., str], arguments: list[str], expected: list[str]
) -> None:
    assert_names(fails(arguments), *expected)


def test_a_bad_variable_is_one_line(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMER_ENV", "lokal")
    assert_names(fails(["config"]), "environment", "'lokal'", "'local'")


NO_STAGE = (
    "report-study",
    "predict",
    "config",
    "simulate",
    "import",
    "import-infrabel",
    "promote",
    "rollback",
)  # read no event tables, or log into no run
STAGES = [command for command in COMMANDS if command not in NO_STAGE]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("evaluate-model", "register-model")])
def test_missing_data_are_one_line(fails: Callable[..., str], stage: str, tmp_path: Path) -> None:
    message = fails([stage, *UNTRACKED, "--set", f"data.local_folder={tmp_path / 'none'}"])
    assert_names(message, f"data.local_folder={tmp_path / 'none'}", "events/events_YYYY-MM-DD.parquet")


@pytest.mark.parametrize("table", ["events/events_2025-01-08.parquet", "op_nodes.parquet", "journeys.parquet"])
def test_a_truncated_table_is_one_line(
    fails: Callable[..., str], sample_folder: Path, tmp_path: Path, table: str
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(sample_folder, folder)
    content = (folder / table).read_bytes()
    (folder / table).write_bytes(content[: len(content) // 2])
    options = [*UNTRACKED, "--set", f"data.local_folder={folder}", "--set", f"paths.cache={tmp_path / 'cache'}"]
    stage = "compute-statistics-and-embeddings" if table == "journeys.parquet" else "fetch-files"
    assert_names(fails([stage, *options]), str(folder / table), "truncated or not Parquet")


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_mlflow_down_at_the_start_is_waited_for_two_minutes(
    fails: Callable[..., str], stage: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    message = fails([stage, "--run-id", "abc", "--set", f"training.mlflow.tracking_uri={SECRET}"], status=1)
    assert 120 <= sum(pauses) < 130
    assert max(pauses) < 7  # so a line of log is never older
    lines = [line for line in caplog.messages if line.startswith("waiting for MLflow at http://127.0.0.1:9 (")]
    assert len(lines) == len(pauses) and all("of 120 s): " in line and "Connection refused" in line for line in lines)
    assert_names(message, "MLflow at http://127.0.0.1:9 did not answer for 12", "Connection refused", "start it with")


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_an_unknown_run_is_one_line(fails: Callable[..., str], stage: str, mlflow_server: str) -> None:
    arguments = [stage, "--run-id", "0" * 32, "--set", f"training.mlflow.tracking_uri={mlflow_server}"]
    assert_names(fails(arguments), f"--run-id={'0' * 32!r}", "MLflow server", "copy the id")


@slow
def test_a_run_to_predict_with_must_exist(fails: Callable[..., str], mlflow_server: str) -> None:
    settings = ["--set", f"training.mlflow.tracking_uri={mlflow_server}"]
    message = fails(["predict", "--run-id", "none", "--at", "2024-12-21T08:00", "--out", "x.csv", *settings])
    assert_names(message, "--run-id='none'", "MLflow server", "copy the id")


@slow
def test_a_run_of_something_else_is_not_evaluated_and_stays_as_it_is(
    fails: Callable[..., str], mlflow_server: str
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_server)
    run_id = client.create_run("0").info.run_id
    client.set_terminated(run_id)
    message = fails(["evaluate-model", "--run-id", run_id, "--set", f"training.mlflow.tracking_uri={mlflow_server}"])
    assert_names(message, f"MLflow run {run_id}", "training", "config/config.yaml")
    assert client.get_run(run_id).info.status == "FINISHED"


@slow
def test_a_run_to_warm_start_from_must_exist(
    fails: Callable[..., str], sample_folder: Path, mlflow_server: str
) -> None:
    overrides = [f"training.mlflow.tracking_uri={mlflow_server}", f"data.local_folder={sample_folder}"]
    options = [word for override in overrides for word in ("--set", override)]
    assert_names(fails(["train-model", "--warm-start-run-id", "none", *options]), "'none'", "MLflow server")


# --- exit status 1 ---------------------------------------------------------------------------------------------------
@slow
def test_mlflow_that_vanishes_midway_exits_1(
    fails: Callable[..., str],
    mlflow_gate: Gate,
    sample_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
) -> None:
    from mlflow import MlflowClient

    run_id = MlflowClient(tracking_uri=mlflow_gate.url).create_run("0").info.run_id
    report = Survey.report

    def report_while_the_server_stops(*arguments: Any) -> Any:
        mlflow_gate.stop()
        return report(*arguments)

    monkeypatch.setattr(Survey, "report", report_while_the_server_stops)
    overrides = [f"training.mlflow.tracking_uri={mlflow_gate.url}", f"data.local_folder={sample_folder}"]
    options = [word for override in overrides for word in ("--set", override)]
    message = fails(["fetch-files", "--run-id", run_id, *options], status=1)
    assert message.startswith(f"MLflow at {mlflow_gate.url} did not answer for 12") and sum(pauses) >= 120


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ServiceError("S3 does not answer"), 1, "S3 does not answer"),
        (OSError(28, "No space left on device"), 1, "OSError: [Errno 28] No space left on device"),
        (MemoryError("too many trains"), 1, "MemoryError: too many trains"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError(f"two\nlines about {SECRET}"), 1, "RuntimeError: two lines about http://***@127.0.0.1:9"),
    ],
)
def test_anything_else_is_one_line_too(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, expected: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(stages, "fetch_files", fail)
    assert fails(["fetch-files"], status) == expected


def test_the_traceback_of_a_bug_tells_no_password() -> None:
    bug = f"raise RuntimeError('lost {SECRET}')"
    program = f"""
import sys
from transformer import cli, stages
def fetch_files(*_): {bug}
stages.fetch_files = fetch_files
sys.exit(cli.main(["fetch-files"]))
"""
    done = python("-c", program)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: RuntimeError: lost http://***@127.0.0.1:9"
    assert "geheim" not in done.stderr


# --- results ---------------------------------------------------------------------------------------------------------
def test_a_stage_writes_its_result(sample_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    options = [*UNTRACKED, "--set", f"data.local_folder={sample_folder}", "--result", str(path)]
    assert main(["fetch-files", *options]) == 0
    result = json.loads(path.read_text())
    assert result["folder"] == str(sample_folder)
    assert set(result["split"]) == {"train", "validation", "test"}
    assert result["quality"]["kept"] == result["quality"]["events"] > 0
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_failed_stage_writes_no_result(fails: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    fails(["fetch-files", *UNTRACKED, "--set", f"data.local_folder={tmp_path}", "--result", path])
    assert not path.exists()


def test_a_result_is_written_whole_or_not_at_all(
    fails: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "result.json"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    assert "No space left" in fails(["config", "--result", path], status=1)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_result_that_is_a_folder_is_one_line(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "Is a directory" in fails(["config", "--result", tmp_path], status=1)
