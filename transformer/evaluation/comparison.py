"""Compare a model with the champion on the rows of one evaluation, for the report and for the gate."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from transformer.config import Config
from transformer.data.dates import Split, format_dates
from transformer.data.fetch import fetch_dates
from transformer.data.input_tables import used_tables
from transformer.errors import UserError
from transformer.evaluation.decision import NO_DECISION, PromotionDecision
from transformer.evaluation.gate import GateResult, compare
from transformer.evaluation.pairing import CHAMPION
from transformer.evaluation.report.page_tables import Champion
from transformer.prediction.row_files import EvaluationRows, RowFiles, write_rows
from transformer.prediction.rows import evaluation_rows
from transformer.registry import versions
from transformer.registry.logged import trained_files_of
from transformer.registry.package import content_of
from transformer.registry.versions import Registered
from transformer.tracking.run_log import RunLog
from transformer.training.run_folder import TrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChampionComparison:
    """The comparison of a model with the champion, and the gate's decision about the model."""

    decision: PromotionDecision = NO_DECISION
    champion: Champion | None = None  # for the report
    gate: GateResult | None = None  # None = they were not compared

    @property
    def line(self) -> str:
        """One line for the report; "" = there is nothing to say."""
        decision = self.decision
        if decision.verdict:
            return f"Version {decision.version}: {decision.verdict}. {decision.reason}"
        return f"Not compared with the champion: {decision.reason}" if decision.reason and not self.gate else ""

    def metrics(self, prefix: str) -> dict[str, float]:
        return self.gate.metrics(f"{prefix}/gate") if self.gate else {}


def compare_with_champion(
    run: RunLog,
    source: Path,
    trained: TrainedModel,
    rows: EvaluationRows,
    days: Sequence[date],
    config: Config,
    scratch: Path,
) -> ChampionComparison:
    """Compare a run's model with the champion, or with translation alone if there is no champion yet.

    Args:
        source: folder with the model's files.
        rows: evaluation rows of the model on `days`.
        config: configuration of the evaluation, from `TrainedModel.located`.
        scratch: folder for the champion's rows. They must stay as long as the comparison is used.
    """
    if not run.run_id:
        return ChampionComparison()
    own = versions.version_of(run.config, run.run_id, content_of(source))
    best = versions.champion(run.config)
    considered = PromotionDecision(version=own.version if own else 0)
    if best is None:
        return _judged(considered, rows, None, config) if own else ChampionComparison()
    if best.version == considered.version or (own is None and best.run_id == run.run_id):
        return ChampionComparison(considered)
    considered = replace(considered, instead_of=best.version)
    if seen := _seen(trained.split, days):
        return _not_compared(considered, f"this model was trained or validated on {seen}")
    try:
        theirs = _champion_rows(run.config, best, days, scratch)
    except UserError as error:
        return _not_compared(considered, str(error))
    return _judged(considered, rows, theirs, config)


def _champion_rows(config: Config, best: Registered, days: Sequence[date], folder: Path) -> RowFiles:
    """The champion's evaluation rows, in files of `folder`.

    Raises:
        UserError: the champion's files are damaged, it was trained or validated on some of the dates, or another
            program registered it.
    """
    if best.foreign:
        raise UserError(f"the champion: {best.foreign}")
    log.info("evaluation: predicting with the champion, version %d of run %s", best.version, best.run_id)
    with tempfile.TemporaryDirectory() as temporary:
        champion = TrainedModel.load(trained_files_of(RunLog(config, best.run_id), best, Path(temporary)))
    if seen := _seen(champion.split, days):
        raise UserError(f"the champion, version {best.version}, was trained or validated on {seen}")
    config = champion.located(config)
    if used_tables(config.model.use_inputs):  # which the evaluated model perhaps does not read
        fetch_dates(config, days)
    return write_rows(evaluation_rows(champion, config, days), folder)


def _judged(
    considered: PromotionDecision, rows: EvaluationRows, theirs: RowFiles | None, config: Config
) -> ChampionComparison:
    try:
        gate = compare(rows, theirs, config.evaluation.gate, considered, config.data.timezone)
    except UserError as error:
        return _not_compared(considered, str(error))
    champion = None
    if theirs is not None:
        difference = gate.difference_s[CHAMPION]
        interval = {"low_s": difference.low, "high_s": difference.high, "confidence": gate.confidence}
        champion = Champion(f"the champion, version {considered.instead_of}", theirs, interval)
    decision = gate.decision
    if not decision.version:  # the model is not registered: it is compared, but cannot be promoted
        decision = decision.withheld(decision.reason)
    return ChampionComparison(decision, champion, gate)


def _not_compared(considered: PromotionDecision, reason: str) -> ChampionComparison:
    log.warning("not compared with the champion: %s", reason)
    return ChampionComparison(considered.withheld(reason))


def _seen(split: Split, days: Sequence[date]) -> str:
    """Those of `days` on which a model was trained or validated."""
    return ", ".join(format_dates(sorted({*split.train, *split.validation} & set(days))))
