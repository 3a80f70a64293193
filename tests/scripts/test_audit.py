"""`make audit`: the real locks and policy are clean, and faults that a test plants are found."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import audit  # noqa: E402 - lies in scripts/

TODAY = date(2026, 11, 27)
POLICY = audit.Policy(
    allowed=["MIT", "Apache-2.0", "BSD-3-Clause", "Apache-2.0 WITH LLVM-exception"],
    spellings={"MIT License": "MIT", "BSD License": "BSD-3-Clause"},
    exceptions={"psycopg": audit.LicenceException("LGPL-3.0-only", "LGPL-3.0-only", "unchanged")},
)


def exempting(expires, name="CVE-2026-1"):
    return audit.Policy(vulnerabilities=[audit.Exemption(name, "not reached", expires)])


def tool(monkeypatch, stdout="", stderr="", returncode=0):
    """Replace every tool by one with this output and exit status."""
    monkeypatch.setattr(audit, "_run", lambda command: subprocess.CompletedProcess(command, returncode, stdout, stderr))


def declaring(package, declared):
    return [audit.licence(package, "1.0", declared, POLICY)]


@pytest.fixture(scope="module")
def found():
    return audit.licences(audit.read_policy())


# --- licences --------------------------------------------------------------------------------------------------------
def test_every_pinned_package_has_an_allowed_licence(found):
    assert audit.licence_findings(found, audit.read_policy()) == []
    assert {entry.package: entry.version for entry in found} == audit.pins(audit.RUNTIME, here=True)
    assert not {"pytest", "ruff", "mkdocs"} & {entry.package for entry in found}  # packages that only check the product


def test_the_real_policy_refuses_a_planted_licence(found):
    policy = audit.read_policy()
    planted = [*found[1:], audit.licence(found[0].package, found[0].version, "AGPL-3.0-only", policy)]
    (finding,) = audit.licence_findings(planted, policy)
    assert finding.startswith(f"{found[0].package} {found[0].version}: ")
    assert "'AGPL-3.0-only'" in finding
    assert "`allowed`" in finding
    assert "`exceptions` in [tool.audit]" in finding


@pytest.mark.parametrize(
    ("declared", "allowed"),
    [
        ("MIT", True),
        ("MIT License; BSD License", True),
        ("MIT License; GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("UNKNOWN", False),
        ("Mine, all mine", False),
        ("MIT OR", False),
        ("", False),
    ],
)
def test_what_is_allowed(declared, allowed):
    findings = audit.licence_findings(declaring("huey", declared), audit.Policy(POLICY.allowed, POLICY.spellings))
    assert bool(findings) != allowed


def test_an_exception_is_for_the_licence_it_was_made_for():
    assert audit.licence_findings(declaring("psycopg", "LGPL-3.0-only"), POLICY) == []
    refused, needless = audit.licence_findings(declaring("psycopg", "AGPL-3.0-only"), POLICY)
    assert "'AGPL-3.0-only'" in refused
    assert re.fullmatch(r"psycopg: exception in \[tool\.audit\] .*; remove it", needless)


def test_every_exception_of_the_policy_has_its_reason():
    policy = audit.read_policy()
    assert policy.exceptions
    assert [name for name, entry in policy.exceptions.items() if len(entry.reason) < 20] == []


def test_a_package_that_is_not_installed_is_not_called_clean(monkeypatch, capsys):
    tool(monkeypatch, stdout="[]")
    assert audit.main(["licences"]) == audit.UNCHECKED
    assert re.search(r"requirements\.txt .*not installed; run `make setup`", capsys.readouterr().err)


def test_the_page_of_licences_names_every_package(found):
    import documentation

    page = documentation.TABLES["licences"]()
    assert [entry.package for entry in found if f"| `{entry.package}` | {entry.version} |" not in page] == []
    assert "as a library that anyone may replace" in page


# --- vulnerabilities -------------------------------------------------------------------------------------------------
def report(*vulnerabilities):
    return [{"name": "Jinja2", "version": "3.1.6", "vulns": list(vulnerabilities)}]


PLANTED = {"id": "PYSEC-2026-7", "aliases": ["CVE-2026-1"], "fix_versions": ["3.1.7"]}


def findings(answers, policy=POLICY, pinned=("jinja2",)):
    return audit.vulnerability_findings(answers, pinned, policy, TODAY)


def test_a_planted_vulnerability_is_found():
    assert findings(report()) == []
    expected = ["Jinja2 3.1.6: PYSEC-2026-7, CVE-2026-1; fixed in 3.1.7: `make lock`"]
    assert findings(report(PLANTED)) == expected


def test_an_exemption_holds_until_it_ends_and_under_any_name():
    assert findings(report(PLANTED), exempting(TODAY)) == []
    assert findings(report(PLANTED), exempting(TODAY, "PYSEC-2026-7")) == []
    (ended,) = findings(report(PLANTED), exempting(date(2026, 11, 26)))
    assert re.fullmatch(r"CVE-2026-1: exemption ended .*2026-11-26", ended)
    (needless,) = findings(report(), exempting(TODAY))
    assert re.fullmatch(r"CVE-2026-1: exemption .*; remove it", needless)


@pytest.mark.parametrize(
    "answers",
    [[], [{"name": "jinja2", "skip_reason": "Dependency not found on PyPI and could not be audited: jinja2"}]],
)
def test_a_package_that_the_service_does_not_know_is_not_called_clean(answers):
    """A mirror of PyPI answers 404 for every package, and pip-audit itself then says that nothing is vulnerable."""
    with pytest.raises(audit.UncheckedError, match=r"1 of 1 .*\(jinja2\).*`make audit` .*SERVICE=osv"):
        findings(answers)


def test_make_audit_fails_on_a_planted_vulnerability(monkeypatch, capsys):
    names = {name for lock in audit.LOCKS for name in audit.pins(lock, here=True)}
    answers = [{"name": name, "version": "1", "vulns": [PLANTED] if name == "torch" else []} for name in sorted(names)]
    tool(monkeypatch, stdout=json.dumps({"dependencies": answers, "fixes": []}), returncode=1)
    assert audit.main(["vulnerabilities"]) == audit.FINDING
    assert capsys.readouterr().err.startswith("error: vulnerabilities: torch 1: PYSEC-2026-7, CVE-2026-1; fixed in")


def test_a_service_that_cannot_be_reached_is_one_line_and_no_success(capsys):
    """Run the real pip-audit behind a proxy address at which no server listens."""
    environment = os.environ | dict.fromkeys(["HTTPS_PROXY", "https_proxy"], "http://127.0.0.1:9") | {"NO_PROXY": ""}
    command = [sys.executable, str(REPOSITORY / "scripts" / "audit.py"), "vulnerabilities", "--service", "osv"]
    done = subprocess.run(command, env=environment | {"no_proxy": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == audit.UNCHECKED
    assert done.stdout == "vulnerabilities: NOT CHECKED\n"
    assert re.fullmatch(r"error: vulnerabilities: osv .*; run `make audit` .* SERVICE\n", done.stderr)


def test_every_part_runs_even_if_the_first_fails(monkeypatch, capsys):
    def fail():
        raise audit.UncheckedError("no disk")

    monkeypatch.setattr(audit, "write_bills", fail)
    tool(monkeypatch, stderr="no disk", returncode=1)
    assert audit.main([]) == audit.UNCHECKED
    assert re.findall(r"error: (\w+)", capsys.readouterr().err) == list(audit.PARTS)


# --- bill of materials -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bills(tmp_path_factory):
    """Write the bills twice, in folders of different names and with different settings of pip."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    with pytest.MonkeyPatch.context() as patch:
        audit.write_bills(folders[0])
        patch.setenv("PIP_INDEX_URL", "https://user:geheim@mirror.example.org/simple")
        audit.write_bills(folders[1])
    return folders


@pytest.mark.parametrize(("name", "lock"), [("runtime", audit.RUNTIME), ("cluster", audit.CLUSTER)])
def test_a_bill_names_what_is_pinned_and_nothing_of_this_machine(bills, name, lock):
    first, second = ((folder / f"{name}.cdx.json").read_bytes() for folder in bills)
    assert first == second
    bill = json.loads(first)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "train-delay-transformer"
    parts = {audit.canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    assert parts == audit.pins(lock)
    assert list(JsonStrictValidator(SchemaVersion.V1_6).validate_str(first.decode(), all_errors=True) or []) == []
    assert [part["purl"] for part in bill["components"] if not part["purl"].startswith("pkg:pypi/")] == []
    assert b"example.org" not in first
    assert str(REPOSITORY).encode() not in first
    assert str(Path.home()).encode() + b"/" not in first


def test_a_bill_that_is_not_valid_is_refused(monkeypatch):
    monkeypatch.setattr(audit.json, "dumps", lambda document, **_: "{}")
    with pytest.raises(audit.UncheckedError, match=r"not valid: .*"):
        audit.bill_of_materials({"torch": "0"})
