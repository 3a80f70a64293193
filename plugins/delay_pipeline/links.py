"""Buttons of a task: links to its MLflow run, its report and its pod."""

from contextlib import suppress

from airflow.sdk import BaseOperator, BaseOperatorLink

from delay_pipeline.outcomes import outcome_of
from transformer.tracking.names import artifact_page


class MlflowRunLink(BaseOperatorLink):
    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002  (Airflow's signature)
        """Return the address of the run's page, or "" if nothing is logged to MLflow."""
        run = getattr(operator, "mlflow_run", None)
        return run["run_url"] if isinstance(run, dict) else ""


class ReportLink(MlflowRunLink):
    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        """Return the address of the evaluation's report in MLflow, or "" if there is no report.

        Airflow calls this in the process of the task, after the task has ended.
        """
        run_page = super().get_link(operator, ti_key=ti_key)
        run = getattr(operator, "mlflow_run", None)
        if not (run_page and isinstance(run, dict) and run.get("request")):
            return artifact_page(run_page, "evaluation/report.html")
        with suppress(Exception):  # a missing button must not fail the task
            return outcome_of(run).report_page(run_page)
        return ""


class PodLink(BaseOperatorLink):
    name = "Pod"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002  (Airflow's signature)
        """Return the address of the pod's page.

        It is "" on the worker, before the pod exists, and if `compute.kubernetes.pod_url` is empty.
        """
        return getattr(operator, "pod_page", "")
