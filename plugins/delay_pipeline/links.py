"""The buttons that lead from a task to MLflow, and to its pod."""

from contextlib import suppress

from airflow.sdk import BaseOperator, BaseOperatorLink

from delay_pipeline.outcomes import outcome_of
from transformer.tracking.names import artifact_page


class MlflowRunLink(BaseOperatorLink):
    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002  (Airflow's signature)
        """Address of the run's page; empty when nothing is logged to MLflow."""
        run = getattr(operator, "mlflow_run", None)
        return run["run_url"] if isinstance(run, dict) else ""


class ReportLink(MlflowRunLink):
    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        """Address of the evaluation's report in MLflow; empty when nothing is logged there, or not yet.

        Airflow asks when the task has ended, in its process.
        """
        run_page = super().get_link(operator, ti_key=ti_key)
        run = getattr(operator, "mlflow_run", None)
        if not (run_page and isinstance(run, dict) and run.get("request")):
            return artifact_page(run_page, "evaluation/report.html")
        with suppress(Exception):  # a button less is no failure
            return artifact_page(run_page, outcome_of(run).report)
        return ""


class PodLink(BaseOperatorLink):
    name = "Pod"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002  (Airflow's signature)
        """Address of the pod's page; empty beside the worker, before there is a pod, or without a page to show it."""
        return getattr(operator, "pod_page", "")
