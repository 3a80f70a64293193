"""pip's settings reach uv, from pip's files and from the environment. Settings that uv would ignore are refused."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import pip_settings  # noqa: E402 - lies in scripts/


def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, **environment: str) -> dict[str, str]:
    """The settings that pip reads from this file and environment only."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    (tmp_path / "pip.conf").write_text(file)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    files = ("index-url", "extra-index-url", "timeout")  # a file of the machine may have other settings
    settings = pip_settings.read_settings(Path(sys.executable))
    return {name: value for name, value in settings.items() if name in files}


def test_the_environment_wins_over_the_section_of_install_and_that_over_global(monkeypatch, tmp_path) -> None:
    file = "[global]\nindex-url = https://a.example.org/simple\ntimeout = 1\n[install]\ntimeout = 2\n"
    assert read(monkeypatch, tmp_path, file) == {"index-url": "https://a.example.org/simple", "timeout": "2"}
    assert read(monkeypatch, tmp_path, file, PIP_TIMEOUT="3")["timeout"] == "3"


def test_every_place_that_packages_come_from_reaches_uv() -> None:
    settings = {
        "index-url": "https://a.example.org/simple",
        "extra-index-url": "https://b.example.org/simple\nfile:///mirror/simple",
        "find-links": "/wheels /more",
        "cert": "/ca.pem",
        "constraint": "/constraints.txt",
        "no-input": "true",
    }
    assert pip_settings.for_uv(settings, {"PATH": "/bin"}) == {
        "UV_DEFAULT_INDEX": "https://a.example.org/simple",
        "UV_INDEX": "https://b.example.org/simple file:///mirror/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels /more",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_CONSTRAINT": "/constraints.txt",
        "PATH": "/bin",
    }


def test_what_is_said_to_uv_itself_wins() -> None:
    environment = {"UV_DEFAULT_INDEX": "https://own.example.org/simple"}
    assert pip_settings.for_uv({"index-url": "https://a.example.org/simple"}, environment) == environment


def test_a_setting_that_uv_does_not_know_is_named() -> None:
    with pytest.raises(pip_settings.UntranslatableError, match="only-binary"):
        pip_settings.for_uv({"only-binary": ":all:", "quiet": "1"}, {})
