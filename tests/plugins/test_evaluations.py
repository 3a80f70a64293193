"""The light tasks of `model_evaluation`: chosen models and dates, collected results, approval and promotion."""

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from delay_pipeline import evaluations
from delay_pipeline.schedules import REGISTERED_MODEL
from tests.support.registry_double import FakeRegistry

PAGE = "http://mlflow/#/"
ALIASES = {"champion": "old-run", "challenger": "new-run"}


@pytest.fixture
def registry(monkeypatch):
    return FakeRegistry(**ALIASES).install(monkeypatch)


def context(conf=None, run_type="manual", events=(), xcoms=None):
    ti = SimpleNamespace(xcoms={}, task_id="here", map_index=-1)
    ti.xcom_push = lambda key, value: ti.xcoms.update({key: value})
    ti.xcom_pull = lambda task_ids: xcoms[task_ids]
    dag_run = SimpleNamespace(dag_id="model_evaluation", run_id="manual__1", conf=conf, run_type=run_type)
    announced = {REGISTERED_MODEL: [SimpleNamespace(extra=extra, timestamp=n) for n, extra in events]} if events else {}
    return {"ti": ti, "dag_run": dag_run, "triggering_asset_events": announced}


def opened(**given):
    return evaluations.open_evaluation(context(**given))


def chosen(**given):
    return [(model["model"], model["run_id"]) for model in opened(**given)["models"]]


def arguments(**given):
    run = opened(**given)["models"][0]
    assert run["arguments"][-2:] == ["--request", run["request"]]
    return run["arguments"][:-2]


# --- opening ---------------------------------------------------------------------------------------------------------
def test_champion_and_challenger_are_evaluated_unless_a_run_is_named(registry):
    assert chosen() == list(ALIASES.items())
    registry.tags["0123456789abcdef"] = {}
    assert chosen(conf={"warm_start_run_id": "0123456789abcdef"}) == [("run 01234567", "0123456789abcdef")]
    assert chosen(conf={"warm_start_run_id": "new-run"}) == [("challenger", "new-run")]


def test_the_first_model_is_evaluated_before_there_is_a_champion(registry):
    del registry.versions["champion"]
    assert chosen() == [("challenger", "new-run")]
    del registry.versions["challenger"]
    with pytest.raises(AirflowFailException, match=r"train-delays .*; train .* model_training.* warm_start_run_id"):
        opened()


def test_a_version_of_another_program_is_not_evaluated(registry, caplog):
    registry.versions["champion"].foreign = "version 1 was not registered by this program"
    assert chosen() == [("challenger", "new-run")]
    assert "the champion is not evaluated: version 1 was not registered by this program" in caplog.text
    registry.versions["challenger"].foreign = "version 2 was not registered by this program"
    with pytest.raises(AirflowFailException, match=r"the champion: version 1 was .*; the challenger: version 2 was"):
        opened()


def test_an_asset_event_that_a_person_made_names_no_model(registry):
    given = {"run_type": "asset_triggered", "events": [(1, {"from_rest_api": True})], "conf": {}}
    assert chosen(**given) == list(ALIASES.items())


def test_one_run_behind_both_aliases_is_evaluated_once(monkeypatch):
    FakeRegistry(champion="run", challenger="run").install(monkeypatch)
    assert chosen() == [("challenger", "run")]


def test_each_model_brings_what_its_stage_needs(registry):
    found = opened(conf={"env": "dev", "overrides": ["data.grid.step_s=900"]})
    assert (found["env"], found["overrides"]) == ("dev", ["data.grid.step_s=900"])
    run = found["models"][0]
    assert len(run["request"]) == 16
    assert run == {
        "model": "champion",
        "env": "dev",
        "overrides": ["data.grid.step_s=900"],
        "run_id": "old-run",
        "run_url": f"{PAGE}old-run",
        "warm_start_run_id": None,
        "resume_run": False,
        "ask": False,
        "request": run["request"],
        "arguments": ["--last", "7", "--request", run["request"]],
    }
    assert opened(conf={"env": "prod"})["models"][0]["ask"]


def test_each_asset_event_says_which_model_and_how_it_was_configured(registry, monkeypatch):
    """Two models that register between two loops of the scheduler start one run."""
    monkeypatch.setenv("TRANSFORMER_ENV", "prod")
    registry.tags["third-run"] = {}
    announced = [
        (3, {"env": "dev", "overrides": ["data.grid.step_s=900"], "run_id": "new-run"}),  # the newest comes last
        (1, {"env": "local", "overrides": [], "run_id": "old-run"}),
        (2, {"env": "dev", "overrides": [], "run_id": "third-run"}),
        (4, {"from_rest_api": True}),  # a person made it
    ]
    given = {"run_type": "asset_triggered", "events": announced, "conf": {}}
    assert chosen(**given) == [("champion", "old-run"), ("run third-ru", "third-run"), ("challenger", "new-run")]
    found = opened(**given)
    assert [(run["env"], run["overrides"]) for run in found["models"]] == [
        ("local", []),
        ("dev", []),
        ("dev", ["data.grid.step_s=900"]),
    ]
    assert (found["env"], found["overrides"]) == ("dev", ["data.grid.step_s=900"])
    assert arguments(**given) == ["--last", "7", "--if-new"]
    assert len({run["request"] for run in found["models"]}) == 1


def test_a_model_that_is_announced_twice_is_evaluated_once(registry):
    announced = [(n, {"env": env, "overrides": [], "run_id": "new-run"}) for n, env in enumerate(("local", "dev"))]
    found = opened(run_type="asset_triggered", events=announced, conf={})["models"]
    assert [(run["run_id"], run["env"]) for run in found] == [("new-run", "dev")]


def test_an_event_without_an_environment_takes_the_default(registry, monkeypatch):
    """A person gives the run alone, in the form of the asset."""
    given = {"run_type": "asset_triggered", "events": [(1, {"run_id": "new-run"})], "conf": {}}
    assert chosen(**given) == [("challenger", "new-run")]
    assert opened(**given)["env"] == "local" and opened(**given)["overrides"] == []
    monkeypatch.setenv("TRANSFORMER_ENV", "dev")
    assert opened(**given)["env"] == "dev"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"run_id": "gone"}, r"asset event of run gone: warm_start_run_id='gone' .*MLflow"),
        ({"run_id": 5}, r"asset event of run 5: conf: warm_start_run_id=5 is not a text"),
        (
            {"run_id": "gone", "env": "deev"},
            r"asset event of run gone: conf: env='deev' is unknown; did you mean 'dev'",
        ),
        ({"run_id": "gone", "overrides": "a=b"}, r"asset event of run gone: conf: overrides='a=b' is not a list"),
        ({"run_id": "gone", "overrides": ["a=b"]}, r"asset event of run gone: .*unknown key 'a'"),
    ],
)
def test_a_wrong_event_is_one_line_that_names_it_and_the_other_models(registry, extra, words):
    announced = [(1, {"env": "local", "overrides": [], "run_id": "new-run"}), (2, extra)]
    given = context(run_type="asset_triggered", events=announced, conf={})
    with pytest.raises(AirflowFailException, match=words) as caught:
        evaluations.open_evaluation(given)
    assert "not evaluated either: new-run" in str(caught.value) and "\n" not in given["ti"].xcoms["error"]


@pytest.mark.parametrize(
    ("conf", "run_type", "expected"),
    [
        ({}, "manual", ["--last", "7"]),
        ({}, "scheduled", ["--last", "7", "--if-new"]),
        ({"window_dates": 3, "again": True}, "manual", ["--last", "3", "--again"]),
        (
            {"window_first": "2025-01-01", "window_last": "2025-01-02", "allow_training_dates": True},
            "manual",
            ["--from", "2025-01-01", "--to", "2025-01-02", "--allow-training-dates"],
        ),
        ({"overrides": ["evaluation.schedule.last_dates=14"]}, "scheduled", ["--last", "14", "--if-new"]),
    ],
)
def test_every_run_has_a_window(registry, conf, run_type, expected):
    assert arguments(conf=conf, run_type=run_type) == expected


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"run_id": "abc"}, "'run_id'; .*env, overrides, warm_start_run_id, window_first"),
        ({"warm_start_run_id": "nobody"}, "warm_start_run_id='nobody' .*MLflow"),
        ({"overrides": ["training.mlflow.use_mlflow=false"]}, "training.mlflow.use_mlflow=false .*; .*true"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_and_not_retried(registry, conf, words):
    given = context(conf)
    with pytest.raises(AirflowFailException, match=words):
        evaluations.open_evaluation(given)
    assert "\n" not in given["ti"].xcoms["error"]


# --- deciding --------------------------------------------------------------------------------------------------------
def test_what_was_found_is_gathered(registry):
    run = opened()
    request = run["models"][0]["request"]
    registry.found("old-run", request, degradation="degraded: skill +1.0%")
    decision = {"verdict": "promote", "reason": "MAE 80 s against 90 s", "version": 2, "instead_of": 1}
    registry.found("new-run", request, decision=decision)
    assert evaluations.decide(run, context()) == {
        "degraded": [
            {
                "run_id": "old-run",
                "run_url": f"{PAGE}old-run",
                "window": "2025-01-24..2025-01-25",
                "report_url": f"{PAGE}old-run/artifacts/evaluation/w/report.html",
                "text": "degraded: skill +1.0%",
            }
        ],
        "promotion": decision,
        "retraining": None,  # the promoted model is as good as at its training
        "env": "local",
        "overrides": [],
        "ask": False,
        "body": "**Why:** MAE 80 s against 90 s\n\n"
        f"- [champion on 2025-01-24..2025-01-25: MAE 90.0 s]({PAGE}old-run/artifacts/evaluation/w/report.html)\n"
        f"- [challenger on 2025-01-24..2025-01-25: MAE 90.0 s]({PAGE}new-run/artifacts/evaluation/w/report.html)",
    }
    assert registry.decided == []


def test_a_challenger_that_is_not_better_is_declined(registry):
    run = opened(conf={"warm_start_run_id": "new-run"})
    declined = {"verdict": "decline", "reason": "no better", "version": 2}
    registry.found("new-run", run["models"][0]["request"], decision=declined)
    assert evaluations.decide(run, context())["promotion"] is None
    assert registry.decided == [("decline", 2, "no better", "model_evaluation manual__1")]


def test_of_two_better_models_the_newest_is_promoted_with_its_own_configuration(registry, monkeypatch, caplog):
    """Each is declined, or asked about, in the configuration that its training had."""
    registry.tags["third-run"] = {}
    announced = [
        (n, {"env": env, "overrides": [f"training.seed={n}"], "run_id": run})
        for n, (run, env) in enumerate([("old-run", "local"), ("third-run", "prod"), ("new-run", "dev")])
    ]
    run = opened(run_type="asset_triggered", events=announced, conf={})
    request = run["models"][0]["request"]
    decision = {"reason": "better", "instead_of": 1}
    registry.found("old-run", request, decision=decision | {"verdict": "promote", "version": 5})
    registry.found("third-run", request, decision=decision | {"verdict": "promote", "version": 6})
    registry.found("new-run", request, decision=decision | {"verdict": "decline", "version": 7})
    found = evaluations.decide(run, context())
    assert found["promotion"]["version"] == 6
    assert (found["env"], found["overrides"], found["ask"]) == ("prod", ["training.seed=1"], True)
    assert "version 5 is not promoted" in caplog.text
    assert registry.decided == [("decline", 7, "better", "model_evaluation manual__1")]
    asked = []
    monkeypatch.setattr(evaluations, "load_config", lambda env, overrides: asked.append((env, overrides)))
    evaluations.promote(found | {"ask": False}, context())
    assert asked == [("prod", ["training.seed=1"])]


def test_a_model_that_has_become_worse_is_a_reason_to_train(registry):
    run = opened(conf={"overrides": ["training.seed=5"]})
    request = run["models"][0]["request"]
    registry.found("old-run", request, drift="delays: PSI 0.300")
    registry.found("new-run", request, decision={"verdict": "decline", "reason": "no better", "version": 2})
    assert evaluations.decide(run, context())["retraining"] == {
        "env": "local",
        "overrides": ["training.seed=5"],
        "window": "2025-01-24..2025-01-25",
        "reason": "champion on 2025-01-24..2025-01-25: drift: delays: PSI 0.300",
    }


def test_one_failed_evaluation_hides_no_other(registry):
    run = opened()
    registry.found("old-run", run["models"][0]["request"])
    assert evaluations.decide(run, context())["body"].count("\n") == 0


def test_without_any_result_there_is_nothing_to_decide(registry):
    with pytest.raises(AirflowFailException, match=r"no results .*; clear evaluate_model"):
        evaluations.decide(opened(), context())


# --- promoting -------------------------------------------------------------------------------------------------------
PROMOTION = {"version": 2, "instead_of": 1, "reason": "better"}


def decided(promotion=PROMOTION, ask=False):
    return {"promotion": promotion, "env": "local", "overrides": [], "ask": ask, "body": "why"}


def test_the_gate_promotes_alone_where_nobody_is_asked(registry):
    assert evaluations.promote(decided(), context()) == {"champion": 2, "run_id": "promoted-run"}
    assert registry.decided == [("promote", 2, 1, "better", "model_evaluation manual__1")]


def test_the_person_who_approved_is_named(registry):
    response = {"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": "anna"}}
    evaluations.promote(decided(ask=True), context(xcoms={"approve": response}))
    assert registry.decided == [("promote", 2, 1, "better", "approved by anna")]


def test_a_task_that_was_marked_as_a_success_approves_nothing(registry):
    with pytest.raises(AirflowFailException, match=r"approved .*; clear approve .*`python -m transformer promote`"):
        evaluations.promote(decided(ask=True), context(xcoms={"approve": None}))
    assert registry.decided == []


def test_nothing_to_promote_is_skipped(registry):
    with pytest.raises(AirflowSkipException, match="gate promotes no"):
        evaluations.promote(decided(None), context())
    assert registry.decided == []


def test_a_champion_that_changed_meanwhile_is_not_replaced_and_not_tried_again(registry):
    registry.changed = True
    with pytest.raises(AirflowFailException, match="again: clear evaluate_model"):
        evaluations.promote(decided(), context())


def approval(decision):
    return evaluations.ApprovePromotion(task_id="approve", decision=decision)


@pytest.mark.parametrize(
    ("decision", "words"),
    [(decided(None), "gate promotes no"), (decided(), r"evaluation\.gate\.ask_for_approval=false")],
)
def test_nobody_is_asked_without_need(decision, words):
    with pytest.raises(AirflowSkipException, match=words):
        approval(decision).execute(context())


def test_a_rejected_model_is_declined_by_the_person_who_rejected_it(registry, monkeypatch):
    monkeypatch.setattr(evaluations.ApprovalOperator, "execute_complete", lambda self, context, event: "skipped")
    event = {"chosen_options": ["Reject"], "params_input": {}, "responded_by_user": {"id": "7", "name": "anna"}}
    assert approval(decided(ask=True)).execute_complete(context(), event) == "skipped"
    assert registry.decided == [("decline", 2, "a person rejected the promotion", "rejected by anna")]


def test_an_answer_that_never_came_promotes_nothing(registry):
    event = {"error": "no response", "error_type": "timeout"}
    with pytest.raises(AirflowFailException, match=r"answered in time.* promoted; clear approve"):
        approval(decided(ask=True)).execute_complete(context(), event)
    assert registry.decided == []
