"""The importance of a study's parameters: the share of the variation of the validation MAE that each one explains."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from transformer.tuning.trials import StudyTrials, value_of

FOREST_SEED = 0  # seed of fANOVA's random forest, so the same study gives the same importances
# Number of complete trials that importances need. The most important of nine parameters was ranked first with 25
# trials, second or third with 12, and anywhere with 8.
RELIABLE = 20


@dataclass(frozen=True)
class Importances:
    """Share of the variation of the validation MAE that each parameter alone explains, the largest first."""

    shares: dict[str, float]
    left_out: list[str]  # keys that at least one complete trial lacks
    missing: str = ""  # reason if there are no shares


def importances_of(study: optuna.Study, trials: StudyTrials) -> Importances:
    # This is fANOVA and not Optuna's default PED-ANOVA, although PED-ANOVA also judges conditional parameters. In a
    # test with 25 complete trials, one of 11 parameters decided everything: fANOVA gave it 99 %, PED-ANOVA 5 %. On pure
    # noise PED-ANOVA gave 43 % to a parameter that few trials had. PED-ANOVA needs hundreds of trials; a study tens.
    searched = {key for trial in trials.complete for key in trial.params}
    common = {key for key in searched if all(key in trial.params for trial in trials.complete)}
    left_out = sorted(searched - common)
    if len(trials.complete) < 2:
        return Importances({}, left_out, missing="only one trial completed")
    if len(common) < 2:
        reason = "fewer than two parameters were searched in every complete trial"
        return Importances({}, left_out, missing=reason)
    top = trials.top
    try:
        shares = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=FOREST_SEED), target=lambda trial: min(value_of(trial), top)
        )
    except RuntimeError:  # fANOVA needs variance
        return Importances({}, left_out, missing="the complete trials do not differ")
    ordered = sorted(shares.items(), key=lambda share: (-share[1], share[0]))
    return Importances({key: float(share) for key, share in ordered}, left_out)


def basis(trials: StudyTrials) -> str:
    """The number of trials behind the importances."""
    n = len(trials.complete)
    return f"from {n:,} complete trials" + ("" if n >= RELIABLE else f"; fewer than {RELIABLE} are only a hint")
