"""Models of one registry are compared: the gate's decisions, and their traces in runs and reports."""

import shutil
import uuid
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient

from tests.support.figures import undrawn
from tests.support.messages import assert_names
from transformer import stages
from transformer.config import Config, load_config
from transformer.data.sources.attribution import attribution_path
from transformer.errors import UserError
from transformer.evaluation.comparison import ChampionComparison
from transformer.evaluation.decision import DECLINE, PROMOTE, PromotionDecision
from transformer.evaluation.evaluate import EvaluationRequest
from transformer.evaluation.outcome import Outcome
from transformer.evaluation.window import Window
from transformer.files import write_json
from transformer.registry import versions
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import close_run, open_run

DAY = "2025-01-13..2025-01-13"
LAST = Window(count=1)


def test_a_model_that_was_not_compared_has_no_decision():
    nothing = ChampionComparison()
    assert (nothing.decision, nothing.line, nothing.metrics("test")) == (PromotionDecision(), "", {})
    refused = ChampionComparison(PromotionDecision(version=3).withheld("2025-01-13 trained it"))
    assert refused.decision.text == "not judged: 2025-01-13 trained it"
    assert refused.line == "Not compared with the champion: 2025-01-13 trained it"


@pytest.fixture(scope="module")
def models(
    small_overrides: list[str], mlflow_server: str, sample_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, list[str]]:
    """The runs of a model trained for four epochs and of a model trained for ten epochs. Neither is registered."""
    folder = tmp_path_factory.mktemp("comparison")
    shutil.copytree(sample_folder, folder / "data")
    licence = {"ride": {"title": "RIDE Silver", "licence": "CC BY 4.0; RIDE"}}
    write_json(attribution_path(folder / "data"), licence)
    given = [
        *small_overrides,
        "training.mlflow.use_mlflow=true",
        f"training.mlflow.tracking_uri={mlflow_server}",
        f"evaluation.registry.model_name=trains-{uuid.uuid4().hex[:8]}",
        f"paths.runs={folder}/runs",
        f"data.local_folder={folder}/data",
    ]
    runs = []
    for epochs in (4, 10):
        config = load_config("local", [*given, f"training.max_epochs={epochs}", "training.snapshots_per_epoch=256"])
        run_id = open_run(config, env="local")
        stages.train_model(config, run_id)
        with undrawn():
            stages.evaluate_model(config, run_id)
        close_run(config, run_id)
        runs.append(run_id)
    return load_config("local", given), runs


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn_figures")
def test_the_second_model_has_the_first_to_beat(models: tuple[Config, list[str]], caplog: pytest.LogCaptureFixture):
    """Register, judge and promote the first model. Register and judge the second. Then repeat some requests."""
    config, (first, second) = models
    assert stages.register_model(config, first)["version"] == 1
    assert stages.register_model(config, first)["version"] == 1  # once, however often
    client = MlflowClient(config.training.mlflow.tracking_uri)
    assert (
        "RIDE Silver: CC BY 4.0; RIDE"
        in client.get_model_version(config.evaluation.registry.model_name, "1").description
    )
    found = stages.evaluate_model(config, first, EvaluationRequest(LAST, id="a"))
    outcome = Outcome.find(RunLog(config, first), "a")
    assert outcome == Outcome.read(found["outcome"])
    decision = outcome.decision
    assert (decision.version, decision.verdict, decision.instead_of) == (1, PROMOTE, 0)
    assert "of translation, difference −" in decision.reason
    stages.promote_model(config, "challenger", "better than translation", "anna")

    judged_itself = stages.evaluate_model(config, first, EvaluationRequest(LAST, again=True))
    assert judged_itself["outcome"]["decision"]["verdict"] == ""
    assert not judged_itself["outcome"]["decision"]["reason"]

    unregistered = stages.evaluate_model(config, second)  # on the test dates, as training does: compared, not judged
    assert unregistered["outcome"]["decision"]["verdict"] == ""
    assert "gate/difference_s/champion" in " ".join(unregistered["metrics"])
    assert "against the champion" in Path(unregistered["report"]).read_text(encoding="utf-8")

    assert stages.register_model(config, second) == {
        "model": config.evaluation.registry.model_name,
        "version": 2,
        "run_id": second,
    }
    found = stages.evaluate_model(config, second, EvaluationRequest(LAST, id="b"))
    outcome = Outcome.read(found["outcome"])
    decision = outcome.decision
    assert (decision.version, decision.instead_of) == (2, 1)
    better = found["metrics"]["window/gate/difference_s/champion/high"] < 0
    assert decision.verdict == (PROMOTE if better else DECLINE)
    report = Path(found["report"]).read_text(encoding="utf-8")
    assert f"Version 2: {decision.verdict}." in report
    assert "data licence of RIDE Silver" in report and "CC BY 4.0; RIDE" in report
    run = MlflowClient(config.training.mlflow.tracking_uri).get_run(second)
    assert run.data.tags["model_version"] == "2"
    assert RunLog(config, outcome.run_id).get_tag("gate/window") == f"{decision.verdict}: {decision.reason}"
    assert run.info.status == "FINISHED"

    with pytest.raises(UserError) as caught:
        stages.evaluate_model(config, second, EvaluationRequest(LAST, id="c"))
    assert_names(caught.value, DAY, "--again")
    with caplog.at_level("INFO"):
        kept = stages.evaluate_model(config, second, EvaluationRequest(LAST, id="c", if_new=True))
    [message] = [record.getMessage() for record in caplog.records if "no newer dates" in record.getMessage()]
    assert_names(message, DAY, "kept", outcome.headline)
    assert kept["outcome"]["decision"]["verdict"] == ""
    assert kept["outcome"]["decision"]["reason"] == f"judged before: {decision.reason}"
    assert Outcome.find(RunLog(config, second), "c").headline == outcome.headline
    retried = stages.evaluate_model(config, second, EvaluationRequest(LAST, id="b", if_new=True))
    assert retried["outcome"] == found["outcome"]  # a retry of the request that made the results


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn_figures")
def test_dates_that_made_either_model_compare_nothing(models: tuple[Config, list[str]]):
    config, (first, second) = models
    for run_id in (first, second):
        stages.register_model(config, run_id)
    stages.promote_model(config, str(_version(config, first)), "for the test", "anna")
    both = EvaluationRequest(Window.parse("2025-01-12", "2025-01-13", None), again=True, allow_training_dates=True)
    found = stages.evaluate_model(config, second, both)
    decision = PromotionDecision.read(found["outcome"]["decision"])
    assert decision.text.startswith("not judged: ")
    assert_names(decision.text, "this model", "trained or validated", "2025-01-12")
    report = Path(found["report"]).read_text(encoding="utf-8")
    assert f"Not compared with the champion: {decision.reason}" in report


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn_figures")
def test_a_champion_of_another_program_compares_nothing(models: tuple[Config, list[str]]):
    """A person registered the run's model with MLflow's button, and named it champion."""
    config, (first, second) = models
    for run_id in (first, second):
        stages.register_model(config, run_id)
    client, name = MlflowClient(config.training.mlflow.tracking_uri), config.evaluation.registry.model_name
    before = client.get_registered_model(name).aliases
    try:
        by_hand = client.create_model_version(name, f"runs:/{first}/model", first)
        client.set_registered_model_alias(name, "champion", by_hand.version)
        found = stages.evaluate_model(config, second, EvaluationRequest(LAST, again=True))
    finally:
        client.delete_model_version(name, by_hand.version)
        if "champion" in before:
            client.set_registered_model_alias(name, "champion", before["champion"])
    decision = PromotionDecision.read(found["outcome"]["decision"])
    assert decision.text.startswith("not judged: the champion: ")
    assert_names(decision.text, f"version {by_hand.version}", "not registered by this program", "register-model")


def _version(config: Config, run_id: str) -> int:
    return int(RunLog(config, run_id).get_tag("model_version"))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn_figures")
def test_a_model_whose_data_change_has_degraded(models: tuple[Config, list[str]]):
    """On this date every train keeps its delay, so the knowledge of the model misleads."""
    config, (first, _) = models
    path = Path(config.data.local_folder) / "events" / "events_2025-01-13.parquet"
    kept = path.read_bytes()
    observed = pl.when(pl.col("observed_ts").is_not_null())
    pl.read_parquet(path).with_columns(
        observed.then(pl.col("planned_ts") + pl.duration(seconds=20)).alias("observed_ts"),
        observed.then(pl.lit(20, pl.Int32)).alias("delay_sec"),
    ).write_parquet(path)
    try:
        found = stages.evaluate_model(config, first, EvaluationRequest(LAST, again=True))
    finally:
        path.write_bytes(kept)
    line = found["outcome"]["degradation"]
    assert line.startswith("degraded: skill ")
    assert_names(line, f"% on {DAY}, +", "test dates", "evaluation.max_skill_drop=0.1")
    assert line in Path(found["report"]).read_text(encoding="utf-8")
    assert RunLog(config, found["outcome"]["run_id"]).get_tag("degraded/window") == line


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn_figures")
def test_a_model_is_registered_from_its_run(models: tuple[Config, list[str]]):
    config, (first, _) = models
    with pytest.raises(UserError) as caught:
        stages.register_model(config, "")
    assert_names(caught.value, "register-model", "--run-id")
    stages.register_model(config, first)
    with pytest.raises(UserError) as caught:
        stages.promote_model(config, "nobody", "why", "anna")
    assert_names(caught.value, "no version", "'nobody'")
    assert versions.champion(config) is None or versions.champion(config).run_id
