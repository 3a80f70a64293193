"""The stages of the Dockerfile. The stages that install packages can run in a folder instead of an image."""

import io
import os
import shlex
import shutil
import string
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from pip_settings import for_uv, read_settings  # noqa: E402 - lies in scripts/

DOCKERFILE = REPOSITORY / "Dockerfile"
TARGETS = ("airflow", "mlflow", "trainer")


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def values(self, instruction):
        return [value for name, value in self.instructions if name == instruction]

    def copies(self):
        """`(options, sources, destination)` of every COPY."""
        for value in self.values("COPY"):
            words = shlex.split(value)
            options = [word for word in words if word.startswith("--")]
            *sources, destination = words[len(options) :]
            yield options, sources, destination


def read_stages():
    parser = DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes()))
    stages = {}
    stage = None
    for entry in parser.structure:
        if entry["instruction"] == "FROM":
            base, _, name = entry["value"].split()
            stage = stages[name] = Stage(name, base)
        elif stage and entry["instruction"] != "COMMENT":
            stage.instructions.append((entry["instruction"], entry["value"]))
    return stages


def ancestry(stages, name):
    """Return the stage and the stages that it builds on, the lowest first."""
    chain = []
    while name in stages:
        chain.insert(0, stages[name])
        name = stages[name].base
    return chain


def install_packages(target, folder):
    """Run the stage `<target>-packages`: `folder` is its /opt, and a new environment has the pip of the base image.

    Packages come from uv's cache, and bytecode is not compiled: the packages are the same, and the test is faster.

    Returns:
        The virtual environment of the image.
    """
    venv, build, base = folder / "venv", folder / "build", folder / "base"
    build.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(base)], check=True)
    faster = {"PIP_QUIET": "1", "UV_NO_CACHE": "0", "UV_COMPILE_BYTECODE": "0"}
    environment = for_uv(read_settings(base / "bin" / "python"), os.environ)
    environment["PATH"] = f"{base}/bin:{environment['PATH']}"
    for stage in ancestry(read_stages(), f"{target}-packages"):
        for instruction, text in stage.instructions:
            value = text.replace("/opt/", f"{folder}/")
            if instruction == "ENV":
                settings = string.Template(value).safe_substitute(environment)
                environment |= dict(word.split("=", 1) for word in shlex.split(settings)) | faster
            elif instruction == "COPY":
                copy(value, build)
            elif instruction == "RUN":
                subprocess.run(["bash", "-euc", value], cwd=build, env=environment, check=True)
    shutil.rmtree(base)
    return venv


def copy_code(target, folder):
    """Copy the files of the repository that the image of `target` holds."""
    for value in read_stages()[target].values("COPY"):
        if not value.startswith("--"):
            copy(value, folder)
    return folder


def copy(value, folder):
    *sources, destination = shlex.split(value)
    for source in sources:
        origin, goal = REPOSITORY / source, folder / destination
        if origin.is_dir():
            shutil.copytree(origin, goal, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            goal.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin, goal)
