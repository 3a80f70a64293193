"""S3 credentials of a stage that runs beside the worker: those of the Airflow connection `aws_default`.

A pod has its own (its role, or a Kubernetes secret); a stage on the worker gets the connection's in its environment,
under the names that every AWS client reads, and in no argument, log or rendered field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformer.config import Config

CONNECTION = "aws_default"


def s3_environment(config: Config) -> dict[str, str]:
    """Environment variables with the connection's credentials; {} when the stage needs no S3 or none are defined."""
    if not (config.data.download_data_from_s3 or config.data.save_results_to_s3):
        return {}
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    hook = AwsBaseHook(aws_conn_id=CONNECTION, client_type="s3")
    variables = {"AWS_DEFAULT_REGION": hook.region_name, "AWS_ENDPOINT_URL": hook.conn_config.endpoint_url}
    if credentials := hook.get_session().get_credentials():
        frozen = credentials.get_frozen_credentials()
        variables |= {
            "AWS_ACCESS_KEY_ID": frozen.access_key,
            "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
            "AWS_SESSION_TOKEN": frozen.token,
        }
    return {name: value for name, value in variables.items() if value}
