"""Stages: one after the other from event tables to an evaluated model, each with a JSON-able result."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer import stages
from transformer.cli import main
from transformer.config import Config, flatten, load_config, to_dict, with_values
from transformer.errors import UserError
from transformer.evaluation.evaluate import EvaluationRequest
from transformer.evaluation.measures import Measures
from transformer.evaluation.outcome import Outcome
from transformer.evaluation.window import Window
from transformer.prediction.rows import evaluation_rows
from transformer.tracking.names import artifact_page, run_page
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import close_run, configuration_hash, open_run
from transformer.training.checkpoints import BEST
from transformer.training.run_folder import TrainedModel


@pytest.fixture(scope="module")
def results(small_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, dict]]:
    config = load_config("local", [*small_overrides, f"paths.runs={tmp_path_factory.mktemp('runs')}"])
    steps = (stages.fetch_files, stages.compute_statistics_and_embeddings, stages.train_model, stages.evaluate_model)
    return config, {step.__name__: step(config, "") for step in steps}


def test_each_stage_returns_json_and_what_it_did(results):
    _, by_stage = results
    json.dumps(by_stage, allow_nan=False)
    assert by_stage["fetch_files"]["split"] == {
        "train": [f"2025-01-{day:02d}" for day in range(6, 12)], "validation": ["2025-01-12"], "test": ["2025-01-13"],
    }  # fmt: skip
    assert by_stage["fetch_files"]["quality"]["kept"] == by_stage["fetch_files"]["quality"]["events"] > 5_000
    assert by_stage["compute_statistics_and_embeddings"]["embedding_dimension"] == 16 + 3
    assert by_stage["train_model"]["epochs"] == 3
    metrics = by_stage["evaluate_model"]["metrics"]
    assert metrics["test/n"] > 100
    assert metrics["test/skill"] == pytest.approx(1 - metrics["test/mae_s"] / metrics["test/translation_mae_s"])
    assert metrics["test/crps_skill"] == pytest.approx(1 - metrics["test/crps_s"] / metrics["test/translation_mae_s"])
    assert 0 < metrics["test/coverage_50"] < metrics["test/coverage_90"] <= 1


@pytest.mark.slow
def test_folders_may_have_any_name(small_overrides: list[str], sample_folder: Path, tmp_path: Path):
    """Brackets, stars and question marks are patterns to some readers, and `#`, `%` and `?` end an address."""
    odd = tmp_path / "railway [2025] *?#%20 é"
    shutil.copytree(sample_folder, odd / "data")
    own = {"data.local_folder": odd / "data", "paths.cache": odd / "cache", "paths.runs": odd / "runs"}
    values = {key: str(path) for key, path in own.items()} | {"training.max_epochs": 1}
    config = with_values(load_config("local", small_overrides), values, "test")
    for _ in range(2):  # the second time, from the cache
        for step in (stages.fetch_files, stages.compute_statistics_and_embeddings):
            step(config, "")
    stages.train_model(config, "")
    assert stages.evaluate_model(config, "")["metrics"]["test/n"] > 100
    folder = stages.run_folder(config, "")
    assert stages.predict(config, folder, "2025-01-13T08:00", odd / "out.csv")["trains"] > 0
    assert pl.read_csv(odd / "out.csv", glob=False).height > 0


@pytest.mark.usefixtures("undrawn_figures")
def test_evaluating_again_gives_the_same_figures(results):
    config, by_stage = results
    assert stages.evaluate_model(config, "")["metrics"] == by_stage["evaluate_model"]["metrics"]


def test_evaluation_has_the_figures_of_rows_in_memory_and_leaves_no_rows(results):
    config, by_stage = results
    folder = stages.run_folder(config, "")
    trained = TrainedModel.load(folder)
    rows = pl.concat(evaluation_rows(trained, trained.located(config), trained.split.test))
    in_memory = Measures.of(rows, config.data.timezone).metrics("test")
    assert in_memory.items() <= metrics_of(by_stage).items()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_evaluation_leaves_figures_and_tables(results):
    _, by_stage = results
    folder = Path(by_stage["evaluate_model"]["folder"])
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"error_map", "error_by_horizon", "predicted_vs_observed", "training_curves"} <= figures
    assert {"quantile_reliability", "coverage_by_horizon", "width_by_horizon"} <= figures
    assert any(name.startswith("error_timeline") for name in figures)
    tables = {path.stem for path in (folder / "tables").glob("*.json")}
    assert {"summary", "horizon", "delay_change", "train_type", "rank", "op_id", "service_date", "hour"} <= tables
    assert {"uncertainty", "quantiles", "uncertainty_horizon", "uncertainty_point_group"} <= tables


def test_evaluation_leaves_a_report_that_opens_alone(results):
    config, by_stage = results
    result = by_stage["evaluate_model"]
    report = Path(result["report"])
    assert report == Path(result["folder"]) / "report.html" and result["report_url"] == ""
    page = report.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") > 8
    assert "Evaluation 2025-01-13" in page and "= events kept" in page and "Against the training dates" in page
    assert configuration_hash(config) in page and "2025-01-06 to 2025-01-11" in page
    assert "python -m transformer train-model --env local\npython -m transformer evaluate-model --env local" in page


def test_drift_is_measured_against_the_training_dates(results):
    metrics = metrics_of(results[1])
    assert metrics["test/drift/unknown_share"] == 0
    assert 0 < metrics["test/drift/change_psi"] < metrics["test/drift/delay_psi"] < 1  # of so few trains not near 0
    assert metrics["test/drift/planned_events"] > metrics["test/drift/observed_events"] > 100


@pytest.mark.usefixtures("undrawn_figures")
def test_validation_figures_are_those_of_the_evaluation(results):
    """Train-then-evaluate gives the same metric: evaluate the best checkpoint on the validation date."""
    config, by_stage = results
    day = by_stage["fetch_files"]["split"]["validation"][0]
    found = stages.evaluate_model(
        config, "", EvaluationRequest(Window.parse(day, day, None), allow_training_dates=True)
    )
    mae = found["metrics"]["window/mae_s"]
    assert mae == pytest.approx(by_stage["train_model"]["best_val_mae_s"], rel=1e-5)


def test_second_computation_is_reused_and_says_so(results, caplog: pytest.LogCaptureFixture):
    config, _ = results
    with caplog.at_level("INFO"):
        stages.compute_statistics_and_embeddings(config, "")
    assert "statistics: reused from" in caplog.text and "embeddings: reused from" in caplog.text
    caplog.clear()
    afresh = {"training.use_precomputed.statistics": False, "training.use_precomputed.embeddings": False}
    with caplog.at_level("INFO"):
        stages.compute_statistics_and_embeddings(with_values(config, afresh, "test"), "")
    assert "statistics: computing" in caplog.text and "embeddings: computing" in caplog.text


def test_evaluating_without_a_training_says_so(small_overrides: list[str], tmp_path: Path):
    config = load_config("local", [*small_overrides, f"paths.runs={tmp_path}"])
    with pytest.raises(UserError) as caught:
        stages.evaluate_model(config, "")
    assert_names(caught.value, f"{tmp_path}/", "does not exist", "train")


@pytest.fixture
def copied(results, small_overrides: list[str], tmp_path: Path) -> Config:
    """The configuration of another machine, which has copies of the run folder and of the test date alone."""
    config, by_stage = results
    [day] = by_stage["fetch_files"]["split"]["test"]
    source, folder = Path(config.data.local_folder), tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    for name in ("op_nodes.parquet", "journeys.parquet", f"events/events_{day}.parquet"):
        shutil.copy(source / name, folder / name)
    here = [f"data.local_folder={folder}", f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache"]
    other = load_config("local", [*small_overrides, *here])
    shutil.copytree(stages.run_folder(config, ""), stages.run_folder(other, ""))
    return other


@pytest.mark.usefixtures("undrawn_figures")
def test_an_evaluation_needs_the_run_and_its_dates_alone(results, copied: Config):
    """Without cache and training data, the figures are the same to the last digit."""
    found = stages.evaluate_model(copied, "")
    assert found["metrics"] == results[1]["evaluate_model"]["metrics"]
    assert {path.name for path in Path(copied.paths.cache).iterdir()} == {"tables"}


@pytest.mark.usefixtures("undrawn_figures")
def test_settings_of_today_make_no_other_model(results, copied: Config, caplog: pytest.LogCaptureFixture):
    changed = with_values(copied, {"data.snapshot.n_prev": 2, "data.split.train": ["2030-01-01"]}, "test")
    shutil.copytree(stages.run_folder(copied, ""), stages.run_folder(changed, ""))
    with caplog.at_level("INFO"):
        found = stages.evaluate_model(changed, "")
    assert found["metrics"] == results[1]["evaluate_model"]["metrics"]
    assert "data.snapshot.n_prev=5 (given: 2)" in caplog.text


@pytest.mark.usefixtures("undrawn_figures")
def test_drifted_events_are_warned_of(results, copied: Config, caplog: pytest.LogCaptureFixture):
    """The trains of the same date are half an hour later and seldom observed."""
    path = next((Path(copied.data.local_folder) / "events").iterdir())
    seldom = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("observed_ts") + pl.duration(minutes=30))
    pl.read_parquet(path).with_columns(observed_ts=seldom).write_parquet(path)
    with caplog.at_level("WARNING"):
        found = stages.evaluate_model(copied, "")
    usual = metrics_of(results[1])
    assert found["metrics"]["test/drift/delay_psi"] > 3 * usual["test/drift/delay_psi"]
    assert found["metrics"]["test/drift/observed_share"] == pytest.approx(
        usual["test/drift/observed_share"] / 2, rel=0.02
    )
    assert "drift: delays: PSI" in caplog.text and "drift: observed events" in caplog.text
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "Read the result with care" in page and "delays: PSI" in page and "on the training dates" in page


@pytest.mark.usefixtures("undrawn_figures")
def test_a_run_of_an_older_training_is_evaluated_without_drift(results, copied: Config):
    (stages.run_folder(copied, "") / "inputs" / "reference.json").unlink()
    found = stages.evaluate_model(copied, "")
    expected = {name: value for name, value in metrics_of(results[1]).items() if "/drift/" not in name}
    assert found["metrics"] == expected
    assert "Against the training dates" not in Path(found["report"]).read_text(encoding="utf-8")


# --- windows ---------------------------------------------------------------------------------------------------------
TEST_DAY = "2025-01-13..2025-01-13"


@pytest.mark.usefixtures("undrawn_figures")
def test_a_window_has_results_of_its_own(results):
    config, by_stage = results
    found = stages.evaluate_model(config, "", EvaluationRequest(Window(count=1)))
    assert found["dates"] == ["2025-01-13"]
    expected = {name.replace("test/", "window/", 1): value for name, value in metrics_of(by_stage).items()}
    assert found["metrics"] == expected
    assert Path(found["folder"]) == stages.run_folder(config, "") / "windows" / TEST_DAY
    assert not list((stages.run_folder(config, "") / "evaluation").rglob("*windows*"))
    with pytest.raises(UserError) as caught:
        stages.evaluate_model(config, "", EvaluationRequest(Window.parse("2025-01-13", "2025-01-14", None)))
    assert_names(caught.value, TEST_DAY, "--again")
    assert stages.evaluate_model(config, "", EvaluationRequest(Window(count=1), again=True))["metrics"] == expected


def metrics_of(by_stage: dict[str, dict]) -> dict[str, float]:
    return by_stage["evaluate_model"]["metrics"]


@pytest.mark.usefixtures("undrawn_figures")
def test_the_last_dates_must_be_fresh_where_a_limit_says_so(results, caplog: pytest.LogCaptureFixture):
    config, _ = results

    def limited(seconds: int) -> Config:
        changed = with_values(config, {"evaluation.freshness.max_age_s": seconds}, "test")
        shutil.copytree(stages.run_folder(config, ""), stages.run_folder(changed, ""), dirs_exist_ok=True)
        return changed

    stale = (
        r"newest observation .*\d+ d( \d+ h)? old .*2025-01-1[34] .* CET.*limit 1 d; "
        r".*newer data .*evaluation\.freshness\.max_age_s"
    )
    for again in (True, False):  # with and without a new evaluation
        with pytest.raises(UserError, match=stale):
            stages.evaluate_model(limited(86_400), "", EvaluationRequest(Window(count=1), again=again))
    old = Window.parse("2025-01-13", "2025-01-13", None)
    named = stages.evaluate_model(limited(86_400), "", EvaluationRequest(old, again=True))
    with caplog.at_level("INFO"):
        fresh = stages.evaluate_model(limited(2**31 - 1), "", EvaluationRequest(Window(count=1), again=True))
    assert fresh["metrics"] == named["metrics"]
    assert "freshness: the newest observation is" in caplog.text
    assert "newest observation" in Path(fresh["report"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("window", "parts"),
    [
        (
            Window.parse("2025-01-11", "2025-01-13", None),
            ["2025-01-11..2025-01-13", "trained or validated", "2025-01-11..2025-01-12; ", "--allow-training-dates"],
        ),
        (
            Window.parse("2025-01-06", "2025-01-06", None),
            ["2025-01-06..2025-01-06", "trained or validated", "2025-01-06; ", "--allow-training-dates"],
        ),
        (Window.parse("2025-02-01", "2025-03-01", None), ["no events", "--from 2025-02-01", "--to 2025-03-01"]),
    ],
)
def test_a_window_that_says_nothing_is_refused(results, window: Window, parts: list[str]):
    config, _ = results
    with pytest.raises(UserError) as caught:
        stages.evaluate_model(config, "", EvaluationRequest(window))
    assert_names(caught.value, *parts)


@pytest.mark.usefixtures("undrawn_figures")
def test_of_the_last_dates_those_that_made_the_model_are_left_out(results, caplog: pytest.LogCaptureFixture):
    config, _ = results
    with caplog.at_level("INFO"):
        found = stages.evaluate_model(config, "", EvaluationRequest(Window(count=3), again=True))
    assert found["dates"] == ["2025-01-13"]
    [left_out] = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert_names(left_out, "2025-01-11..2025-01-12", "trained or validated")
    everything = stages.evaluate_model(config, "", EvaluationRequest(Window(count=2), allow_training_dates=True))
    assert everything["dates"] == ["2025-01-12", "2025-01-13"]


@pytest.mark.usefixtures("undrawn_figures")
def test_windows_on_the_command_line(results, capsys: pytest.CaptureFixture[str]):
    config, _ = results
    flat = flatten(to_dict(config))
    options = [f"--set={key}={json.dumps(value)}" for key, value in flat.items()]
    assert main(["evaluate-model", *options, "--from", "2025-01-12", "--to", "2025-01-13"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert_names(last, "2025-01-12..2025-01-13", "trained or validated", "2025-01-12; ", "--allow-training-dates")
    assert (
        main(["evaluate-model", *options, "--from", "2025-01-11", "--to", "2025-01-13", "--allow-training-dates"]) == 0
    )


@pytest.mark.usefixtures("undrawn_figures")
@pytest.mark.slow
def test_a_run_of_mlflow_is_evaluated_from_what_it_holds(
    results, small_overrides: list[str], mlflow_server: str, tmp_path: Path
):
    """Train and evaluate, keep only MLflow and the test date, and evaluate again, also on a window."""
    from mlflow import MlflowClient

    config, by_stage = results
    address = ["training.mlflow.use_mlflow=true", f"training.mlflow.tracking_uri={mlflow_server}"]
    tracked = load_config("local", [*small_overrides, *address, f"paths.runs={tmp_path}/runs"])
    run_id = open_run(tracked, env="local")
    stages.train_model(tracked, run_id)
    expected = {name: pytest.approx(value, abs=0) for name, value in metrics_of(by_stage).items()}
    assert stages.evaluate_model(tracked, run_id)["metrics"] == expected
    close_run(tracked, run_id)

    folder = tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    for name in ("op_nodes.parquet", "journeys.parquet", "events/events_2025-01-13.parquet"):
        shutil.copy(Path(config.data.local_folder) / name, folder / name)
    bare = [f"data.local_folder={folder}", f"paths.runs={tmp_path}/other", f"paths.cache={tmp_path}/cache"]
    elsewhere = load_config("local", [*small_overrides, *address, *bare, "data.snapshot.n_prev=3"])
    evaluated = stages.evaluate_model(elsewhere, run_id)
    assert evaluated["metrics"] == expected
    window = stages.evaluate_model(elsewhere, run_id, EvaluationRequest(Window(count=1)))

    client = MlflowClient(tracking_uri=mlflow_server)
    run = client.get_run(run_id)
    outcome = Outcome.of_window(RunLog(elsewhere, run_id), TEST_DAY)
    assert outcome == Outcome.read(window["outcome"])
    nested = client.get_run(outcome.run_id)
    pages = [run_page(mlflow_server, run.info.experiment_id, found.info.run_id) for found in (run, nested)]
    assert evaluated["report_url"] == artifact_page(pages[0], "evaluation/report.html")
    assert window["report_url"] == artifact_page(pages[1], "evaluation/report.html")
    assert f'href="{pages[0]}"' in Path(window["report"]).read_text(encoding="utf-8")
    assert run.data.tags["drift/test"] == nested.data.tags["drift/window"]
    assert run.data.tags["drift/test"].startswith("delays: PSI 0.")
    assert run.info.status == nested.info.status == "FINISHED"
    assert (nested.data.tags["mlflow.parentRunId"], nested.data.tags["window"]) == (run_id, TEST_DAY)
    assert outcome.headline.startswith(f"MAE {run.data.metrics['test/mae_s']:.1f} s, translation ")
    assert not outcome.decision.verdict  # it is no registered model
    assert nested.data.metrics["window/mae_s"] == run.data.metrics["test/mae_s"] == expected["test/mae_s"]
    assert not [name for name in run.data.metrics if name.startswith("window")]
    assert not [name for name in nested.data.metrics if TEST_DAY in name]  # the names are the same for every window
    [dataset] = nested.inputs.dataset_inputs
    assert dataset.tags[0].value == "evaluation" and dataset.dataset.name.endswith(" 2025-01-13")
    for found in (run, nested):
        assert {entry.path for entry in client.list_artifacts(found.info.run_id, "evaluation")} == {
            f"evaluation/{name}" for name in ("figures", "tables", "report.html")
        }
    with pytest.raises(UserError) as caught:
        stages.evaluate_model(elsewhere, run_id, EvaluationRequest(Window(count=1)))
    assert_names(caught.value, TEST_DAY, "--again")
    again = stages.evaluate_model(elsewhere, run_id, EvaluationRequest(Window(count=1), again=True))
    assert again["outcome"]["run_id"] == nested.info.run_id  # the results of the same window replace each other

    client.delete_run(nested.info.run_id)
    earlier = json.dumps({"window": TEST_DAY, "dates": ["2025-01-13"], "headline": "MAE 1.0 s"})
    client.set_tag(run_id, f"evaluated/{TEST_DAY}", earlier)  # as an earlier release kept it
    kept = stages.evaluate_model(elsewhere, run_id, EvaluationRequest(Window(count=1), if_new=True))
    assert kept["outcome"]["headline"] == "MAE 1.0 s"


@pytest.mark.usefixtures("undrawn_figures")
@pytest.mark.slow
def test_a_run_keeps_the_data_with_which_it_began(
    results, small_overrides: list[str], mlflow_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Data are published again between two stages of one run."""
    folder = tmp_path / "data"
    shutil.copytree(results[0].data.local_folder, folder)
    own = [f"data.local_folder={folder}", f"paths.runs={tmp_path}/runs", "training.max_epochs=1"]
    address = ["training.mlflow.use_mlflow=true", f"training.mlflow.tracking_uri={mlflow_server}"]
    config = load_config("local", [*small_overrides, *address, *own])
    allowing = with_values(config, {"training.allow_changes_on_resume": True}, "test")
    run_id = open_run(config, env="local")
    quality = stages.fetch_files(config, run_id)["quality"]
    kept = RunLog(config, run_id)
    assert json.loads(kept.download("data/account.json", tmp_path / "kept").read_text()) == quality
    assert kept.holds("data/points.png")
    assert "</html>" in kept.download("data/report.html", tmp_path / "kept").read_text()
    stages.train_model(config, run_id)
    stages.evaluate_model(config, run_id)

    def change(table: str) -> None:
        frame = pl.read_parquet(folder / table)
        frame.reverse().write_parquet(folder / table)

    def refusal(stage, *options: object) -> str:
        with pytest.raises(UserError) as caught:
            stage(config, run_id, *options)
        return str(caught.value)

    remedies = ("restore", "training.allow_changes_on_resume=true")
    change("op_nodes.parquet")
    for stage in (stages.fetch_files, stages.compute_statistics_and_embeddings, stages.train_model, stages.tune):
        assert_names(refusal(stage), run_id, ": op_nodes.parquet; ", "new run", *remedies)
    assert_names(refusal(stages.train_model, None, True), run_id, ": op_nodes.parquet; ", "new run", *remedies)
    stages.evaluate_model(config, run_id)  # the points may be those of more dates
    assert f"since MLflow run {run_id} began: op_nodes.parquet" in caplog.text
    stages.fetch_files(allowing, run_id)
    stages.fetch_files(config, run_id)  # the new points are recorded now

    change("events/events_2025-01-13.parquet")
    assert_names(refusal(stages.evaluate_model), run_id, "events_2025-01-13", "test dates", "--from", *remedies)
    stages.evaluate_model(config, run_id, EvaluationRequest(Window(count=1)))
    stages.evaluate_model(allowing, run_id)
    open_run(config, env="local", run_id=run_id)  # the training begins anew
    stages.fetch_files(config, run_id)

    RunLog(config, run_id).set_tags({"split": '{"train": "2025-01-06"}'})
    assert_names(refusal(stages.fetch_files), run_id, "'split'", "does not hold what this program wrote")


def test_changing_the_test_date_changes_no_model(small_overrides: list[str], results, tmp_path: Path):
    """Nothing of the test date reaches the training: rewrite it and the best checkpoint stays the same."""
    config, by_stage = results
    source = Path(config.data.local_folder)
    folder = tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    for path in source.rglob("*.parquet"):
        (folder / path.relative_to(source)).write_bytes(path.read_bytes())
    target = folder / "events" / f"events_{by_stage['fetch_files']['split']['test'][0]}.parquet"
    changed = pl.read_parquet(target).with_columns(pl.col("observed_ts") + pl.duration(minutes=30))
    changed.write_parquet(target)
    altered = load_config("local", [*small_overrides, f"data.local_folder={folder}", f"paths.runs={tmp_path}/runs"])
    result = stages.train_model(altered, "")
    assert result["best_val_mae_s"] == by_stage["train_model"]["best_val_mae_s"]
    assert (Path(result["checkpoints"]) / BEST).is_file()


# --- studies ---------------------------------------------------------------------------------------------------------
SPACE = [
    {"key": "training.learning_rate", "low": 1e-4, "high": 1e-2, "log": True},
    {"key": "embeddings.laplacian.dim", "choices": [16, 4]},
]


def study(small_overrides: list[str], folder: Path, *overrides: str) -> list[str]:
    own = [f"paths.optuna_db={folder}/studies.db", f"paths.cache={folder}/cache", f"paths.runs={folder}/runs"]
    return [*small_overrides, *own, f"search.space={json.dumps(SPACE)}", "search.pruner.name=none", *overrides]


@pytest.mark.slow
def test_a_study_begins_with_the_training_it_starts_from_and_shares_what_trials_need(
    results, small_overrides: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    overrides = study(small_overrides, tmp_path, "search.n_trials=5")
    config = load_config("local", overrides)
    with caplog.at_level("INFO"):
        tuned = stages.tune(config, "")
        reported = stages.report_study(config, "", "local", overrides)
    json.dumps([tuned, reported], allow_nan=False)
    assert (tuned["complete"], tuned["failed"]) == (5, 0)
    assert reported["metrics"]["study/defaults_val_mae_s"] == results[1]["train_model"]["best_val_mae_s"]
    assert reported["metrics"]["study/best_val_mae_s"] == tuned["best_val_mae_s"]
    said = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("statistics: computing") for line in said) == 1
    assert sum(line.startswith("embeddings: computing") for line in said) == 2  # of 16 and of 4 numbers
    best = load_config("local", [*overrides, *reported["best_overrides"]])
    assert stages.train_model(best, "")["best_val_mae_s"] == tuned["best_val_mae_s"]
    assert {path.name for path in Path(reported["folder"]).iterdir()} >= {"history.png", "slice.png", "trials.csv"}


def test_reporting_a_study_that_is_not_there_names_those_that_are(small_overrides: list[str], tmp_path: Path):
    config = load_config("local", study(small_overrides, tmp_path))
    with pytest.raises(UserError) as caught:
        stages.report_study(config, "", "local", [])
    assert_names(caught.value, "studies.db", "does not exist", "study")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--worker", "-1"], ["--worker -1", "negative"]),
        (["--set", "search.space=[]"], ["search.space", "empty"]),
        (
            ["--set", "search.space=[{key: model.d_model, choices: [102]}]"],
            ["102", "divisible", "model.n_heads=4"],
        ),
        (["--set", "search.n_workers=2"], ["SQLite", "one writer"]),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_its_first_trial(
    capsys, sample_folder: Path, arguments: list[str], parts: list[str]
):
    here = ["--set", "training.mlflow.use_mlflow=false", "--set", f"data.local_folder={sample_folder}"]
    assert main(["tune", "--env", "optuna", *here, *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert_names(last, *parts)
