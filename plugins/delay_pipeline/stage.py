"""The one operator that runs a stage: beside the Airflow worker or in a pod, with the same arguments."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from delay_pipeline import REPOSITORY
from delay_pipeline.failures import one_line_failures
from delay_pipeline.links import MlflowRunLink
from delay_pipeline.process import ProcessGroup
from transformer.config import Config, load_config

RESULT_KEY = "result"  # XCom of the JSON object a local stage writes; nothing depends on it
USER_ERROR = 2  # exit status: the user's input or configuration
MODULE = ["-m", "transformer"]


class StageOperator(KubernetesPodOperator):
    """Run `python -m transformer <stage>` where `compute.backend` of the run's configuration says.

    Args:
        stage: stage name of the command line, for example `train-model`.
        mlflow_run: what `open_run` returned (an XCom reference in a DAG).

    Raises:
        AirflowFailException: the stage refused its input; not retried.
        AirflowException: anything else; retried.
    """

    template_fields = (*KubernetesPodOperator.template_fields, "mlflow_run")
    operator_extra_links = (MlflowRunLink(),)
    ui_color: ClassVar[str] = "#dbe9f6"

    def __init__(self, *, stage: str, mlflow_run: Any, **kwargs: Any) -> None:
        super().__init__(
            name=stage,
            startup_timeout_seconds=int(timedelta(minutes=20).total_seconds()),  # a node and a CUDA image may be new
            log_pod_spec_on_failure=False,  # failures are one line
            do_xcom_push=False,  # no XCom sidecar: results go to MLflow
            **kwargs,
        )
        self.stage = stage
        self.mlflow_run = mlflow_run
        self._group: ProcessGroup | None = None

    def execute(self, context: Context) -> None:
        # Airflow stores links when a task ends; this one is wanted while it trains.
        context["ti"].xcom_push(key=MlflowRunLink().xcom_key, value=self.mlflow_run["run_url"])
        with one_line_failures(context["ti"]):
            config = load_config(self.mlflow_run["env"], self.mlflow_run["overrides"])
            if config.compute.backend == "kubernetes":
                self._run_in_pod(config, context)
            else:
                self._run_here(context)

    def on_kill(self) -> None:
        if self._group:
            self._group.stop()
        else:
            super().on_kill()

    def stage_arguments(self) -> list[str]:
        """Arguments after `python -m transformer`, the same for every backend."""
        run = self.mlflow_run
        arguments = [self.stage, "--env", run["env"]]
        for override in run["overrides"]:
            arguments += ["--set", override]
        if run["run_id"]:
            arguments += ["--run-id", run["run_id"]]
        if self.stage == "train-model" and run["warm_start_run_id"]:
            arguments += ["--warm-start-run-id", run["warm_start_run_id"]]
            arguments += ["--resume"] if run["resume_run"] else []
        return arguments

    def _run_in_pod(self, config: Config, context: Context) -> None:
        kubernetes = config.compute.kubernetes
        self.image = kubernetes.image
        self.namespace = kubernetes.namespace
        self.service_account_name = kubernetes.service_account
        self.cmds = ["python", *MODULE]
        self.arguments = self.stage_arguments()
        super().execute(context)

    def _run_here(self, context: Context) -> None:
        with tempfile.TemporaryDirectory(prefix=f"{self.stage}-") as folder:
            result_file = Path(folder) / "result.json"
            argv = [sys.executable, *MODULE, *self.stage_arguments(), "--result", str(result_file)]
            self._group = ProcessGroup(argv, REPOSITORY)
            last_line = error_line = ""
            try:
                for line in self._group.lines():
                    self.log.info(line)
                    last_line = line or last_line
                    if line.startswith("error: "):
                        error_line = line.removeprefix("error: ")
                status = self._group.wait()
            except BaseException:  # a timeout or an interrupt must not leave the stage running
                self._group.stop()
                raise
            self._check(status, error_line or last_line)
            context["ti"].xcom_push(key=RESULT_KEY, value=self._read_result(result_file))

    def _check(self, status: int, message: str) -> None:
        assert self._group is not None
        if self._group.stopped:
            raise AirflowException(f"{self.stage} was stopped before its end")
        if status < 0:
            hint = "; out of memory is the usual cause" if status == -signal.SIGKILL else ""
            raise AirflowException(f"{self.stage} was ended by {signal.Signals(-status).name}{hint}")
        if status == USER_ERROR:
            raise AirflowFailException(message)
        if status:
            raise AirflowException(message or f"{self.stage} exited with {status} and said nothing")

    def _read_result(self, path: Path) -> dict[str, Any]:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            result = None
        if not isinstance(result, dict):
            raise AirflowException(f"{self.stage} exited with 0 and left no JSON object in --result")
        return result
