"""The buttons that lead from a task to MLflow."""

from airflow.sdk import BaseOperator, BaseOperatorLink

from transformer.mlflow_pages import artifact_page


class MlflowRunLink(BaseOperatorLink):
    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002  (Airflow's signature)
        """Address of the run's page; empty when nothing is logged to MLflow."""
        run = getattr(operator, "mlflow_run", None)
        return run["run_url"] if isinstance(run, dict) else ""


class ReportLink(MlflowRunLink):
    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        """Address of the evaluation's report in MLflow; empty when nothing is logged there."""
        return artifact_page(super().get_link(operator, ti_key=ti_key), "evaluation/report.html")
