"""Check the pinned packages: write their bills of materials, and check licences and known vulnerabilities.

    .venv/bin/python scripts/audit.py                    # what `make audit` runs
    .venv/bin/python scripts/audit.py licences           # one part alone
    .venv/bin/python scripts/audit.py --service osv      # ask OSV instead of PyPI

The policy is `[tool.audit]` of pyproject.toml. Exit status: 0 = everything was checked and is clean, 1 = a finding,
2 = a part could not be checked, which never counts as clean.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import AND, OR, ExpressionError, Licensing
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services import REPOSITORY

RUNTIME = REPOSITORY / "requirements.txt"
CLUSTER = REPOSITORY / "deploy" / "requirements" / "cluster.txt"
LOCKS = (RUNTIME, REPOSITORY / "requirements-dev.txt", CLUSTER)
POLICY = REPOSITORY / "pyproject.toml"
FOLDER = REPOSITORY / "data" / "supply"
SERVICES = ("pypi", "osv")
LIMIT_S = 600  # limit of one tool; enough for one request per package on a slow line
CLEAN, FINDING, UNCHECKED = 0, 1, 2


class UncheckedError(Exception):
    """A part could not be checked. The message is one line."""


@dataclass(frozen=True)
class Exemption:
    """A known vulnerability that is accepted until a date. `id` is its id or one of its aliases."""

    id: str
    reason: str
    expires: date


@dataclass(frozen=True)
class LicenceException:
    """A package that is allowed although its licence is not in the allow list, or it declares none.

    Attributes:
        declared: licence text in the package's metadata; if the text changes, the exception no longer applies.
        licence: SPDX expression of the licence under which the package is used.
    """

    declared: str
    licence: str
    reason: str


@dataclass(frozen=True)
class Policy:
    """The rules in `[tool.audit]`.

    Attributes:
        allowed: SPDX ids of the allowed licences.
        spellings: SPDX expression by the text that packages write instead.
        exceptions: by package.
    """

    allowed: Collection[str] = ()
    spellings: Mapping[str, str] = field(default_factory=dict)
    exceptions: Mapping[str, LicenceException] = field(default_factory=dict)
    vulnerabilities: Sequence[Exemption] = ()


@dataclass(frozen=True)
class Licence:
    """The licence of a pinned package. `reason` is the reason of its exception, or "" if it has none."""

    package: str
    version: str
    declared: str
    expression: str
    reason: str = ""


def read_policy(path: Path = POLICY) -> Policy:
    table = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["audit"]
    return Policy(
        allowed=frozenset(table["allowed"]),
        spellings=table["spellings"],
        exceptions={name: LicenceException(**entry) for name, entry in table["exceptions"].items()},
        vulnerabilities=[Exemption(**entry) for entry in table["vulnerabilities"]],
    )


def pins(lock: Path, *, here: bool = False) -> dict[str, str]:
    """Return the version of each package of a lock, by normalized name.

    Args:
        here: return only the packages that this Python and platform install.
    """
    lines = re.findall(r"^[A-Za-z0-9][\w.-]*==.*", lock.read_text(encoding="utf-8"), re.MULTILINE)
    found = [Requirement(line) for line in lines]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in found
        if not here or pin.marker is None or pin.marker.evaluate()
    }


# --- bill of materials -----------------------------------------------------------------------------------------------
def bill_of_materials(pinned: Mapping[str, str]) -> str:
    """Return a CycloneDX document of the product and these packages. The same packages give the same text."""
    project = tomllib.loads(POLICY.read_text(encoding="utf-8"))["project"]
    product = Component(
        name=project["name"],
        version=project["version"],
        description=project["description"],
        type=ComponentType.APPLICATION,
        licenses=[DisjunctiveLicense(id=project["license"])],
        bom_ref="product",
    )
    bill = Bom(metadata=BomMetaData(component=product))
    addresses = [PackageURL("pypi", name=name, version=version) for name, version in pinned.items()]
    parts = [Component(name=at.name, version=at.version, purl=at, bom_ref=str(at)) for at in addresses]
    bill.components.update(parts)
    bill.register_dependency(product, parts)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bill).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]  # they would differ each time
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if mistake := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise UncheckedError(f"the bill of materials is not valid: {mistake}")
    return text


def write_bills(folder: Path = FOLDER) -> list[str]:
    """Write a CycloneDX file for each lock of product packages. The same lock gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lock in (("runtime", RUNTIME), ("cluster", CLUSTER)):
        path, pinned = folder / f"{name}.cdx.json", pins(lock)
        path.write_text(bill_of_materials(pinned), encoding="utf-8")
        print(f"{len(pinned)} packages in {path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path}")
    return []


# --- licences --------------------------------------------------------------------------------------------------------
def licences(policy: Policy) -> list[Licence]:
    """Return the licence of every package that requirements.txt installs here, from its installed metadata.

    Raises:
        UncheckedError: a pinned package is not installed.
    """
    pinned = pins(RUNTIME, here=True)
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--with-system"]
    done = _run([*command, "--packages", *pinned])
    if done.returncode:
        raise UncheckedError(f"pip-licenses failed: {_last_line(done.stderr)}")
    declared = {canonicalize_name(entry["Name"]): entry["License"] for entry in json.loads(done.stdout)}
    if missing := sorted(set(pinned) - set(declared)):
        raise UncheckedError(f"{', '.join(missing)}: pinned in {RUNTIME.name} but not installed; run `make setup`")
    return [licence(name, pinned[name], declared[name], policy) for name in sorted(pinned)]


def licence(package: str, version: str, declared: str, policy: Policy) -> Licence:
    """Return the licence of a package by the policy, from the text that the package declares."""
    exception = policy.exceptions.get(package)
    if exception and exception.declared == declared:
        return Licence(package, version, declared, exception.licence, exception.reason)
    # Several classifiers do not say whether all apply or one may be chosen, so all must be allowed.
    parts = [policy.spellings.get(part, part) for part in declared.split("; ")]
    return Licence(package, version, declared, " AND ".join(parts))


def licence_findings(found: Sequence[Licence], policy: Policy) -> list[str]:
    """Return a line for each licence that is not allowed, and for each exception that no package needs."""
    findings = [
        f"{entry.package} {entry.version}: licence {entry.declared!r} is not allowed; replace the package, or add the "
        f"licence to `allowed` or the package to `exceptions` in [tool.audit]"
        for entry in found
        if not entry.reason and not is_allowed(entry.expression, policy.allowed)
    ]
    used = {entry.package for entry in found if entry.reason}
    needless = sorted(set(policy.exceptions) - used)
    return findings + [f"{name}: exception in [tool.audit] fits no pinned package; remove it" for name in needless]


def is_allowed(expression: str, allowed: Collection[str]) -> bool:
    """Return whether the allowed licences satisfy an SPDX expression. An expression that cannot be read does not."""

    def holds(part: Any) -> bool:
        if isinstance(part, AND):
            return all(map(holds, part.args))
        if isinstance(part, OR):
            return any(map(holds, part.args))
        return str(part) in allowed

    try:
        parsed = Licensing().parse(expression)
    except ExpressionError:
        return False
    return parsed is not None and holds(parsed)


# --- vulnerabilities -------------------------------------------------------------------------------------------------
def ask_for_vulnerabilities(service: str, locks: Sequence[Path] = LOCKS) -> list[dict[str, Any]]:
    """Return the report of pip-audit on each pinned package.

    Raises:
        UncheckedError: the service does not answer.
    """
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format=json", "--aliases=on"]
    command += ["--desc=off", "--progress-spinner=off", f"--vulnerability-service={service}"]
    done = _run([*command, *(part for lock in locks for part in ("--requirement", str(lock)))])
    try:
        return list(json.loads(done.stdout)["dependencies"])  # the exit status 1 only means that there are findings
    except (ValueError, KeyError):
        raise UncheckedError(
            f"{service} does not answer: {_last_line(done.stderr)}; run `make audit` on a machine with access to the "
            "internet, or with another SERVICE"
        ) from None


def vulnerability_findings(
    answers: Sequence[Mapping[str, Any]], pinned: Collection[str], policy: Policy, today: date
) -> list[str]:
    """Return a line for each vulnerability without exemption, and for each exemption that has ended or fits nothing.

    Raises:
        UncheckedError: the service does not know a package. pip-audit itself skips such a package and calls it clean.
    """
    answered = {canonicalize_name(entry["name"]) for entry in answers if "skip_reason" not in entry}
    if unknown := sorted(set(pinned) - answered):
        named = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise UncheckedError(
            f"the service does not know {len(unknown)} of {len(pinned)} pinned packages ({named}), as a mirror of PyPI "
            "without JSON API does; run `make audit` on a machine with access to the internet, or with SERVICE=osv"
        )
    exempt = {entry.id: entry for entry in policy.vulnerabilities}
    findings, used = [], set()
    for entry in answers:
        for vulnerability in entry["vulns"]:
            ids = [vulnerability["id"], *vulnerability.get("aliases", [])]
            known = [exempt[name] for name in ids if name in exempt]
            used.update(exemption.id for exemption in known)
            if not known:
                fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
                findings.append(f"{entry['name']} {entry['version']}: {', '.join(ids)}; fixed in {fixed}: `make lock`")
    over = [f"{entry.id}: exemption ended on {entry.expires}" for entry in exempt.values() if entry.expires < today]
    needless = sorted(set(exempt) - used)
    return findings + over + [f"{name}: exemption fits no vulnerability; remove it" for name in needless]


# --- command line ----------------------------------------------------------------------------------------------------
def check_bills(service: str) -> list[str]:  # noqa: ARG001 - every part has the same arguments
    return write_bills()


def check_licences(service: str) -> list[str]:  # noqa: ARG001 - every part has the same arguments
    policy = read_policy()
    found = licences(policy)
    print(f"{len(found)} packages of {RUNTIME.name}, {sum(bool(entry.reason) for entry in found)} by exception")
    return licence_findings(found, policy)


def check_vulnerabilities(service: str) -> list[str]:
    pinned = {name for lock in LOCKS for name in pins(lock, here=True)}
    findings = vulnerability_findings(ask_for_vulnerabilities(service), pinned, read_policy(), date.today())
    print(f"{len(pinned)} packages of {', '.join(lock.name for lock in LOCKS)}, checked by {service}")
    return findings


PARTS: dict[str, Callable[[str], list[str]]] = {
    "bills": check_bills,
    "licences": check_licences,
    "vulnerabilities": check_vulnerabilities,
}


def check(part: str, service: str) -> int:
    """Run one part, print its findings, and return the exit status."""
    print(f"{part}: ", end="", flush=True)
    try:
        findings = PARTS[part](service)
    except UncheckedError as problem:
        print("NOT CHECKED")
        print(f"error: {part}: {problem}", file=sys.stderr)
        return UNCHECKED
    for finding in findings:
        print(f"error: {part}: {finding}", file=sys.stderr)
    return FINDING if findings else CLEAN


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a tool of the virtual environment, without the environment variables that would change its settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_AUDIT_", "PIP_REQ"))}
    try:
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise UncheckedError(f"{command[2]} did not end within {LIMIT_S} s") from None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it wrote no output"])[-1][:300]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check the pinned packages and write their bills of materials.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all parts")
    parser.add_argument("--service", choices=SERVICES, default="pypi", help="database of vulnerabilities to ask")
    arguments = parser.parse_args(argv)
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"{unknown[0]!r} is no part; choose from {', '.join(PARTS)}")
    statuses = [check(part, arguments.service) for part in arguments.parts or PARTS]
    return FINDING if FINDING in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
