"""Every command of README.md and of the quick start runs here, or in the test that `ELSEWHERE` names."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from delay_pipeline.params import read_evaluation_params, read_params, read_tuning_params
from transformer.cli import main
from transformer.config import load_config
from transformer.tracking import run_log, runs

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/index.md", "CONTRIBUTING.md", "SECURITY.md")
READERS = {
    "model_training": read_params,
    "hyperparameter_tuning": read_tuning_params,
    "model_evaluation": read_evaluation_params,
}
BEGINS = r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:make|python|airflow|optuna-dashboard|mlflow|docker|kubectl|pip)\b"
# Commands that take too long to run twice, each with the test that runs it. Cheap checks of these commands run here.
ELSEWHERE = {
    r"make train": "tests/e2e/test_train.py::test_training_whole",
    r"make train DATA=.*": "tests/e2e/test_train.py::test_training_whole",
    r"(\w+=\d+ )*make up": "tests/e2e/test_up.py::test_up_serves_both",
    r"make down": "tests/e2e/test_up.py::test_down_stops_both",
    r"make tune": "tests/e2e/test_tune.py::test_a_study_whole_and_gone_on_with",
    r"make bench-accuracy( DATA=.*)?": "tests/benchmarks/accuracy/test_against_trees.py",
    r"make bench-ablation": "tests/benchmarks/accuracy/test_against_trees.py",
    r"make bench-stress": "tests/benchmarks/accuracy/test_stress.py",
    r"make bench": "tests/benchmarks/speed/test_training.py",
    r"make bench-scale": "tests/benchmarks/speed/test_scale.py::test_every_stage_is_measured_and_one_date_more",
    r"make (test|test-all|test-fast|lint)": ".ci/run",
    r"make test-(images|cluster)": ".ci/cluster.sh",
    r"make audit( SERVICE=osv)?": "tests/scripts/test_audit.py",
    r"make setup": ".ci/run",
    r"make lock": "tests/docs/test_commands.py::test_make_knows_the_target",  # the rest needs a package index
    r"python scripts/audit.py licences": "tests/scripts/test_audit.py",
    r"python -m pytest .*": "tests/docs/test_commands.py::test_pytest_finds_the_tests",
    r"make notebook": "tests/notebooks/test_explore_snapshot.py::executed",
    r"\. \.venv/bin/activate": "tests/docs/test_commands.py::test_the_environment_can_be_activated",
    r"make docs": "tests/docs/test_site.py::site",
    r"airflow dags trigger .*": "tests/docs/test_commands.py::test_a_dag_is_triggered",
    r"python -m transformer import .*": "tests/transformer/data/sources/test_conformance.py",
    r"make train SOURCE=.*": "tests/e2e/test_train.py::test_training_on_a_public_source",
    r"make bench-ride .*": "tests/benchmarks/accuracy/test_ride_core.py",
    r"python -m transformer (promote|rollback)": "tests/transformer/registry/test_versions.py",
}
# Cheap settings, on top of those that a command names.
SMALL = [
    *("data.snapshot.n_prev=5", "data.snapshot.n_foll=5", "data.grid.step_s=7200"),
    *("model.d_model=16", "model.n_heads=2", "model.n_layers=1", "model.d_feedforward=16", "model.n_members=1"),
    *("training.max_epochs=1", "training.snapshots_per_epoch=16", "training.accelerator=cpu", "search.n_trials=1"),
    "training.mlflow.tracking_uri=sqlite:///mlflow.db",
]
SMALL_RAILWAY = "--start-date 2025-01-22 --service-dates 4 --lines 2 --points 12 --journeys-per-day 30"


def commands(page: str) -> list[str]:
    """Return the commands of a page: lines of its code blocks, and code in its text."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shell = [line for block in blocks for line in block.splitlines() if not line.startswith("export ")]
    lines = re.findall(r"^    (?! )(.+)$", text, re.MULTILINE)
    inline = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", inline)]
    # In a shell block every line is a command. Elsewhere, a line is one if it begins like a command.
    found = [*shell, *(line for line in lines if re.match(BEGINS + r" \S", line))]
    return [re.sub(r"\s{2,}#.*", "", line).strip() for line in found]


def plain(command: str) -> str:
    return command.removeprefix(".venv/bin/")


def elsewhere(command: str) -> str:
    return next((test for pattern, test in ELSEWHERE.items() if re.fullmatch(pattern, plain(command))), "")


ALL = sorted({command for page in PAGES for command in commands(page)})


def test_commands_are_found() -> None:
    assert {"make train", "MLFLOW_PORT=5001 AIRFLOW_PORT=8081 make up", "make help"} <= set(ALL)
    assert {"python -m transformer config --env local", "make train DATA=path/to/folder"} <= set(ALL)


@pytest.mark.parametrize("command", ALL)
def test_a_command_is_run_here_or_by_a_test(command: str) -> None:
    if plain(command).startswith("python -m transformer") and not elsewhere(command):
        name = plain(command).split()[3]
        assert name in ORDER, f"{command!r}: put {name} into ORDER, or the test that runs it into ELSEWHERE"
    elif command != "make help":  # run below
        test = elsewhere(command)
        assert test, f"{command!r} is run by no test"
        path, _, name = test.partition("::")
        assert f"def {name}(" in (REPOSITORY / path).read_text(encoding="utf-8") or not name


def test_the_environment_can_be_activated() -> None:
    made = subprocess.run(
        [*["env", "-i", "bash", "-c"], ". .venv/bin/activate && command -v python"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(made.stdout.strip()).resolve() == Path(sys.executable).resolve()


@pytest.mark.parametrize("command", [command for command in ALL if re.search(r"\bmake ", command)])
def test_make_knows_the_target(command: str) -> None:
    words = shlex.split(command)
    at = words.index("make")
    made = subprocess.run(
        ["env", *words[:at], "make", "--dry-run", "--assume-old=.venv/.installed", *words[at + 1 :]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    script = re.search(r"scripts/\w+\.py|benchmarks/[\w/]+\.py", made.stdout)
    assert script is None or (REPOSITORY / script[0]).is_file()
    assert [word for word in words[at + 2 :] if word.split("=", 1)[1] not in made.stdout] == []


def test_make_help_names_every_target_of_the_pages() -> None:
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    targets = {match[1] for command in ALL if (match := re.search(r"\bmake ([\w-]+)", command))}
    assert {target for target in targets if f"  {target} " not in shown} == set()


TESTED = [command for command in ALL if plain(command).startswith("python -m pytest")]


@pytest.mark.parametrize("command", TESTED)
def test_pytest_finds_the_tests(command: str) -> None:
    words = [sys.executable, *shlex.split(plain(command))[1:], "--collect-only", "--quiet", "--no-header"]
    done = subprocess.run(words, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


TRIGGERS = [command for command in ALL if plain(command).startswith("airflow dags trigger")]


@pytest.mark.parametrize("command", TRIGGERS)
def test_a_conf_is_understood(command: str) -> None:
    words = shlex.split(command)
    conf = json.loads(words[words.index("--conf") + 1])
    request = READERS[words[3]](conf, {})
    assert load_config(request.env, request.overrides)


@pytest.mark.slow
@pytest.mark.usefixtures("airflow_database")
def test_a_dag_is_triggered() -> None:
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "dags", "reserialize"], check=True, capture_output=True)
    triggered = {" ".join(shlex.split(plain(command))): shlex.split(command)[1:] for command in TRIGGERS}
    assert triggered
    for command, words in triggered.items():
        done = subprocess.run([*airflow, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "queued" in done.stdout


# The commands that are run, in the order that each needs.
ORDER = (
    *("simulate", "config", "fetch-files", "compute-statistics-and-embeddings", "train-model", "evaluate-model"),
    *("predict", "tune", "report-study"),
)


@pytest.mark.slow
def test_the_commands_of_the_stages_do_what_the_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRANSFORMER_ENV", raising=False)
    here = [plain(c) for c in ALL if plain(c).startswith("python -m transformer") and not elsewhere(c)]
    parsed = sorted({c for c in here if "--help" not in c}, key=lambda c: (ORDER.index(c.split()[3]), "RUN" in c, c))
    assert {command.split()[3] for command in parsed} == set(ORDER)
    config = load_config("local", SMALL)
    run = runs.open_run(config, env="local", overrides=SMALL)

    def execute(command: str, more: list[str]) -> None:
        arguments = [run if word == "RUN" else word for word in shlex.split(command)[3:]]
        status = main([*arguments, *more])
        assert status == 0, f"{command}\n{capsys.readouterr().err}"

    small = [part for value in SMALL for part in ("--set", value)]
    for command in parsed:
        name = command.split()[3]
        if name == "train-model" and "--run-id" not in command:
            execute(command, [*small, "--run-id", run])  # the run that later commands name
        execute(command, SMALL_RAILWAY.split() if name == "simulate" else small)
        if name == "train-model":
            runs.close_run(config, run)

    assert "training.max_epochs: 1 " in capsys.readouterr().out
    assert (tmp_path / "delays.csv").read_text(encoding="utf-8").startswith("train_id,")
    assert run_log.RunLog(config, run).find_child({"window": "2025-01-25..2025-01-25"}).get_tag("outcome")


@pytest.mark.parametrize("command", [command for command in ALL if "--help" in command])
def test_help_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(plain(command))[3:])
    assert ended.value.code == 0
    assert "--to FOLDER" in capsys.readouterr().out
