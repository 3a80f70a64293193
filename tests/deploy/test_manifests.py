"""Every YAML of the deployment guide: schema, and agreement with the configuration, the DAGs and Airflow."""

import json
import re
import shutil
from dataclasses import replace

import kubernetes_validate
import pytest
import yaml
from airflow.configuration import conf

from tests.deploy.dockerfile import REPOSITORY
from tests.deploy.manifests import GUIDE, HELM_VALUES, Source, check, sources
from transformer.config import CONFIG_FOLDER, load_config
from transformer.errors import UserError

SOURCES = {source.place: source for source in sources()}


@pytest.fixture
def config_folder(tmp_path):
    return shutil.copytree(CONFIG_FOLDER, tmp_path / "config")


def manifests():
    texts = [source.text for source in SOURCES.values() if "kubernetes/" in source.place]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def manifest(kind, name):
    found = [m for m in manifests() if m["kind"] == kind and m["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind}/{name}"
    return found[0]


def values():
    return yaml.safe_load(HELM_VALUES.read_text())


@pytest.mark.parametrize("place", SOURCES)
def test_satisfies_its_schema(place, config_folder):
    check(SOURCES[place], config_folder)


def test_both_files_and_guide_are_covered():
    assert sum(place.startswith("deploy/") for place in SOURCES) >= 5
    assert sum(place.startswith("docs/deploy.md") for place in SOURCES) >= 3


@pytest.mark.parametrize(
    ("place", "right", "wrong", "error"),
    [
        (
            "deploy/kubernetes/mlflow.yaml",
            "containerPort: 5000",
            "containerPort: http",
            kubernetes_validate.ValidationError,
        ),
        ("deploy/kubernetes/mlflow.yaml", "replicas:", "replica:", kubernetes_validate.ValidationError),
        ("deploy/kubernetes/trainers.yaml", "verbs: [get]", "verb: [get]", kubernetes_validate.ValidationError),
        ("deploy/airflow-values.yaml", "triggerer:", "trigerer:", ValueError),
        ("deploy/airflow-values.yaml", "logGroomerSidecar: *none", "logGroomer: *none", ValueError),
    ],
)
def test_a_planted_error_is_found(place, right, wrong, error, config_folder):
    source = SOURCES[place]
    assert right in source.text
    with pytest.raises(error):
        check(replace(source, text=source.text.replace(right, wrong)), config_folder)


def test_a_planted_error_in_a_block_of_the_guide_is_found(config_folder):
    with pytest.raises(UserError, match="image_name"):
        check(Source("guide", "# include/config/prod/compute.yaml\nkubernetes: {image_name: x}\n"), config_folder)
    with pytest.raises(AssertionError, match="neither"):
        check(Source("guide", "kubernetes: {image: x}\n"), config_folder)


def test_guide_names_only_files_that_exist():
    words = GUIDE.read_text().replace("`", " ").replace("(", " ").replace(")", " ").split()
    named = {word.rstrip(".,;:") for word in words if word.startswith(("deploy/", "include/config/", "dags/"))}
    assert {"deploy/airflow-values.yaml", "deploy/kubernetes/trainers.yaml"} <= named
    assert not [name for name in named if "<" not in name and not (REPOSITORY / name).exists()]


@pytest.mark.parametrize("env", ["dev", "prod"])
def test_what_the_configuration_names_is_there(env):
    kubernetes = load_config(env).compute.kubernetes
    assert manifest("Namespace", kubernetes.namespace)["metadata"]["labels"]["mlflow-client"] == "true"
    assert manifest("ServiceAccount", kubernetes.service_account)
    assert manifest("PriorityClass", kubernetes.priority_class)


@pytest.mark.parametrize("env", ["dev", "prod"])
def test_mlflow_answers_at_the_address_of_the_configuration(env):
    address = load_config(env).training.mlflow.tracking_uri.removeprefix("http://")
    service = manifest("Service", "mlflow")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    assert address == f"{host}:{service['spec']['ports'][0]['port']}"
    arguments = manifest("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]["args"]
    allowed = next(a for a in arguments if a.startswith("--allowed-hosts=")).partition("=")[2].split(",")
    assert address in allowed


def test_airflow_may_do_what_the_pod_operator_does():
    """One verb per call of KubernetesHook, PodManager and the trigger. No exec, because no XCom sidecar is used."""
    rights = {
        resource: set(rule["verbs"])
        for rule in manifest("Role", "stage-launcher")["rules"]
        for resource in rule["resources"]
    }
    assert rights["pods"] == {"create", "get", "list", "watch", "patch", "delete"}
    assert rights["pods/log"] == {"get"}
    assert rights["events"] >= {"get", "list"}
    assert set(rights) == {"pods", "pods/log", "events"}
    accounts = {subject["name"] for subject in manifest("RoleBinding", "stage-launcher")["subjects"]}
    assert accounts == {"airflow-worker", "airflow-triggerer"}


def test_airflow_knows_the_options_of_the_values():
    known = conf.configuration_description
    for section, options in values()["config"].items():
        unknown = set(options) - set(known[section]["options"])
        assert not unknown, section


def test_dag_bundle_follows_the_release_of_the_image():
    (bundle,) = json.loads(values()["config"]["dag_processor"]["dag_bundle_config_list"])
    assert bundle["kwargs"]["tracking_ref"] == f"v{values()['images']['airflow']['tag']}"
    assert (REPOSITORY / bundle["kwargs"]["subdir"] / "model_training.py").is_file()


def test_no_secret_stands_in_a_manifest_or_in_the_values():
    assert not [m for m in manifests() if m["kind"] == "Secret"]
    for source in SOURCES.values():
        for name in ("password:", "AWS_SECRET_ACCESS_KEY:", "PRIVATE KEY"):
            assert name not in source.text, source.place
        assert not re.search(r"://[^\s/@]*:[^\s/@]*@", source.text), source.place
