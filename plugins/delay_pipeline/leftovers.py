"""Pods that a DAG run leaves behind, and their deletion at its end."""

from __future__ import annotations

import logging

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from delay_pipeline.multi_node import MultiNodeJob
from transformer.config import Config
from transformer.protocol import TRAIN_MODEL

log = logging.getLogger(__name__)


def delete_leftovers(config: Config, dag_id: str, run_id: str) -> None:
    """Delete the Jobs and pods of a DAG run whose tasks have all ended. An error is logged only.

    A task that a person ends just after it made its pod never reaches the triggerer, so nobody else deletes the pod.
    """
    namespace, nodes = config.compute.kubernetes.namespace, config.compute.kubernetes.profile(TRAIN_MODEL).nodes
    selector = f"dag_id={make_safe_label_value(dag_id)},run_id={make_safe_label_value(run_id)}"
    hook = KubernetesHook()
    try:
        if nodes > 1:
            for job in hook.batch_v1_client.list_namespaced_job(namespace, label_selector=selector).items:
                MultiNodeJob(hook, job.metadata.name, namespace, nodes).delete()
        for pod in hook.core_v1_client.list_namespaced_pod(namespace, label_selector=selector).items:
            if not pod.metadata.deletion_timestamp:
                log.warning("deleting pod %s, which its task left behind", pod.metadata.name)
                hook.core_v1_client.delete_namespaced_pod(pod.metadata.name, namespace)
    except (ApiException, ConfigException, HTTPError) as error:
        log.warning("pods that are left of this DAG run could not be deleted: %s", error)
