"""The button that leads from a task to its MLflow run."""

from airflow.sdk import BaseOperator, BaseOperatorLink


class MlflowRunLink(BaseOperatorLink):
    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002  (Airflow's signature)
        """Address of the run's page; empty when nothing is logged to MLflow."""
        run = getattr(operator, "mlflow_run", None)
        return run["run_url"] if isinstance(run, dict) else ""
