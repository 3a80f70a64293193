"""`make image`: the engine that is chosen, and what it is asked to build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = {"trainer": "transformer", "airflow": "airflow", "mlflow": "mlflow"}


@pytest.fixture
def make_image(tmp_path):
    """Run `make image` where only the given engines are installed. Each has a server, or says that it has none."""

    def run(*words, **engines):
        folder = tmp_path / "bin"
        folder.mkdir()
        for engine, works in engines.items():
            path = folder / engine
            info = 0 if works else 1
            path.write_text(f'#!/bin/sh\n[ "$1" != info ] || exit {info}\nprintf "{engine} %s\\n" "$*"\n')
            path.chmod(0o755)
        for name in ("make", "sh", "sed", "dirname", "git"):
            found = subprocess.run(["/bin/sh", "-c", f"command -v {name}"], capture_output=True, text=True, check=False)
            if found.stdout.strip():
                (folder / name).symlink_to(found.stdout.strip())
        environment = os.environ | {"PATH": str(folder), "PYTHON": sys.executable}
        command = ["make", "--silent", "image", *words]
        return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)

    return run


def builds(output):
    """Words of every build, by target."""
    lines = [line.split() for line in output.splitlines() if " --target " in line]
    return {words[words.index("--target") + 1]: words for words in lines}


def test_builds_every_target_of_the_dockerfile(make_image):
    done = make_image("REGISTRY=registry.example.org", "TAG=0.1.0", "BUILD_OPTIONS=--network host", docker=True)
    assert done.returncode == 0, done.stderr
    asked = builds(done.stdout)
    assert set(asked) == set(NAMES)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for target, words in asked.items():
        image = f"registry.example.org/train-delay-{NAMES[target]}:0.1.0"
        assert words[words.index("--tag") + 1] == image
        assert {f"IMAGE={image}", "VERSION=0.1.0", f"GIT_COMMIT={commit.stdout.strip()}"} <= set(words)
        assert words[-3:] == ["--network", "host", str(REPOSITORY)]


@pytest.mark.parametrize(
    ("engines", "chosen"),
    [
        ({"docker": True, "podman": True, "buildah": True}, "docker build"),
        ({"docker": False, "podman": True, "buildah": True}, "podman build"),  # a docker client without a server
        ({"buildah": True}, "buildah build"),
    ],
)
def test_the_first_engine_that_works_builds(make_image, engines, chosen):
    done = make_image(**engines)
    assert done.returncode == 0, done.stderr
    assert {" ".join(words[:2]) for words in builds(done.stdout).values()} == {chosen}


def test_buildah_keeps_its_layers(make_image):
    done = make_image("ENGINE=buildah", buildah=True, docker=True)
    assert all("--layers" in words for words in builds(done.stdout).values())


@pytest.mark.parametrize(
    ("words", "engines", "message"),
    [
        ([], {}, "error: no docker, podman or buildah on the PATH; install one of the three"),
        ([], {"docker": False}, "error: docker cannot work here: `docker info` says why"),
        (["ENGINE=kaniko"], {"docker": True}, "error: ENGINE=kaniko is none of docker, podman, buildah"),
    ],
)
def test_without_an_engine_one_line_says_what_to_do(make_image, words, engines, message):
    done = make_image(*words, **engines)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == message
