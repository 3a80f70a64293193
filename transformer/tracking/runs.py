"""Open, resume and close MLflow runs, and record their configuration and origin. Imports no torch.

Credentials in `training.mlflow.tracking_uri` are sent to the server only. No tag, param, artifact or message has them.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformer.config import Config, flatten, to_dict, to_yaml
from transformer.errors import UserError
from transformer.files import content_hash
from transformer.protocol import COMMIT_VARIABLE, IMAGE_VARIABLE
from transformer.text import one_line, redact
from transformer.tracking.client import (
    ENDED,
    FAILED,
    FINISHED,
    KILLED,
    check_server,
    connect,
    existing_run,
    experiment_of,
    log_params,
    log_text,
    mlflow_errors,
    public_address,
    refuse_untracked,
    reopen,
    set_tags,
)
from transformer.tracking.description import describe
from transformer.tracking.json_tags import json_tag, overrides_text
from transformer.tracking.names import (
    CONFIG_ARTIFACT,
    DAG_ID,
    DATA_TABLES,
    FAILURE_REASON,
    GIT_COMMIT,
    OVERRIDES,
    SOURCE_COMMIT,
    WORKSPACE_VARIABLE,
    run_page,
)
from transformer.tracking.origin import origin_tags

log = logging.getLogger(__name__)


def configuration_hash(config: Config) -> str:
    """Content hash of the whole configuration. Passwords do not change it."""
    return content_hash(redact(to_dict(config)))


def run_folder(config: Config, run_id: str) -> Path:
    """Local folder of a run's checkpoints and reports. Without tracking, each configuration has one folder."""
    return Path(config.paths.runs) / (run_id or f"untracked-{configuration_hash(config)}")


def open_run(
    config: Config,
    *,
    env: str,
    name: str = "",
    overrides: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    user: str = "",
    run_id: str | None = None,
    warm_start_run_id: str | None = None,
    resume: bool = False,
) -> str:
    """Open the MLflow run that a training logs into, and record its configuration and origin.

    Args:
        name: name of a new run, followed by the time of opening; "" = its environment.
        tags: more tags of the run, on top of its environment, overrides, configuration hash, commit and image.
        user: the person who triggered the run; "" = the user of this process.
        run_id: log into this existing run instead of a new one; it becomes RUNNING again.
        warm_start_run_id: the training begins with the weights of this run; checked here, before any work is done.
        resume: continue the run `warm_start_run_id` itself.

    Returns:
        The run's id, or "" when `training.mlflow.use_mlflow` is false.

    Raises:
        UserError: a run does not exist, `resume` has no run, or no MLflow server is at the address.
        ServiceError: the server stopped answering.
    """
    if resume and not warm_start_run_id:
        raise UserError("resume_run=true needs warm_start_run_id: the run to continue")
    if resume and run_id and run_id != warm_start_run_id:
        raise UserError(f"resume_run=true continues run {warm_start_run_id!r}, not run_id={run_id!r}; leave run_id out")
    refuse_untracked(config, run_id, warm_start_run_id)
    if not config.training.mlflow.use_mlflow:
        return ""
    check_server(config)
    client = connect(config)
    with mlflow_errors(config):
        if warm_start_run_id:
            existing_run(client, warm_start_run_id, "warm_start_run_id")
        chosen = warm_start_run_id if resume else run_id
        if chosen:
            run = existing_run(client, chosen, "run_id")
            reopen(client, run)
            if not resume and DATA_TABLES in run.data.tags:  # the training begins anew, with the data of today
                client.delete_tag(chosen, DATA_TABLES)
        else:
            experiment = experiment_of(client, config.training.mlflow.experiment_name)
            opened = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            run = client.create_run(experiment, run_name=f"{name or env} {opened}")
        tags = tags or {}
        origin = origin_tags(tags.get(DAG_ID, ""), git_commit(), user)
        identity = {
            # An existing run keeps its creator.
            **{key: value for key, value in origin.items() if key == SOURCE_COMMIT or key not in run.data.tags},
            "env": env,
            OVERRIDES: json_tag(client, run.info.run_id, OVERRIDES, list(overrides), overrides_text(overrides)),
            "configuration_hash": configuration_hash(config),
            GIT_COMMIT: origin[SOURCE_COMMIT],
            "image": _training_image(config),
            **({"warm_start_run_id": warm_start_run_id} if warm_start_run_id and not resume else {}),
            **tags,
        }
        set_tags(client, run.info.run_id, identity)
        # A logged param cannot change. A resumed run keeps its params, and its tags hold the new values.
        log_params(client, run, flatten(redact(to_dict(config))))
        log_text(client, run.info.run_id, to_yaml(config), CONFIG_ARTIFACT)
        describe(client, run.info.run_id, config.evaluation.registry.model_name)
    return str(run.info.run_id)


def close_run(config: Config, run_id: str, status: str = FINISHED, reason: str = "") -> None:
    """End the run as FINISHED, FAILED or KILLED. A tag and the description, which its page shows, keep `reason`.

    Without a reason, the reason of an earlier failure is deleted.
    """
    if not run_id:
        return
    refuse_untracked(config, run_id)
    if status not in ENDED:
        raise ValueError(f"status {status!r}, expected {FINISHED}, {FAILED} or {KILLED}")
    client = connect(config)
    with mlflow_errors(config):
        if reason:
            set_tags(client, run_id, {FAILURE_REASON: one_line(reason)})
        elif FAILURE_REASON in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, FAILURE_REASON)
        client.set_terminated(run_id, status)
        describe(client, run_id, config.evaluation.registry.model_name)


def run_url(config: Config, run_id: str) -> str:
    """Address of the run's page; "" without a run, or if the tracking address is not that of a web server."""
    address = (config.training.mlflow.public_uri or public_address(config)).rstrip("/")
    if not run_id or not address.startswith(("http://", "https://")):
        return ""
    with mlflow_errors(config):
        experiment = connect(config).get_run(run_id).info.experiment_id
    return run_page(address, experiment, run_id, os.environ.get(WORKSPACE_VARIABLE, ""))


def _training_image(config: Config) -> str:
    """The image that trains: that of the pods on Kubernetes, else that of this process."""
    if config.compute.backend == "kubernetes":
        return config.compute.kubernetes.image
    return os.environ.get(IMAGE_VARIABLE, "none")


def git_commit() -> str:
    """Commit of the code: TRANSFORMER_GIT_COMMIT in an image, else the commit of the working tree."""
    if commit := os.environ.get(COMMIT_VARIABLE):
        return commit
    argv = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
