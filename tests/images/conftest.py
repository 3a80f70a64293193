"""`make test-images`: the images built from the Dockerfile, and what each is for done in a confined container."""

import os

import pytest

from tests.support.images import build, size_mb

ASKED = "TEST_IMAGES"  # variable that `make test-images` sets: the first build takes some ten minutes
collect_ignore_glob = [] if os.environ.get(ASKED) else ["test_*.py"]

SIZES = {}


def _built(target):
    image = build(target)
    SIZES[target] = size_mb(image)
    return image


@pytest.fixture(scope="session")
def trainer():
    return _built("trainer")


@pytest.fixture(scope="session")
def airflow():
    return _built("airflow")


@pytest.fixture(scope="session")
def mlflow():
    return _built("mlflow")


def pytest_terminal_summary(terminalreporter):
    for target, size in SIZES.items():
        terminalreporter.write_line(f"image {target}: {size:.0f} MB")
