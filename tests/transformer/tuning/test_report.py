from __future__ import annotations

import csv
import json
import logging
import math
import shlex
from pathlib import Path

import optuna
import pytest
from matplotlib.image import imread
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from tests.support.messages import assert_names
from tests.transformer.tuning.example_studies import DEFAULTS, MIXED, add, fail, mixed_study, new_study
from transformer.config import flatten, load_config, to_dict
from transformer.errors import UserError
from transformer.tuning import report
from transformer.tuning.importances import importances_of
from transformer.tuning.report import write_study_report
from transformer.tuning.trials import StudyTrials

FIGURES = {"history", "parallel_coordinates", "importances", "slice", "intermediate_values"}


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pngs(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.png")}


def assert_drawn(path: Path) -> None:
    pixels = imread(path)
    height, width, _ = pixels.shape
    assert 200 <= height <= 4_000 and 500 <= width <= 6_000, path.name
    assert 0.005 < (pixels[..., :3] < 0.9).any(axis=-1).mean() < 0.5, f"{path.name} is nearly blank or all ink"


def block(text: str, first: str) -> list[str]:
    """Lines of the paragraph that begins with `first`."""
    return next(part for part in text.split("\n\n") if part.startswith(first)).splitlines()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, report.StudyReport]:
    folder = tmp_path_factory.mktemp("study") / "report"
    overrides = ["data.local_folder=data/x", "search.n_trials=29", "cfg.search.space=[]", " search.n_workers=1"]
    return folder, write_study_report(mixed_study(), folder, env="local", overrides=overrides)


def test_metrics_count_a_trial_that_was_run_again_once(written):
    _, result = written
    assert result.best_trial == 28
    shares = {name: value for name, value in result.metrics.items() if name.startswith("importance/")}
    assert {name: value for name, value in result.metrics.items() if name not in shares} == {
        "study/best_val_mae_s": 47.5,
        "study/best_skill": 1 - 47.5 / 80,
        "study/defaults_val_mae_s": 50.0,
        "study/trials": 28,
        "study/complete": 26,
        "study/pruned": 1,
        "study/failed": 1,
    }
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["importance/training.learning_rate"] > 0.6
    assert "importance/training.loss.ranked_weight" not in shares  # not every trial has it


def test_text_says_how_the_study_went(written):
    folder, result = written
    assert (folder / "report.txt").read_text() == result.text + "\n"
    assert block(result.text, "study") == [
        "study        delays",
        "trials       28: 26 complete, 1 pruned, 1 failed; 1 run again under another number",
        "training     26 min 12 s in all",
        "best         47.50 s in trial 28",
        "defaults     50.00 s in trial 0; gain 2.50 s (5.0%)",
        "translation  80.00 s; skill +40.6%",
    ]
    assert block(result.text, "parameter (trial)") == [
        "parameter (trial)            best (28)  defaults (0)",
        "----------------------------------------------------",
        "model.d_model                      128           128",
        "model.n_layers                       3             3",
        "model.use_inputs.calendar         true          true",
        "training.learning_rate           0.001         0.001",
        "training.loss.name               mixed           log",
        "training.loss.ranked_weight        120             -",
        "training.precision                auto          auto",
    ]
    importances = block(result.text, "parameter   ")
    assert importances[2].startswith("training.learning_rate")
    assert importances[-2:] == [
        "not judged, since not every trial has them: training.loss.ranked_weight",
        "from 26 complete trials",
    ]
    best = block(result.text, "trial  ")
    assert len(best) == 2 + report.BEST_SHOWN
    assert best[2].split() == ["28", "47.50", "s", "+40.6%", "10", "1", "min", "00", "s", "run-of-best"]


def test_command_is_one_line_that_a_shell_reads_back(written):
    folder, result = written
    _, airflow, make = block(result.text, "train with")
    words = shlex.split(airflow)
    assert words[:-1] == ["airflow", "dags", "trigger", "model_training", "--conf"]
    conf = json.loads(words[-1])
    assert conf == {"env": "local", "overrides": ["data.local_folder=data/x", *result.best_overrides]}
    assert shlex.split(make) == ["make", "train", "ENV=local", f"SET={' '.join(conf['overrides'])}"]
    best = json.loads((folder / "best.json").read_text())
    assert best == {"trial": 28, "value": 47.5, "values": MIXED, "conf": conf}


def test_overrides_read_back_as_the_values_of_the_trial(written):
    _, result = written
    read = flatten(to_dict(load_config("local", result.best_overrides)))
    assert {key: read[key] for key in MIXED} == MIXED


def test_steps_leave_no_noise_in_values(tmp_path):
    study = optuna.create_study()
    stepped = {"model.dropout": FloatDistribution(0.1, 0.5, step=0.1)}
    study.add_trial(optuna.create_trial(value=50.0, params={"model.dropout": 0.1 + 0.2}, distributions=stepped))
    result = write_study_report(study, tmp_path, env="local", overrides=[])
    assert result.best_overrides == ["model.dropout=0.3"]
    assert json.loads((tmp_path / "best.json").read_text())["values"] == {"model.dropout": 0.3}
    assert lines(tmp_path / "trials.csv")[0]["params"] == '{"model.dropout": 0.3}'
    assert "0.30000000000000004" not in result.text


def test_table_has_a_line_for_every_trial(written):
    folder, _ = written
    table = lines(folder / "trials.csv")
    assert [int(line["number"]) for line in table] == list(range(29))
    assert [line["state"] for line in table[24:]] == ["complete", "pruned", "failed", "retried", "complete"]
    assert table[25] | {"params": ""} == {
        "number": "25",
        "state": "pruned",
        "value": "66.0",
        "params": "",
        "epochs": "2",
        "seconds": "12.0",
        "mlflow_run_id": "",
        "failure": "",
    }
    assert json.loads(table[25]["params"]) == MIXED
    assert table[26]["failure"] == "model.d_model=128 does not fit http://***@gpu/ memory"
    assert (table[27]["value"], table[27]["failure"]) == ("", "")
    assert table[28]["mlflow_run_id"] == "run-of-best"


def test_every_figure_shows_something_and_nothing_else_is_left(written):
    folder, _ = written
    assert pngs(folder) == FIGURES
    for name in FIGURES:
        assert_drawn(folder / f"{name}.png")
    others = {path.name for path in folder.iterdir()} - {f"{name}.png" for name in FIGURES}
    assert others == {"report.html", "report.txt", "best.json", "trials.csv"}


def test_the_same_study_gives_the_same_files(written, tmp_path):
    folder, result = written
    again = write_study_report(mixed_study(), tmp_path, env="local", overrides=["data.local_folder=data/x"])
    assert again == result
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_defaults_that_are_the_best_are_said_to_be(tmp_path):
    study = new_study()
    add(study, 40.0, defaults=True)
    add(study, 50.0, MIXED)
    result = write_study_report(study, tmp_path, env="local", overrides=[])
    assert "defaults     are the best" in block(result.text, "study")
    assert block(result.text, "parameter (trial)")[0].split() == ["parameter", "(trial)", "best", "(0)"]
    assert result.metrics["study/defaults_val_mae_s"] == 40.0


def test_a_study_without_defaults_or_translation_says_nothing_of_them(tmp_path):
    study = new_study()
    fail(study, "out of memory")
    add(study, 50.0, DEFAULTS, val_translation_mae_s=None)
    add(study, 52.0, MIXED)
    result = write_study_report(study, tmp_path, env="local", overrides=[])
    assert [line.split()[0] for line in block(result.text, "study")] == ["study", "trials", "training", "best"]
    assert not {"study/defaults_val_mae_s", "study/best_skill"} & result.metrics.keys()


def test_one_complete_trial_is_enough_and_figures_left_out_say_why(tmp_path, caplog):
    (tmp_path / "importances.png").write_bytes(b"of an earlier report")
    study = new_study()
    add(study, 50.0)
    with caplog.at_level(logging.INFO):
        result = write_study_report(study, tmp_path, env="local", overrides=[])
    assert result.best_trial == 0
    assert pngs(tmp_path) == FIGURES - {"importances", "intermediate_values"}
    assert "importances.png is left out: only one trial completed" in caplog.messages
    assert "intermediate_values.png is left out: no trial has reported an epoch" in caplog.messages
    assert "importance: not known, only one trial completed" in result.text


def test_one_parameter_is_drawn_and_has_no_importance(tmp_path, caplog):
    study = new_study()
    for rate in (1e-4, 1e-3, 1e-2):
        add(study, 50.0 + rate, {"training.learning_rate": rate})
    with caplog.at_level(logging.INFO):
        result = write_study_report(study, tmp_path, env="local", overrides=[])
    assert pngs(tmp_path) == {"history", "parallel_coordinates", "slice"}
    for name in pngs(tmp_path):
        assert_drawn(tmp_path / f"{name}.png")
    reason = "fewer than two parameters were searched in every complete trial"
    assert f"importances.png is left out: {reason}" in caplog.messages
    assert result.best_overrides == ["training.learning_rate=0.0001"]


def test_trials_that_do_not_differ_have_no_importances():
    study = new_study()
    for _ in range(3):
        add(study, 50.0)
    found = importances_of(study, StudyTrials.of(study))
    assert (found.shares, found.missing) == ({}, "the complete trials do not differ")


def test_few_trials_give_a_hint_only():
    study = new_study()
    for k in range(4):
        add(study, 50.0 + k, DEFAULTS | {"model.n_layers": k + 1})
    trials = StudyTrials.of(study)
    found = importances_of(study, trials)
    assert next(iter(found.shares)) == "model.n_layers"
    assert_names(report._importance_lines(trials, found)[-1], "4 complete trials", "fewer than 20", "hint")


def test_values_that_are_no_numbers_break_nothing(tmp_path):
    study = new_study()
    add(study, 50.0, curve=(math.nan, 50.0))
    add(study, math.inf, MIXED, curve=(math.inf, math.nan), defaults=True)
    add(study, 51.0, MIXED, curve=(60.0, 51.0))
    add(study, None, state=TrialState.FAIL, curve=(math.nan,), failure="the loss is not a number")
    add(study, None, state=TrialState.PRUNED)
    result = write_study_report(study, tmp_path, env="local", overrides=[])
    assert pngs(tmp_path) == FIGURES
    assert "study/defaults_val_mae_s" not in result.metrics
    assert result.best_trial == 0


def test_trials_under_way_are_counted_and_not_drawn(tmp_path):
    study = new_study()
    add(study, 50.0)
    add(study, 51.0, MIXED)
    add(study, None, state=TrialState.RUNNING, curve=(70.0,))
    study.enqueue_trial(DEFAULTS)
    result = write_study_report(study, tmp_path, env="local", overrides=[])
    assert "trials       4: 2 complete, 1 running, 1 waiting" in result.text
    assert [line["state"] for line in lines(tmp_path / "trials.csv")] == ["complete", "complete", "running", "waiting"]


def test_credentials_stay_out_of_every_file(tmp_path):
    study = new_study()
    add(study, 50.0)
    overrides = ["training.mlflow.tracking_uri=http://me:secret@host:5000", "data.local_folder=it's here"]
    result = write_study_report(study, tmp_path, env="local", overrides=overrides)
    written = result.text + "".join(
        (tmp_path / name).read_text() for name in ("best.json", "report.txt", "report.html")
    )
    assert "secret" not in written
    assert "(*** stands for credentials, which are not shown)" in result.text
    commands = block(result.text, "train with")
    conf = json.loads(shlex.split(commands[1])[-1])
    assert conf["overrides"][:2] == ["training.mlflow.tracking_uri=http://***@host:5000", overrides[1]]
    assert not any("make train" in line for line in commands)  # make would split the second override


def test_study_of_which_no_trial_completed_is_refused(tmp_path):
    study = new_study("night trains")
    fail(study, "first reason")
    fail(study, "last reason")
    add(study, 60.0, state=TrialState.PRUNED, curve=(60.0,))
    with pytest.raises(UserError) as refusal:
        write_study_report(study, tmp_path / "report", env="local", overrides=[])
    message = str(refusal.value)
    assert_names(message, "'night trains'", "2 failed", "1 were pruned", "last reason", "search.study_name")
    assert not (tmp_path / "report").exists()


def test_study_without_an_ended_trial_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"0 failed, 0 were pruned; run more trials \(search\.n_trials\)"):
        write_study_report(new_study(), tmp_path, env="local", overrides=[])


def test_the_command_begins_with_the_weights_that_the_trials_began_with(tmp_path: Path):
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=100.0))
    study.set_user_attr("identity", {"warm_start_run_id": "0123abcd"})
    text = write_study_report(study, tmp_path, env="local", overrides=[]).text
    assert '"warm_start_run_id": "0123abcd"' in text
    assert "make train" not in text
