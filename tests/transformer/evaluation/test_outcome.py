"""Outcomes are kept in tags of runs. The tags outlive the release that wrote them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from transformer.evaluation.decision import DECLINE, PROMOTE, PromotionDecision
from transformer.evaluation.outcome import Outcome
from transformer.tracking.names import artifact_page, run_page

WINDOW = "2025-01-24..2025-01-25"


@pytest.mark.parametrize("verdict", [PROMOTE, DECLINE, ""])
def test_an_outcome_reads_back(verdict: str) -> None:
    decision = PromotionDecision(verdict, "MAE 80 s against 90 s", version=2, instead_of=1)
    outcome = Outcome(WINDOW, ["2025-01-24..2025-01-25"], "evaluation/report.html", "MAE 80 s", decision=decision)
    text = json.dumps(outcome.as_dict())
    assert Outcome.read(json.loads(text)) == outcome
    assert json.loads(text)["decision"] == {
        "verdict": verdict, "reason": "MAE 80 s against 90 s", "version": 2, "instead_of": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("older", "decision"),
    [
        (
            {"version": 2, "decision": "promote", "reason": "better", "instead_of": 1},
            PromotionDecision(PROMOTE, "better", version=2, instead_of=1),
        ),
        (
            {"version": 0, "decision": "", "reason": "2025-01-24 trained it", "instead_of": 3},
            PromotionDecision("", "2025-01-24 trained it", instead_of=3),
        ),
        ({}, PromotionDecision()),
    ],
)
def test_a_tag_of_an_older_release_is_read(older: dict[str, object], decision: PromotionDecision) -> None:
    found = Outcome.read({"window": WINDOW, "dates": [WINDOW], "headline": "MAE 80 s", "degradation": "", **older})
    assert found == Outcome(WINDOW, [WINDOW], headline="MAE 80 s", decision=decision)


def test_a_model_is_worse_by_its_skill_or_by_its_events() -> None:
    lost, other = "degraded: skill +1.0%", "delays: PSI 0.300"
    assert Outcome(WINDOW).worse == ""
    assert Outcome(WINDOW, degradation=lost).worse == lost
    assert Outcome(WINDOW, drift=other).worse == "drift: delays: PSI 0.300"
    both = Outcome(WINDOW, degradation=lost, drift=other)
    assert both.worse == "degraded: skill +1.0%; drift: delays: PSI 0.300"
    assert Outcome.read(both.as_dict()) == both
    assert both.without_decision().worse == both.worse


def test_results_that_are_kept_decide_nothing() -> None:
    judged = Outcome(WINDOW, decision=PromotionDecision(PROMOTE, "better", version=2, instead_of=1))
    kept = judged.without_decision()
    assert kept.decision == PromotionDecision("", "judged before: better", version=2, instead_of=1)
    assert kept.without_decision() == kept
    assert (kept.decision.promotes, kept.decision.declines) == (False, False)


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        (PromotionDecision(PROMOTE, "better"), "promote: better"),
        (PromotionDecision(DECLINE, "worse"), "decline: worse"),
        (PromotionDecision("", "too few journeys"), "not judged: too few journeys"),
        (PromotionDecision(version=2), ""),
    ],
)
def test_a_decision_is_one_line(decision: PromotionDecision, text: str) -> None:
    assert decision.text == text
    assert PromotionDecision.read(decision.as_dict()) == decision


def test_processes_of_the_scheduler_read_decisions_without_heavy_packages() -> None:
    code = (
        "import sys; import transformer.evaluation.decision; "
        "print(sorted({'torch', 'polars', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"


def test_the_report_of_a_window_is_on_the_page_of_its_own_run() -> None:
    page = run_page("http://mlflow", "7", "trained")
    report = "evaluation/report.html"
    assert Outcome("test", report=report).report_page(page) == artifact_page(page, report)
    nested = Outcome(WINDOW, report=report, run_id="nested")
    assert nested.report_page(page) == artifact_page(run_page("http://mlflow", "7", "nested"), report)
    assert nested.report_page("") == ""
