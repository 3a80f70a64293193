"""The locks hold the needed packages for every supported Python, and the images' packages suffice for their imports."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.dockerfile import REPOSITORY, TARGETS

FOLDER = REPOSITORY / "deploy" / "requirements"
# Packages that the Airflow image does not hold.
ABSENT = [
    *("torch", "lightning", "pytorch_lightning", "torchmetrics", "polars", "numpy", "pandas", "pyarrow", "scipy"),
    *("sklearn", "networkx", "matplotlib", "optuna"),
]
LOCKS = {
    "requirements.in": "requirements.txt",
    "requirements-dev.in": "requirements-dev.txt",
    "deploy/requirements/cluster.in": "deploy/requirements/cluster.txt",
}
BOUNDS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
PYTHONS = [f"3.{minor}" for minor in range(*map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", BOUNDS).groups()))]
# Each build of torch has its own CUDA libraries, and each environment has its own pip.
UNLOCKED = re.compile(r"nvidia-.*|cuda-.*|triton|pip")
# prose: allow length – a program
OPEN_RUN = """
import sys
from types import SimpleNamespace
sys.modules.update(dict.fromkeys({absent!r}))
import delay_pipeline_plugin
import transformer.evaluation.outcome, transformer.registry.versions
from delay_pipeline import alerts, evaluations, runs, stage
conf = {{"overrides": ["training.mlflow.use_mlflow=false"]}}
dag_run = SimpleNamespace(dag_id="model_training", run_id="manual__1", run_type="manual", conf=conf)
ti = SimpleNamespace(xcom_push=lambda key, value: None)
print(runs.open_run({{"ti": ti, "dag_run": dag_run}})["env"])
"""


def names(target):
    lines = (FOLDER / f"{target}.in").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if re.match(r"[a-z]", line)]


def requirements(path: Path) -> list[Requirement]:
    lines = [line.partition(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if re.match("[A-Za-z0-9]", line)]


def machine(python: str, system: str = "linux") -> dict[str, str]:
    """Variables of dependency markers on such a machine."""
    names = {"linux": "Linux", "darwin": "Darwin"}
    return {"python_version": python, "python_full_version": f"{python}.2", "sys_platform": system} | {
        "platform_system": names[system]
    }


def applies(requirement: Requirement, there: dict[str, str], extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate(there | {"extra": extra})


def locked_there(lock: str, there: dict[str, str]) -> dict[str, str]:
    """Version of each package that the lock installs on such a machine. A package must not have two versions."""
    pinned = [pin for pin in requirements(REPOSITORY / lock) if applies(pin, there)]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pinned}
    assert len(versions) == len(pinned), f"{lock}: two versions of one package on Python {there['python_version']}"
    return versions


def needed_by(asked: list[Requirement], there: dict[str, str]) -> Iterator[tuple[str, Requirement]]:
    """All packages needed on such a machine, each with the package that needs it, by the metadata installed here."""
    waiting = [("the .in file", requirement) for requirement in asked]
    seen = set()
    while waiting:
        by, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if UNLOCKED.fullmatch(name):
            continue
        yield by, requirement
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            try:
                needs = distribution(name).requires or []
            except PackageNotFoundError:  # another Python's or system's
                continue
            waiting += [(name, need) for need in map(Requirement, needs) if applies(need, there, extra)]


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("asked", ["requirements.in", "requirements-dev.in"])
def test_the_lock_holds_all_that_is_needed(asked: str, python: str, system: str) -> None:
    there = machine(python, system)
    versions = locked_there("requirements.txt", there) if asked == "requirements.in" else {}
    versions |= locked_there(LOCKS[asked], there)
    wrong = {
        f"{by} needs {need}, locked is {versions.get(canonicalize_name(need.name))}"
        for by, need in needed_by(requirements(REPOSITORY / asked), there)
        if not need.specifier.contains(versions.get(canonicalize_name(need.name), "0"), prereleases=True)
        or canonicalize_name(need.name) not in versions
    }
    assert not wrong, "run `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("asked", LOCKS)
def test_what_is_asked_for_is_locked_and_the_locks_agree(asked: str, python: str) -> None:
    there = machine(python)
    versions = locked_there(LOCKS[asked], there)
    assert [
        str(need)
        for need in requirements(REPOSITORY / asked)
        if not need.specifier.contains(versions[canonicalize_name(need.name)], prereleases=True)
    ] == []
    runtime = locked_there("requirements.txt", there)
    assert {name: version for name, version in versions.items() if runtime.get(name, version) != version} == {}


@pytest.mark.parametrize("lock", LOCKS.values())
def test_a_lock_names_neither_an_index_nor_this_machine(lock: str) -> None:
    text = (REPOSITORY / lock).read_text(encoding="utf-8")
    assert re.findall(r"://|--\w+|\+\w+|^-|(?<!-[cr] )(?<=\s)/\S+", text, re.MULTILINE) == []
    assert {path for path in re.findall(r"-[cr] (\S+)", text) if not (REPOSITORY / path).is_file()} == set()


@pytest.mark.parametrize("target", TARGETS)
def test_every_package_of_an_image_is_locked(target):
    there = machine("3.11")  # the images' Python
    locked = locked_there("requirements.txt", there) | locked_there("deploy/requirements/cluster.txt", there)
    assert set(names(target)) <= set(locked)


def test_trainer_holds_no_airflow_and_airflow_no_torch():
    assert not [name for name in names("trainer") if "airflow" in name]
    assert not set(names("airflow")) & {"torch", "lightning", "mlflow", "polars"}


def test_plugins_and_open_run_need_only_what_the_airflow_image_holds(tmp_path):
    command = [sys.executable, "-c", OPEN_RUN.format(absent=ABSENT)]
    environment = {"PYTHONPATH": str(REPOSITORY / "plugins"), "AIRFLOW_HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("local")
