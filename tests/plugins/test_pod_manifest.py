"""The pods of stages: equal to golden manifests, and without secrets.

After an intended change, write the manifests again and read the difference:

    GOLDEN=write python -m pytest tests/plugins/test_pod_manifest.py && git diff tests/plugins/golden
"""

import json
import os
import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import ApiClient

from delay_pipeline import multi_node
from delay_pipeline.stage import StageOperator

GOLDEN = Path(__file__).parent / "golden"
KUBERNETES = "1.37"
OVERRIDES = ["compute.kubernetes.image=registry.example.org/train-delay-transformer:1.2.0"]
SECRET = "s3cr3t-planted"
RUN = {
    "env": "prod",
    "run_id": "3f2a9c",
    "warm_start_run_id": None,
    "resume_run": False,
    "run_url": "https://mlflow.example.org/#/experiments/1/runs/3f2a9c",
}


@pytest.fixture
def built(monkeypatch):
    """Build the pod of a stage: `(operator, manifest)`."""
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    monkeypatch.setattr(KubernetesHook, "is_in_cluster", property(lambda self: True))
    manifests = []

    def remember(self, context):
        self.name = self._set_name(self.name)
        manifests.append(ApiClient().sanitize_for_serialization(self.build_pod_request_obj(context)))

    monkeypatch.setattr(KubernetesPodOperator, "execute", remember)

    def build(stage, *overrides, dag_run="manual__2026-01-05T10:00:00+00:00", worker=None, **changes):
        task_id = stage.replace("-", "_")
        run = {**RUN, "overrides": [*OVERRIDES, *overrides], **changes}
        task = StageOperator(
            task_id=task_id, stage=stage, mlflow_run=run, worker=worker, execution_timeout=timedelta(hours=2)
        )
        ti = SimpleNamespace(
            xcom_push=lambda key, value: None,
            dag_id="model_training",
            task_id=task_id,
            map_index=-1 if worker is None else worker,
            try_number=1,
        )
        task.execute({"ti": ti, "run_id": dag_run, "dag": SimpleNamespace()})
        return task, manifests[-1]

    return build


@pytest.mark.parametrize(
    ("name", "stage", "overrides"),
    [
        ("cpu", "fetch-files", ["compute.kubernetes.secret=train-delays"]),
        ("gpu", "train-model", []),
        ("gpus", "train-model", ["compute.kubernetes.stages.train_model=gpu-4"]),
    ],
)
def test_pod_is_the_golden_one(built, name, stage, overrides):
    _, manifest = built(stage, *overrides)
    suffix = manifest["metadata"]["name"].removeprefix(stage)
    assert re.fullmatch(r"-[a-z0-9]{8}", suffix)
    manifest["metadata"]["name"] = f"{stage}-xxxxxxxx"
    del manifest["metadata"]["labels"]["airflow_version"]
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    assert manifest == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_several_nodes_are_the_golden_job_and_service(built):
    small = "{name: cpu-small}, {name: cpu-large}, {name: gpu-1}"
    profiles = f"compute.kubernetes.profiles=[{{name: gpus, gpus: 4, nodes: 2}}, {small}]"
    _, manifest = built("train-model", profiles, "compute.kubernetes.stages.train_model=gpus")
    manifest["metadata"]["name"] = "train-model-xxxxxxxx"
    del manifest["metadata"]["labels"]["airflow_version"]
    job = multi_node.job_manifest(PodGenerator.deserialize_model_dict(manifest), nodes=2)
    written = ApiClient().sanitize_for_serialization(job)
    job.metadata.uid = "0123"  # Kubernetes gives it
    written = [written, ApiClient().sanitize_for_serialization(multi_node.service_manifest(job))]
    for part in written:
        kubernetes_validate.validate(part, KUBERNETES, strict=True)
    path = GOLDEN / "nodes.yaml"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(yaml.safe_dump_all(written, sort_keys=False), encoding="utf-8")
    assert written == list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "stage", ["fetch-files", "compute-statistics-and-embeddings", "evaluate-model", "report-study"]
)
def test_light_stages_take_no_gpu(built, stage):
    _, manifest = built(stage)
    assert "nvidia.com/gpu" not in json.dumps(manifest)


def test_labels_are_legal_for_any_name(built):
    _, manifest = built("train-model", dag_run="manual ünïcode/" + "x" * 200, run_id="my run/" + "y" * 90)
    for label, value in manifest["metadata"]["labels"].items():
        assert re.fullmatch(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?", value), label
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_an_image_has_its_entry_point_and_the_stage_its_arguments(built):
    task, manifest = built("train-model", warm_start_run_id="77aa")
    (container,) = manifest["spec"]["containers"]  # no XCom sidecar
    assert not container.get("command")
    assert container["args"] == ["python", "-m", "transformer", *task.stage_arguments()]
    assert container["args"][-2:] == ["--warm-start-run-id", "77aa"]


def test_each_worker_of_a_study_has_a_pod_that_airflow_tells_from_the_others(built):
    database = "search.storage_url=postgresql://database.example.org/optuna"
    for worker in (0, 1):
        _, manifest = built("tune", database, worker=worker)
        assert manifest["spec"]["containers"][0]["args"][-2:] == ["--worker", str(worker)]
        assert manifest["metadata"]["labels"]["map_index"] == str(worker)
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "PGPASSWORD",
    "AIRFLOW_CONN_AWS_DEFAULT",
    "AIRFLOW_CONN_OPTUNA_POSTGRES",
)


@pytest.mark.parametrize("stage", ["train-model", "tune"])
def test_no_secret_value_reaches_manifest_or_rendered_fields(built, monkeypatch, stage):
    for variable in SECRETS:
        monkeypatch.setenv(variable, SECRET)
    task, manifest = built(stage, "compute.kubernetes.secret=train-delays")
    rendered = {name: repr(getattr(task, name)) for name in task.template_fields}
    assert SECRET not in json.dumps([manifest, rendered])
    (container,) = manifest["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "train-delays"}}]
    variables = {variable["name"] for variable in container["env"]}
    assert variables == {"TRANSFORMER_IMAGE", "OMP_NUM_THREADS", "POLARS_MAX_THREADS"}


def test_a_password_in_an_override_is_refused_before_a_pod_shows_it(built):
    with pytest.raises(AirflowFailException, match=r"compute\.kubernetes\.secret") as refused:
        built("train-model", f"training.mlflow.tracking_uri=http://me:{SECRET}@mlflow:5000")
    assert SECRET not in str(refused.value)


def test_an_unknown_profile_is_one_line_before_a_pod_starts(built):
    with pytest.raises(AirflowFailException, match=r"stages\.train_model='gpu-8' .*did you mean 'gpu-"):
        built("train-model", "compute.kubernetes.stages.train_model=gpu-8")
