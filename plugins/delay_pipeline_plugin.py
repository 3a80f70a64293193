"""What the delay pipeline registers with Airflow."""

from airflow.sdk.plugins_manager import AirflowPlugin

from delay_pipeline.links import MlflowRunLink


class DelayPipelinePlugin(AirflowPlugin):
    name = "delay_pipeline"
    operator_extra_links = [MlflowRunLink()]  # noqa: RUF012  (Airflow's own declaration)
