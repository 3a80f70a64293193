"""The page of a study: what was gained, the best values, the trials; it fits from a phone to a wall, and on paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.support.pages import Page, assert_fits, assert_safe, chromium
from tests.transformer.tuning.example_studies import DEFAULTS, MIXED, add, fail, mixed_study, new_study
from transformer.tuning.report import write_study_report


def written(study, folder: Path) -> Page:
    write_study_report(study, folder, env="local", overrides=[])
    page = Page(folder / "report.html")
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every figure and table."""
    folder = tmp_path_factory.mktemp("study")
    write_study_report(mixed_study(), folder, env="local", overrides=["data.local_folder=data/x"])
    return folder / "report.html"


def test_every_figure_and_table_is_there(mixed: Path) -> None:
    page = Page(mixed)
    assert len(page.all("img")) == 5
    assert all(image["alt"] for image in page.all("img"))
    assert set(page.tables) == {
        "Values of the best trial",
        "Importance of each parameter",
        "Complete trials, best first",
        "Failed trials, the latest",
    }
    assert page.tables["Complete trials, best first"][1][:2] == ["28", "47.50 s"]
    assert "airflow dags trigger model_training --conf" in page.text
    assert_safe(page)


def test_the_lead_says_what_was_gained(tmp_path: Path) -> None:
    study = new_study("night trains")
    add(study, 50.0, MIXED)
    add(study, 40.0, DEFAULTS | {"model.n_layers": 1})
    add(study, 45.0, defaults=True)
    page = written(study, tmp_path)
    assert "Study night trains" in page.text
    lead = "Trial 1 is the best of 3, with a validation MAE of 40.00 s (skill +50.0%), 11.1% better than the defaults; "
    assert lead in page.text
    assert "matters most" in page.text and "fewer than 20 are only a hint" in page.text


def test_the_lead_of_a_single_trial_with_the_defaults(tmp_path: Path) -> None:
    study = new_study()
    add(study, 40.0, defaults=True, val_translation_mae_s=None)
    page = written(study, tmp_path)
    lead = "Trial 0 is the best of 1, with a validation MAE of 40.00 s, and has the values of the defaults."
    assert lead in page.text
    assert "Importance" not in page.text


def test_a_long_study_lists_its_best_trials_and_latest_failures(tmp_path: Path) -> None:
    study = new_study()
    for k in range(60):
        add(study, 50.0 + k)
        fail(study, f"failure {k}")
    add(study, None, state=TrialState.PRUNED)
    page = written(study, tmp_path)
    assert len(page.tables["Complete trials, best first"]) == 1 + 50
    assert "The best 50 of 60 complete trials; trials.csv has all." in page.text
    assert [line[1] for line in page.tables["Failed trials, the latest"][1:]] == [f"failure {k}" for k in range(50, 60)]


@pytest.mark.slow
def test_it_fits_everywhere(mixed: Path) -> None:
    with chromium() as browser:
        assert_fits(browser, mixed)
