"""The YAML for operators: the files in deploy/ and the blocks of docs/deploy.md, and the schema of each."""

import re
from dataclasses import dataclass

import kubernetes_validate
import yaml

from tests.deploy.dockerfile import REPOSITORY
from transformer.config import load_config

KUBERNETES = "1.37"
GUIDE = REPOSITORY / "docs" / "deploy.md"
HELM_VALUES = REPOSITORY / "deploy" / "airflow-values.yaml"
CONFIG_BLOCK = re.compile(r"# include/config/(\w[\w-]*)/(\w+)\.yaml\n")

# Keys of the official chart's values that this pipeline sets or may set; None = any value below the key.
COMPONENT = dict.fromkeys(
    (
        *("replicas", "resources", "env", "args", "command", "serviceAccount", "strategy", "persistence", "enabled"),
        *("logGroomerSidecar", "nodeSelector", "tolerations", "affinity", "podAnnotations", "labels"),
        "securityContexts",
        *("extraVolumes", "extraVolumeMounts", "extraInitContainers", "extraContainers", "priorityClassName"),
        *("terminationGracePeriodSeconds", "livenessProbe", "startupProbe", "podDisruptionBudget", "annotations"),
    )
)
CHART = {
    "airflowVersion": None,
    "allowPodLaunching": None,
    "apiSecretKeySecretName": None,
    "apiServer": COMPONENT,
    "cleanup": {**COMPONENT, "schedule": None},
    "config": None,
    "createUserJob": COMPONENT,
    "dagProcessor": COMPONENT,
    "data": dict.fromkeys(["metadataSecretName", "resultBackendSecretName", "brokerUrlSecretName"]),
    "databaseCleanup": {**COMPONENT, "schedule": None, "retentionDays": None},
    "env": None,
    "executor": None,
    "extraEnv": None,
    "extraEnvFrom": None,
    "fernetKeySecretName": None,
    "imagePullSecrets": None,
    "images": {"airflow": dict.fromkeys(["repository", "tag", "digest", "pullPolicy"])},
    "ingress": None,
    "jwtSecretName": None,
    "labels": None,
    "migrateDatabaseJob": COMPONENT,
    "nodeSelector": None,
    "pgbouncer": None,
    "postgresql": {"enabled": None},
    "redis": {"enabled": None},
    "scheduler": COMPONENT,
    "secret": None,
    "securityContexts": None,
    "statsd": None,
    "tolerations": None,
    "triggerer": {**COMPONENT, "keda": None},
    "webserver": None,
    "workers": {**COMPONENT, "safeToEvict": None},
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
    elif source.place == str(HELM_VALUES.relative_to(REPOSITORY)) or source.text.startswith("# Helm values\n"):
        for document in documents:
            check_keys(document, CHART, source.place)
    else:
        for document in documents:
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


def check_keys(values, known, place):
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{place}: {key!r} is no key of the chart")
        if known[key] is not None and isinstance(value, dict):
            check_keys(value, known[key], f"{place}: {key}")
