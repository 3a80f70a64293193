"""The origin of an evaluated model, and the commands that evaluate the model again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from transformer import protocol
from transformer.text import redact


@dataclass(frozen=True)
class Provenance:
    run_id: str
    env: str
    git_commit: str
    data_fingerprint: str  # of the evaluated dates
    configuration_hash: str
    commands: Sequence[str]  # shell lines, in order
    run_url: str = ""
    more: Mapping[str, str] = field(default_factory=dict)  # label and value


def reproducing_commands(
    git_commit: str,
    env: str,
    overrides: Sequence[str],
    run_id: str,
    window: Sequence[date] | None,
    allow_training_dates: bool = False,
) -> list[str]:
    """The shell lines that evaluate a model again. Passwords in `overrides` are left out.

    Args:
        run_id: MLflow run that holds the model; "" = the model is in a local folder, and the lines train it first.
        window: service dates; None = the test dates of the run's split.
    """
    settings = [protocol.ENV, env]
    for override in overrides:
        settings += [protocol.SET, redact(override)]
    evaluate = [protocol.EVALUATE_MODEL, *settings, *([protocol.RUN_ID, run_id] if run_id else [])]
    if window is not None:
        evaluate += [protocol.FROM, str(window[0]), protocol.TO, str(window[-1]), protocol.AGAIN]
        evaluate += [protocol.ALLOW_TRAINING_DATES] if allow_training_dates else []
    stages = [evaluate] if run_id else [[protocol.TRAIN_MODEL, *settings], evaluate]
    checkout = [] if git_commit == "unknown" else [f"git checkout {git_commit}"]
    return [*checkout, *(shlex.join(["python", "-m", "transformer", *stage]) for stage in stages)]
