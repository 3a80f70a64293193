"""The pipeline in namespaces of its own: deploy/kubernetes as it is, and PostgreSQL, S3 and Airflow."""

import base64
import json
import secrets
import string
from dataclasses import dataclass
from pathlib import Path

import boto3
import yaml

from tests.cluster.kubectl import KubectlError, apply, forwarded, get, kubectl

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFESTS = Path(__file__).parent / "manifests"
NAMESPACES = {  # of deploy/kubernetes → of the tests, which must meet no real installation
    "airflow": "td-test-airflow",
    "mlflow": "td-test-mlflow",
    "train-delays-dev": "td-test-stages",
}
SERVICES = "td-test-services"
STAGES = NAMESPACES["train-delays-dev"]
S3 = f"http://s3.{SERVICES}.svc.cluster.local:9000"
MLFLOW = f"http://mlflow.{NAMESPACES['mlflow']}.svc.cluster.local:5000"
BUCKET = "td-test-data"
ARTIFACTS = "td-test-mlflow"
SECRET = "td-test-keys"  # the keys of S3, and the password of the studies' database
LITTLE = {"requests": {"cpu": "50m", "memory": "256Mi"}}  # fits on a laptop


@dataclass(frozen=True)
class Images:
    registry: str
    tag: str

    def __getitem__(self, name):
        return f"{self.registry}train-delay-{name}:{self.tag}"


def install(images, data):
    """Make everything and wait until it answers.

    Args:
        data: folder with event tables, which go into the bucket.

    Raises:
        KubectlError: the cluster refused something, or a pod did not become ready.
    """
    password, key = secrets.token_hex(12), secrets.token_hex(12)
    names = {"airflow": NAMESPACES["airflow"], "services": SERVICES}
    names |= {"airflow_image": images["airflow"], "services_image": images["test-services"]}
    apply(_namespaces())
    apply(_secrets(password, key))
    apply(_rendered("services.yaml", names))
    _wait("pod/services", SERVICES)
    with forwarded(SERVICES, "service/s3", 9000, "/") as address:
        _fill(address, data)
    apply([_adapted(document, images) for document in _deployed()])
    apply(_rendered("airflow.yaml", names))
    _wait("deployment/mlflow", NAMESPACES["mlflow"])
    _wait("deployment/airflow", NAMESPACES["airflow"])


def remove():
    """Delete the namespaces of the tests with all that is in them, and wait until they are gone."""
    kubectl("delete", "namespace", *NAMESPACES.values(), SERVICES, "--ignore-not-found", "--timeout=180s")


def overrides(images):
    """Overrides of environment dev for stages in this installation, on a small node."""
    stages = ["fetch_files", "compute_statistics_and_embeddings", "train_model", "evaluate_model", "register_model"]
    profiles = [{"name": "test", "cpu": 1, "memory": "3Gi", "disk": "2Gi", "shared_memory": "256Mi"}]
    return [
        f"data.endpoint_url={S3}",
        f"data.bucket_name={BUCKET}",
        f"training.mlflow.tracking_uri={MLFLOW}",
        f"compute.kubernetes.image={images['transformer']}",
        "compute.kubernetes.image_pull_policy=IfNotPresent",
        f"compute.kubernetes.namespace={STAGES}",
        f"compute.kubernetes.secret={SECRET}",
        f"compute.kubernetes.profiles={json.dumps(profiles)}",
        *(f"compute.kubernetes.stages.{stage}=test" for stage in [*stages, "tune", "report_study"]),
    ]


def stage_pods():
    """The pods in the namespace of the stages, the oldest first."""
    pods = get("pods", "--namespace", STAGES)["items"]
    return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])


def _deployed():
    """The objects of deploy/kubernetes that one environment needs."""
    for name in ("mlflow.yaml", "trainers/trainers.yaml", "priority.yaml"):
        text = (REPOSITORY / "deploy" / "kubernetes" / name).read_text()
        for document in yaml.safe_load_all(text):
            if name.startswith("trainers"):
                document["metadata"]["namespace"] = "train-delays-dev"  # as the kustomization of `dev` does
            yield document


def _namespaces():
    made = yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes" / "namespaces.yaml").read_text())
    made = [space for space in made if space["metadata"]["name"] in NAMESPACES]
    for space in made:
        space["metadata"]["name"] = NAMESPACES[space["metadata"]["name"]]
    return [*made, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SERVICES}}]


def _adapted(document, images):
    """The object in the namespaces of the tests, with their images, their bucket, their keys and little to run on."""
    meta = document["metadata"]
    meta.pop("annotations", None)  # the roles of AWS
    if "namespace" in meta:
        meta["namespace"] = NAMESPACES[meta["namespace"]]
    for subject in document.get("subjects", []):
        subject["namespace"] = NAMESPACES[subject["namespace"]]
    if document["kind"] == "Deployment":
        pod = document["spec"]["template"]["spec"]
        for container in [*pod["initContainers"], *pod["containers"]]:
            container |= {"image": images["mlflow"], "imagePullPolicy": "IfNotPresent", "resources": LITTLE}
            container["envFrom"] = [{"secretRef": {"name": SECRET}}]
            container["env"] = [_setting(entry) for entry in container["env"]]
    return document


def _setting(entry):
    values = {
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{ARTIFACTS}/artifacts",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"{MLFLOW.removeprefix('http://')},localhost:*,127.0.0.1:*",
    }
    return entry | {"value": values[entry["name"]]} if entry["name"] in values else entry


def _secrets(password, key):
    database = f"postgres.{SERVICES}.svc.cluster.local:5432"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": key, "AWS_DEFAULT_REGION": "us-east-1"}
    airflow = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql://airflow:{password}@{database}/airflow",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
    }
    address = f"postgresql://mlflow:{password}@{database}/mlflow"
    return [
        _secret(SERVICES, "postgres", {"password": password}),
        _secret(NAMESPACES["airflow"], "airflow", airflow),
        _secret(NAMESPACES["mlflow"], "mlflow-database", {"uri": address}),
        _secret(NAMESPACES["mlflow"], SECRET, keys | {"MLFLOW_S3_ENDPOINT_URL": S3}),
        _secret(STAGES, SECRET, keys | {"PGPASSWORD": password}),
    ]


def _secret(namespace, name, values):
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": values}


def _rendered(name, values):
    return list(yaml.safe_load_all(string.Template((MANIFESTS / name).read_text()).substitute(values)))


def _fill(address, data):
    store = boto3.resource(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    store.create_bucket(Bucket=ARTIFACTS)
    bucket = store.create_bucket(Bucket=BUCKET)
    for path in data.rglob("*.parquet"):
        bucket.upload_file(str(path), f"data/{path.relative_to(data).as_posix()}")


def _wait(what, namespace):
    condition = "Available" if what.startswith("deployment/") else "Ready"
    try:
        kubectl("wait", f"--namespace={namespace}", f"--for=condition={condition}", what, "--timeout=300s")
    except KubectlError as error:
        raise KubectlError(f"{error}\n{kubectl('describe', 'pods', f'--namespace={namespace}')[-3000:]}") from None
