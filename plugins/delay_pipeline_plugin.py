"""Airflow plugin of the delay pipeline: it registers the links of its operators."""

from airflow.sdk.plugins_manager import AirflowPlugin

from delay_pipeline.links import MlflowRunLink, ReportLink


class DelayPipelinePlugin(AirflowPlugin):
    name = "delay_pipeline"
    operator_extra_links = [MlflowRunLink(), ReportLink()]  # noqa: RUF012  (Airflow's own declaration)
