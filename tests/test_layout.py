"""The layout in docs/extend.md and pyproject.toml: only some packages have code in `__init__.py`."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# transformer/ switches MLflow's telemetry off before any of its modules can load MLflow.
SPEAKING = {"transformer", "transformer/config", "transformer/features/embeddings"}


def test_packages_are_empty_but_for_three():
    packages = {path.parent for path in (REPOSITORY / "transformer").rglob("__init__.py")}
    speaking = {path.relative_to(REPOSITORY).as_posix() for path in packages if (path / "__init__.py").read_text()}
    assert speaking <= SPEAKING
    assert len(packages) > len(SPEAKING)
