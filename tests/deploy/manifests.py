"""The YAML for operators: the files in deploy/ and the blocks of docs/deploy.md. Checks and renders them."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import kubernetes_validate
import pytest
import yaml

from tests.deploy.dockerfile import REPOSITORY
from transformer.config import load_config

KUBERNETES = "1.37"
GUIDE = REPOSITORY / "docs" / "deploy.md"
KUBERNETES_FOLDER = REPOSITORY / "deploy" / "kubernetes"
INSTALLATION = REPOSITORY / "deploy" / "installation"
HELM_VALUES = REPOSITORY / "deploy" / "airflow-values.yaml"
INSTALLATION_VALUES = INSTALLATION / "values.yaml"
CONFIG_BLOCK = re.compile(r"# include/config/(\w[\w-]*)/(\w+)\.yaml\n")


def one_line(value):
    """Whether `value` is a scalar of one line. The chart writes it into airflow.cfg, which a second line breaks."""
    return isinstance(value, (str, bool, int)) and "\n" not in str(value)


# Keys of the official chart's values that this pipeline sets or may set, and the type of each. "*" is any key.
SERVICE_ACCOUNT = {"annotations": {"*": str}, "create": bool, "name": str, "automountServiceAccountToken": bool}
PROBE = dict.fromkeys(("initialDelaySeconds", "timeoutSeconds", "failureThreshold", "periodSeconds"), int)
COMPONENT = {
    **dict.fromkeys(("args", "command", "env", "tolerations"), list),
    **dict.fromkeys(("extraVolumes", "extraVolumeMounts", "extraInitContainers", "extraContainers"), list),
    **dict.fromkeys(("nodeSelector", "affinity", "podAnnotations", "labels", "annotations", "strategy"), dict),
    **dict.fromkeys(("securityContexts", "podDisruptionBudget"), dict),
    **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe"), PROBE),
    **dict.fromkeys(("replicas", "terminationGracePeriodSeconds"), int),
    "enabled": bool,
    "logGroomerSidecar": {"enabled": bool},
    "persistence": {"enabled": bool, "size": str, "storageClassName": str},
    "priorityClassName": str,
    "resources": {"requests": dict, "limits": dict},
    "serviceAccount": SERVICE_ACCOUNT,
}
CHART = {
    **dict.fromkeys(("airflowVersion", "executor", "extraEnv", "extraEnvFrom"), str),
    **dict.fromkeys(("apiSecretKeySecretName", "fernetKeySecretName", "jwtSecretName"), str),
    **dict.fromkeys(("ingress", "labels", "nodeSelector", "pgbouncer", "securityContexts"), dict),
    **dict.fromkeys(("env", "imagePullSecrets", "secret", "tolerations"), list),
    **{name: {"enabled": bool} for name in ("postgresql", "redis", "statsd")},
    "allowPodLaunching": bool,
    "apiServer": COMPONENT,
    "cleanup": {**COMPONENT, "schedule": str},
    "config": {"*": {"*": one_line}},
    "createUserJob": COMPONENT,
    "dagProcessor": COMPONENT,
    "data": dict.fromkeys(("metadataSecretName", "resultBackendSecretName", "brokerUrlSecretName"), str),
    "databaseCleanup": {**COMPONENT, "schedule": str, "retentionDays": int},
    "images": dict.fromkeys(
        ("airflow", "pod_template"), dict.fromkeys(("repository", "tag", "digest", "pullPolicy"), str)
    ),
    "migrateDatabaseJob": COMPONENT,
    "scheduler": COMPONENT,
    "triggerer": {**COMPONENT, "keda": dict},
    "workers": {**COMPONENT, "safeToEvict": bool},
}
# The chart ignores the keys that only kustomize reads.
ENVIRONMENT = {"annotations": {"*": str}, "gpus": str}
VALUES = {
    **CHART,
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": {"*": str}},
    "mlflow": {"image": str, "artifacts": str, "host": str, "annotations": {"*": str}},
    "stages": {"*": ENVIRONMENT},
}
# The fields that kustomize 4.2 and 5.8 both read without a warning.
KUSTOMIZATION = {
    "apiVersion": str,
    "kind": str,
    "namespace": str,
    "resources": list,
    "replacements": list,
}


@dataclass(frozen=True)
class Source:
    """A YAML text and its place: a file, or a block of a page."""

    place: str
    text: str


def sources():
    files = sorted((REPOSITORY / "deploy").rglob("*.y*ml"))
    found = [Source(str(path.relative_to(REPOSITORY)), path.read_text()) for path in files]
    guide = GUIDE.read_text()
    for block in re.finditer(r"^```ya?ml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL):
        line = guide[: block.start()].count("\n") + 1
        found.append(Source(f"docs/deploy.md:{line}", block[1]))
    return found


def check(source, config_folder):
    """Check `source` by its schema.

    Raises:
        Exception: the text is not YAML, breaks its schema, or has no known schema.
    """
    documents = [document for document in yaml.safe_load_all(source.text) if document is not None]
    assert documents, f"{source.place} is empty"
    if match := CONFIG_BLOCK.match(source.text):
        check_configuration(source.text, *match.groups(), config_folder)
        return
    for document in documents:
        if source.place == str(HELM_VALUES.relative_to(REPOSITORY)) or source.text.startswith("# Helm values\n"):
            check_values(document, CHART, source.place)
        elif document.get("kind") == "Installation":
            check_values(document, VALUES, source.place)
        elif document.get("kind") == "Kustomization":
            check_values(document, KUSTOMIZATION, source.place)
        else:
            assert {"apiVersion", "kind"} <= set(document), (
                f"{source.place}: neither a manifest, values nor configuration"
            )
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def check_configuration(text, env, group, folder):
    """Overlay the repository's configuration with the block and load it."""
    target = folder / env / f"{group}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    load_config(env, folder=folder)


def check_values(value, known, place):
    """Check the keys and types of Helm values, and of kustomize's files.

    Raises:
        ValueError: a key is unknown, or its value is of another type.
    """
    if isinstance(known, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{place}: {value!r} is no mapping")
        for key, below in value.items():
            if key not in known and "*" not in known:
                raise ValueError(f"{place}: {key!r} is no key of the chart")
            check_values(below, known.get(key, known.get("*")), f"{place}: {key}")
    elif isinstance(known, type):
        if not isinstance(value, known) or (known is int and isinstance(value, bool)):
            raise ValueError(f"{place}: {value!r} is no {known.__name__}")
    elif not known(value):
        raise ValueError(f"{place}: {value!r} is not of one line")


def helm_values():
    """The values of an installation, as Helm merges its two files."""
    merged = yaml.safe_load(HELM_VALUES.read_text())
    return merge(merged, yaml.safe_load(INSTALLATION_VALUES.read_text()))


def merge(under, over):
    """Lay one tree of values over another. As in Helm, lists are replaced."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {key: merge(under.get(key), value) for key, value in over.items()}


def dag_bundles():
    """The text of option `dag_bundle_config_list`, as the chart writes it into airflow.cfg."""
    values = helm_values()
    tag = values["images"]["airflow"]["tag"]
    return values["config"]["dag_processor"]["dag_bundle_config_list"].replace("{{ .Values.images.airflow.tag }}", tag)


def environment(container):
    """The environment variables of a container with a value, with `$(NAME)` replaced as Kubernetes does."""
    found = {}
    for entry in container["env"]:
        if "value" in entry:
            value = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), entry["value"])
            found[entry["name"]] = value
    return found


def kustomize(folder):
    """The objects that `kubectl apply --kustomize` sends. Without kubectl, the test is skipped, or fails in CI."""
    kubectl = shutil.which("kubectl")
    version = run([kubectl, "version", "--client", "--output=json"]) if kubectl else ""
    if not kubectl or "kustomizeVersion" not in version:  # kubectl tells it since 1.24
        reason = "not installed: kubectl 1.24 or newer"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return list(yaml.safe_load_all(run([kubectl, "kustomize", str(folder)])))


def helm_template(*values):
    """The objects of the official chart. Skips the test where `helm` or the chart (`HELM_CHART`) is missing."""
    helm, chart = shutil.which("helm"), os.environ.get("HELM_CHART")
    if not helm or not chart:
        pytest.skip("no `helm` on the PATH, or no chart: set HELM_CHART to its folder, archive or name")
    files = [word for path in values for word in ("--values", str(path))]
    text = run([helm, "template", "airflow", chart, "--namespace", "airflow", *files])
    return [document for document in yaml.safe_load_all(text) if document]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout
