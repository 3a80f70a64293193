"""Every YAML of the deployment guide: schema, and agreement with the configuration, the DAGs and Airflow."""

import configparser
import json
import re
import shutil
from dataclasses import replace

import kubernetes_validate
import pytest
import yaml
from airflow.configuration import conf

from tests.deploy.dockerfile import REPOSITORY
from tests.deploy.manifests import (
    GUIDE,
    HELM_VALUES,
    INSTALLATION,
    INSTALLATION_VALUES,
    KUBERNETES,
    KUBERNETES_FOLDER,
    Source,
    check,
    dag_bundles,
    environment,
    helm_template,
    helm_values,
    kustomize,
    sources,
)
from transformer.config import CONFIG_FOLDER, environments, load_config
from transformer.errors import UserError

SOURCES = {source.place: source for source in sources()}


@pytest.fixture
def config_folder(tmp_path):
    return shutil.copytree(CONFIG_FOLDER, tmp_path / "config")


def manifests():
    texts = [source.text for source in SOURCES.values() if "kubernetes/" in source.place]
    documents = [document for text in texts for document in yaml.safe_load_all(text)]
    return [document for document in documents if document["kind"] != "Kustomization"]


def manifest(kind, name, objects=None, namespace=None):
    found = [
        m
        for m in (manifests() if objects is None else objects)
        if (m["kind"], m["metadata"]["name"]) == (kind, name) and namespace in (None, m["metadata"].get("namespace"))
    ]
    assert len(found) == 1, f"{kind}/{name}"
    return found[0]


def mlflow_container(objects=None):
    return manifest("Deployment", "mlflow", objects)["spec"]["template"]["spec"]["containers"][0]


def on_kubernetes():
    return [env for env in environments() if load_config(env).compute.backend == "kubernetes"]


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
        (
            "deploy/kubernetes/trainers/trainers.yaml",
            "verbs: [get]",
            "verb: [get]",
            kubernetes_validate.ValidationError,
        ),
        ("deploy/airflow-values.yaml", "triggerer:", "trigerer:", ValueError),
        ("deploy/airflow-values.yaml", "logGroomerSidecar: *none", "logGroomer: *none", ValueError),
        ("deploy/airflow-values.yaml", "airflowVersion: 3.3.2", "airflowVersion: 3.3", ValueError),
        ("deploy/airflow-values.yaml", "extraEnvFrom: |", "extraEnvFrom:", ValueError),
        ("deploy/airflow-values.yaml", "failureThreshold: 10", 'failureThreshold: "10"', ValueError),
        # The two spaces keep the line break, which breaks airflow.cfg.
        ("deploy/airflow-values.yaml", '      "kwargs"', '        "kwargs"', ValueError),
        ("deploy/installation/values.yaml", 'tag: "0.1.0"', "tag: 1.0", ValueError),
        ("deploy/installation/values.yaml", 'gpus: "8"', "gpus: 8", ValueError),
        ("deploy/installation/values.yaml", "artifacts:", "artefacts:", ValueError),
        ("deploy/kubernetes/dev/kustomization.yaml", "resources:", "bases:", ValueError),
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
    assert {"deploy/airflow-values.yaml", "deploy/installation/values.yaml"} <= named
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
    settings = environment(mlflow_container())
    assert {address, "mlflow.example.org"} <= set(settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    assert settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "https://mlflow.example.org"


def test_only_a_hung_server_is_killed():
    """The probes that a busy MLflow server passes. By default, one second without an answer is a failure."""
    container = mlflow_container()
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    fields = ("periodSeconds", "timeoutSeconds", "failureThreshold")
    assert {name: tuple(probe[field] for field in fields) for name, probe in probes.items()} == {
        "startup": (5, 5, 120),
        "readiness": (10, 10, 6),
        "liveness": (60, 30, 10),
    }
    assert {probe["httpGet"]["path"] for probe in probes.values()} == {"/health"}


def test_probes_of_airflow_wait_for_a_busy_node():
    values = helm_values()
    assert values["apiServer"]["livenessProbe"] == {"timeoutSeconds": 30, "periodSeconds": 30, "failureThreshold": 10}
    assert values["apiServer"]["startupProbe"]["failureThreshold"] == 30
    assert values["scheduler"]["startupProbe"] == {"timeoutSeconds": 60, "failureThreshold": 30}
    for component in ("scheduler", "triggerer", "dagProcessor"):
        assert values[component]["livenessProbe"] == {"timeoutSeconds": 60, "periodSeconds": 120}, component


def test_every_environment_on_kubernetes_has_a_folder():
    assert on_kubernetes() == ["dev", "prod"]
    for env in on_kubernetes():
        kustomization = yaml.safe_load((KUBERNETES_FOLDER / env / "kustomization.yaml").read_text())
        assert kustomization["namespace"] == load_config(env).compute.kubernetes.namespace
    assert set(on_kubernetes()) == set(helm_values()["stages"])
    assert set(on_kubernetes()) <= set(
        yaml.safe_load((KUBERNETES_FOLDER / "kustomization.yaml").read_text())["resources"]
    )


def test_kustomization_makes_the_objects_of_each_environment_in_its_namespace():
    objects = kustomize(KUBERNETES_FOLDER)
    for env in on_kubernetes():
        kubernetes = load_config(env).compute.kubernetes
        for kind, name in (
            ("ServiceAccount", kubernetes.service_account),
            ("Role", "stage-launcher"),
            ("RoleBinding", "stage-launcher"),
            ("ResourceQuota", "gpus"),
        ):
            assert manifest(kind, name, objects, kubernetes.namespace)
        subjects = manifest("RoleBinding", "stage-launcher", objects, kubernetes.namespace)["subjects"]
        assert {subject["namespace"] for subject in subjects} == {"airflow"}
    for document in objects:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    # Each value of values.yaml is the example value of the objects.
    assert kustomize(INSTALLATION) == objects


@pytest.fixture
def other_installation(tmp_path):
    """A copy of deploy/ with another value for every value of values.yaml."""
    folder = shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy") / "installation"
    text = (folder / "values.yaml").read_text()
    for old, new in (
        ("registry.example.org", "registry.local:5000/rail"),
        ("0.1.0", "7.8.9"),
        ("s3://train-delays-mlflow", "s3://other-mlflow"),
        ("s3://train-delays-airflow", "s3://other-airflow"),
        ("mlflow.example.org", "runs.local"),
        ("111122223333", "444455556666"),
        ('gpus: "8"', 'gpus: "2"'),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "values.yaml").write_text(text)
    return folder


def test_one_file_holds_every_value_of_an_installation(other_installation):
    objects = kustomize(other_installation)
    text = yaml.safe_dump_all(objects)
    for old in ("registry.example.org", "0.1.0", "mlflow.example.org", "111122223333", "s3://train-delays-mlflow"):
        assert old not in text
    pod = manifest("Deployment", "mlflow", objects)["spec"]["template"]["spec"]
    images = {container["image"] for container in pod["containers"] + pod["initContainers"]}
    assert images == {"registry.local:5000/rail/train-delay-mlflow:7.8.9"}
    settings = environment(mlflow_container(objects))
    assert settings["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://other-mlflow/artifacts"
    assert "runs.local" in settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    quotas = [m["spec"]["hard"] for m in objects if m["kind"] == "ResourceQuota"]
    assert quotas == [{"requests.nvidia.com/gpu": "2"}] * 2


def test_account_without_a_role(other_installation):
    values = other_installation / "values.yaml"
    values.write_text(
        re.sub(r"annotations: (&airflow )?\{eks[^}]*\}", r"annotations: \1{role: none}", values.read_text())
    )
    accounts = [m for m in kustomize(other_installation) if m["kind"] == "ServiceAccount"]
    assert [account["metadata"]["annotations"] for account in accounts] == [{"role": "none"}] * 3


def test_both_commands_of_an_installation_are_the_same_everywhere():
    command = re.compile(r"helm upgrade --install .*?(?=\n(?:#\n|# [A-Z]|```|[^#\s]))", re.DOTALL)
    texts = [path.read_text() for path in (GUIDE, HELM_VALUES, INSTALLATION_VALUES)]
    found = {" ".join(re.sub(r"[#\\]", " ", match).split()) for text in texts for match in command.findall(text)}
    assert found == {
        "helm upgrade --install airflow apache-airflow/airflow --namespace airflow --version '^1.22' "
        "--values deploy/airflow-values.yaml --values deploy/installation/values.yaml"
    }
    for text in (GUIDE.read_text(), INSTALLATION_VALUES.read_text()):
        assert "kubectl apply --kustomize deploy/installation" in text


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
    assert (rights["jobs"], rights["services"]) == ({"create", "list", "delete"}, {"create"})  # of several nodes
    assert set(rights) == {"pods", "pods/log", "events", "jobs", "services"}
    accounts = {subject["name"] for subject in manifest("RoleBinding", "stage-launcher")["subjects"]}
    assert accounts == {"airflow-worker", "airflow-triggerer"}


def test_airflow_knows_the_options_of_the_values():
    known = conf.configuration_description
    for section, options in helm_values()["config"].items():
        unknown = set(options) - set(known[section]["options"])
        assert not unknown, section


def test_dag_bundle_follows_the_release_of_the_image():
    (bundle,) = json.loads(dag_bundles())
    assert bundle["kwargs"]["tracking_ref"] == f"v{helm_values()['images']['airflow']['tag']}"
    assert (REPOSITORY / bundle["kwargs"]["subdir"] / "model_training.py").is_file()


def secret_keys():
    """Secret and key of each reference in the values and in the manifest of MLflow."""
    values = helm_values()
    found = {(values["data"]["metadataSecretName"], "connection")}
    found |= {(values[f"{name}SecretName"], key) for name, key in (("fernetKey", "fernet-key"), ("jwt", "jwt-secret"))}
    found.add((values["apiSecretKeySecretName"], "api-secret-key"))
    for entry in mlflow_container()["env"]:
        if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
            found.add((reference["name"], reference["key"]))
    return found


def test_guide_names_the_secrets_that_are_read():
    rows = re.findall(r"^\| `([\w-]+)` \| `[\w-]+` \| `([\w-]+)` \|", GUIDE.read_text(), re.MULTILINE)
    assert secret_keys() <= set(rows)
    assert "airflow-connections" in helm_values()["extraEnvFrom"]


def test_chart_renders_with_the_values_of_an_installation(other_installation):
    """Images, accounts, airflow.cfg, the pod of a task, secrets and probes."""
    objects = helm_template(HELM_VALUES, other_installation / "values.yaml")
    settings = manifest("ConfigMap", "airflow-config", objects)["data"]
    objects.append(yaml.safe_load(settings["pod_template_file.yaml"]))
    for document in objects:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    images = set(re.findall(r"\bimage: (\S+)", yaml.safe_dump_all(objects)))
    assert images == {"registry.local:5000/rail/train-delay-airflow:7.8.9"}

    cfg = configparser.ConfigParser(interpolation=None)
    cfg.read_string(settings["airflow.cfg"])
    (bundle,) = json.loads(cfg["dag_processor"]["dag_bundle_config_list"])
    assert bundle["kwargs"]["tracking_ref"] == "v7.8.9"
    assert cfg["logging"]["remote_base_log_folder"] == "s3://other-airflow/logs"
    assert cfg["database"]["sql_alchemy_conn_async"] == "$AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"

    accounts = {
        m["metadata"]["name"]: m["metadata"].get("annotations") for m in objects if m["kind"] == "ServiceAccount"
    }
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::444455556666:role/airflow"}
    for component in ("scheduler", "worker", "triggerer", "dag-processor", "api-server"):
        assert accounts[f"airflow-{component}"] == role
    assert {subject["name"] for subject in manifest("RoleBinding", "stage-launcher")["subjects"]} <= set(accounts)
    assert objects[-1]["spec"]["serviceAccountName"] == "airflow-worker"

    names = {name for name, _ in secret_keys()} | {"airflow-connections"}
    rendered = [m for m in objects if m["kind"] in ("Deployment", "Job", "CronJob", "Pod")]
    read = set(re.findall(r"(?:secretKeyRef|secretRef):\s+(?:key: \S+\s+)?name: (\S+)", yaml.safe_dump_all(rendered)))
    assert read == names - {"mlflow-database"}
    scheduler = manifest("Deployment", "airflow-scheduler", objects)["spec"]["template"]["spec"]["containers"][0]
    assert scheduler["startupProbe"]["failureThreshold"] == 30


def test_no_secret_stands_in_a_manifest_or_in_the_values():
    assert not [m for m in manifests() if m["kind"] == "Secret"]
    for source in SOURCES.values():
        for name in ("password:", "AWS_SECRET_ACCESS_KEY:", "PRIVATE KEY"):
            assert name not in source.text, source.place
        assert not re.search(r"://[^\s/@]*:[^\s/@]*@", source.text), source.place
