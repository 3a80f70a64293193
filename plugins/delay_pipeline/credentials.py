"""Credentials of a stage that runs on the worker, from Airflow's connections `aws_default` and `optuna_postgres`.

The stage gets the credentials in its environment variables, under the names that every AWS and PostgreSQL client reads.
No argument, log line or rendered field shows them. A pod has credentials of its own: its role, or a Kubernetes secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from transformer.protocol import REPORT_STUDY, TUNE

if TYPE_CHECKING:
    from transformer.config import Config

S3_CONNECTION = "aws_default"
POSTGRES_CONNECTION = "optuna_postgres"
STUDY_STAGES = (TUNE, REPORT_STUDY)


def stage_environment(stage: str, config: Config) -> dict[str, str]:
    """Return environment variables with the credentials of the services that a stage uses."""
    return s3_environment(config) | (postgres_environment(config) if stage in STUDY_STAGES else {})


def s3_environment(config: Config) -> dict[str, str]:
    """Return the credentials of the bucket, or {} if the run uses no bucket or the connection is not defined."""
    if not (config.data.download_data_from_s3 or config.data.save_results_to_s3):
        return {}
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    hook = AwsBaseHook(aws_conn_id=S3_CONNECTION, client_type="s3")
    variables = {"AWS_DEFAULT_REGION": hook.region_name, "AWS_ENDPOINT_URL": hook.conn_config.endpoint_url}
    if credentials := hook.get_session().get_credentials():
        frozen = credentials.get_frozen_credentials()
        variables |= {
            "AWS_ACCESS_KEY_ID": frozen.access_key,
            "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
            "AWS_SESSION_TOKEN": frozen.token,
        }
    return {name: value for name, value in variables.items() if value}


def postgres_environment(config: Config) -> dict[str, str]:
    """Return the credentials of the study's database, or {} if it is SQLite or the connection is not defined.

    A user in `search.storage_url` beats the user of the connection.
    """
    if not config.search.storage_url:
        return {}
    try:
        connection = Connection.get(POSTGRES_CONNECTION)
    except AirflowNotFoundException:
        return {}
    variables = {"PGUSER": connection.login, "PGPASSWORD": connection.password}
    return {name: value for name, value in variables.items() if value}
