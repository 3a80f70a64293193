"""The commands that evaluate a model again."""

import shlex
from datetime import date

from transformer.cli import _parser
from transformer.evaluation.report.provenance import reproducing_commands

DAYS = (date(2024, 12, 20), date(2024, 12, 21))
OVERRIDES = ["training.max_epochs=5", "data.local_folder=/a folder/$HOME"]


def test_a_run_of_mlflow_is_evaluated_once_more():
    assert reproducing_commands("0123abcd", "prod", OVERRIDES, "6c2ee8a9", None) == [
        "git checkout 0123abcd",
        "python -m transformer evaluate-model --env prod --set training.max_epochs=5 "
        "--set 'data.local_folder=/a folder/$HOME' --run-id 6c2ee8a9",
    ]


def test_a_window_is_named_by_its_dates():
    [_, evaluate] = reproducing_commands("0123abcd", "local", [], "6c2ee8a9", DAYS, allow_training_dates=True)
    assert evaluate.endswith(
        "--env local --run-id 6c2ee8a9 --from 2024-12-20 --to 2024-12-21 --again --allow-training-dates"
    )
    assert "--allow" not in reproducing_commands("0123abcd", "local", [], "6c2ee8a9", DAYS)[-1]


def test_without_a_run_the_model_is_trained_first():
    assert reproducing_commands("unknown", "local", OVERRIDES[:1], "", None) == [
        "python -m transformer train-model --env local --set training.max_epochs=5",
        "python -m transformer evaluate-model --env local --set training.max_epochs=5",
    ]


def test_the_commands_are_those_of_the_command_line():
    for command in reproducing_commands("unknown", "local", OVERRIDES, "", DAYS, allow_training_dates=True):
        options = _parser().parse_args(shlex.split(command)[3:])
        assert options.overrides == OVERRIDES
    assert (options.first, options.last) == ("2024-12-20", "2024-12-21")


def test_no_password_is_written_down():
    address = "training.mlflow.tracking_uri=http://me:geheim@mlflow.example.org"
    [command] = reproducing_commands("unknown", "prod", [address], "6c2ee8a9", None)
    assert "geheim" not in command and "***@mlflow.example.org" in command
