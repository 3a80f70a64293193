"""The Dockerfile: lint, and the properties of every image that its header states."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from tests.deploy.dockerfile import DOCKERFILE, REPOSITORY, TARGETS, ancestry, read_stages

HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)
COMPILERS = {"gcc", "g++", "build-essential", "python3-dev", "make"}


def lint(text):
    command = [HADOLINT, "--no-color", "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stages():
    return read_stages()


def image(stages, target):
    """Return the instructions of every stage of the image of `target`."""
    return [entry for stage in ancestry(stages, target) for entry in stage.instructions]


def last(stages, target, instruction):
    return [value for name, value in image(stages, target) if name == instruction][-1]


def test_lints():
    result = lint(DOCKERFILE.read_text())
    assert result.returncode == 0, result.stdout


def test_lint_finds_a_planted_fault():
    result = lint(DOCKERFILE.read_text() + "\nRUN cd /tmp && sudo pip install requests\n")
    assert result.returncode != 0
    assert "DL3004" in result.stdout


def test_base_image_is_pinned_by_version():
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", DOCKERFILE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_runs_as_a_numbered_user_that_is_not_root(stages, target):
    user = last(stages, target, "USER").partition(":")[0]
    assert user.isdigit()  # runAsNonRoot of Kubernetes cannot check a name
    assert int(user) > 0


@pytest.mark.parametrize("target", TARGETS)
def test_sigterm_reaches_python(stages, target):
    """The exec form, with a process 1 that forwards signals."""
    assert json.loads(last(stages, target, "ENTRYPOINT")) == ["tini", "--"]
    assert isinstance(json.loads(last(stages, target, "CMD")), list)


@pytest.mark.parametrize("target", TARGETS)
def test_leaves_neither_compiler_nor_cache(stages, target):
    for stage in ancestry(stages, target):
        for command in stage.values("RUN"):
            assert "pip" not in command.split()
            assert not COMPILERS & set(command.split())
            if "apt-get install" in command:
                assert "--no-install-recommends" in command
                assert command.endswith("rm -rf /var/lib/apt/lists/*")
        taken = [(options, sources, goal) for options, sources, goal in stage.copies() if "--from" in str(options)]
        assert all(
            move == ([f"--from={target}-packages"], ["/opt/venv"], "/opt/venv") for move in taken
        )  # nothing else of a build stage
    assert {"PIP_NO_CACHE_DIR=1", "UV_NO_CACHE=1"} <= set(" ".join(stages["builder"].values("ENV")).split())


def test_the_locked_uv_installs(stages):
    (version,) = re.findall(r"^uv==(\S+)", (REPOSITORY / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert f"pip install uv=={version} " in stages["builder"].values("RUN")[0]


@pytest.mark.parametrize("target", TARGETS)
def test_says_what_it_was_built_from(stages, target):
    labels = " ".join(stages[target].values("LABEL"))
    for name in ("title", "description", "licenses", "revision", "version"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert "GIT_COMMIT=unknown" in stages[target].values("ARG")
    if target != "mlflow":
        environment = " ".join(stages[target].values("ENV"))
        assert "TRANSFORMER_GIT_COMMIT=${GIT_COMMIT}" in environment
        assert "TRANSFORMER_IMAGE=${IMAGE}" in environment


def test_chart_finds_its_entrypoint():
    script = REPOSITORY / "deploy" / "entrypoint.sh"
    command = ["sh", str(script), "printf", "%s|", "airflow jobs", "check"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "airflow jobs|check|"


def test_engine_gets_what_images_copy_and_nothing_else(stages, tmp_path):
    sources = {
        source.rstrip("/")
        for stage in stages.values()
        for options, sources, _ in stage.copies()
        if "--from" not in str(options)
        for source in sources
    }
    for source in sources:
        path = tmp_path / source
        if (REPOSITORY / source).is_dir():
            path = path / "module.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for private in (".git/config", ".env", "data/sample/op_nodes.parquet", "transformer/__pycache__/cli.pyc", "x.pem"):
        (tmp_path / private).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / private).touch()

    patterns = (REPOSITORY / ".dockerignore").read_text().splitlines()
    patterns = [line for line in patterns if not line.startswith("#")]
    sent = {path for path in exclude_paths(str(tmp_path), patterns) if (tmp_path / path).is_file()}
    assert sent == {str(Path(source) / "module.py") if (REPOSITORY / source).is_dir() else source for source in sources}
