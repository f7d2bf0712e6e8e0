"""Finds the set of packages that an environment is made of, by pip's own resolver.

Requirements are resolved together with the packages that compute results, without this project's own bounds on their
versions. So an older transformers brings the older packages that it needs, and what cannot live beside it is left out
and named.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environment import normal_name
from harness.errors import UserError
from harness.execute.environments.installed import NEEDED, conflicts, installed, result_packages
from harness.suite import package_names

PIP_SECONDS = 900
CONFLICT = "pip cannot resolve it"
OPTIONS = ("--no-input", "--disable-pip-version-check", "--prefer-binary", "--retries", "2")


class CannotMake(UserError):
    """An environment that cannot be made: a package that does not exist, or versions that exclude each other."""


@dataclass(frozen=True)
class Package:
    """A package to install: normalised name, exact version, and `source`, which pip installs it from: "" for the index,
    else a file or an address. `digest` is the SHA-256 of its archive, "" where pip does not say."""

    name: str
    version: str
    source: str = ""
    digest: str = ""
    requires: tuple[str, ...] = ()

    @property
    def pin(self) -> str:
        """The package as it is shown to people: "peft==0.20.0"."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class ResolvedSet:
    """What makes an environment differ from the base: `packages` that stand in place of the base's (or beside them),
    and `left_out`, packages of the base that do not fit these -> why."""

    packages: tuple[Package, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    def versions(self) -> dict[str, str]:
        """Returns the versions of all packages in the environment by normalised name."""
        missing = {name for name, _ in self.left_out}
        base = {name: one.version for name, one in installed().items() if name not in missing}
        return base | {package.name: package.version for package in self.packages}


def resolve(requirements: Sequence[str]) -> ResolvedSet:
    """Returns the set of packages for `requirements` (pip's words). Packages without which no cell runs are kept where
    they fit, else exchanged for versions that do; packages of some methods alone are kept or left out, as a search
    through their releases takes minutes. torch is exchanged only where it is asked for, as its builds are large. Raises
    CannotMake with pip's reason.
    """
    if not requirements:
        return ResolvedSet()
    requirements = [pinned_to_newest(text) for text in requirements]
    asked = set(package_names(requirements))
    kept = [name for name in result_packages() if name in NEEDED and name not in asked]
    limits = [] if "torch" in asked or "torch" not in installed() else [f"torch=={installed()['torch'].version}"]
    try:
        found = pip_report([*requirements, *kept], limits)
    except CannotMake as error:
        if not str(error).startswith(CONFLICT):
            raise
        found = pip_report(requirements, limits)  # what does not fit is left out, and cells may not run; probes may
    return with_left_out(with_direct(found, requirements))


def pinned_to_newest(text: str) -> str:
    """Returns a requirement; a bare name becomes the newest release, as pip would be content with what is installed."""
    if text.replace("-", "").replace("_", "").replace(".", "").isalnum() and not Path(text).exists():
        return f"{text}=={releases(text)[-1]}"
    return text


def releases(name: str) -> list[str]:
    """Returns the released versions of a package that an index offers for this Python, oldest first, without
    pre-releases. Raises CannotMake where pip cannot say."""
    from packaging.version import Version

    output = run_pip("index", "versions", "--disable-pip-version-check", name)
    line = next((line for line in output.splitlines() if line.startswith("Available versions:")), "")
    if not line:
        raise CannotMake(f"pip does not say which versions of {name} there are")
    return sorted((text.strip() for text in line.partition(":")[2].split(",")), key=Version)


def with_direct(packages: list[Package], requirements: Sequence[str]) -> list[Package]:
    """Returns packages with those of `requirements` that name a file, a folder or a commit: pip leaves one out whose
    version is installed already, whatever is in it."""
    from packaging.requirements import InvalidRequirement, Requirement

    def is_direct(text: str) -> bool:
        try:
            return Requirement(text).url is not None
        except InvalidRequirement:
            return True

    known = {package.name for package in packages if package.source}
    for text in filter(is_direct, requirements):
        found = pip_report(["--no-deps", "--ignore-installed", text])
        packages = [*packages, *(package for package in found if package.name not in known)]
    return packages


def with_left_out(packages: Iterable[Package]) -> ResolvedSet:
    """Returns a resolved set, with those packages of the base left out that compute results and do not fit."""
    made = tuple(sorted(packages, key=lambda package: package.name))
    replaced = {package.name: package for package in made}
    versions = {name: one.version for name, one in installed().items()} | {
        name: package.version for name, package in replaced.items()
    }
    judged = {name: installed()[name].requires for name in result_packages() if name not in replaced}
    return ResolvedSet(made, tuple(sorted(conflicts(versions, judged).items())))


def pip_report(requirements: Sequence[str], constraints: Sequence[str] = ()) -> list[Package]:
    """Returns what pip would install for `requirements`, beside what is installed, under `constraints`. Nothing is
    changed. Raises CannotMake where pip finds no such set."""
    with tempfile.TemporaryDirectory() as scratch:
        report, limits = Path(scratch, "report.json"), Path(scratch, "constraints.txt")
        limits.write_text("\n".join(constraints))
        wanted = map(address_alone, requirements)
        run_pip("install", "--dry-run", "--quiet", "--report", str(report), "-c", str(limits), *OPTIONS, *wanted)
        answer = json.loads(report.read_text())
    return [package_of(entry) for entry in answer["install"]]


def address_alone(text: str) -> str:
    """Returns a requirement as every pip takes it on a command line: older ones take "name @ git+file:///path" for a
    path."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        found = Requirement(text)
    except InvalidRequirement:
        return text
    return found.url if found.url and not found.extras and not found.marker else text


def package_of(entry: dict[str, Any]) -> Package:
    """Returns the package of an entry of pip's installation report."""
    about, where = entry["metadata"], entry["download_info"]
    hashes = where.get("archive_info", {}).get("hashes", {})
    direct = "dir_info" in where or "vcs_info" in where or (entry.get("is_direct") is True)
    source = ""
    if direct:
        vcs = where.get("vcs_info", {})
        source = f"{vcs['vcs']}+{where['url']}@{vcs['commit_id']}" if vcs else where["url"]
    return Package(
        normal_name(about["name"]), about["version"], source, hashes.get("sha256", ""),
        tuple(about.get("requires_dist", ())),
    )  # fmt: skip


def run_pip(*arguments: str) -> str:
    """Runs pip of this program's own Python and returns what it printed. Raises CannotMake with its reason."""
    command = [sys.executable, "-m", "pip", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise CannotMake(f"pip took more than {PIP_SECONDS} s: {' '.join(arguments)}") from None
    if done.returncode:
        raise CannotMake(pip_reason(done.stdout + done.stderr))
    return done.stdout


def pip_reason(output: str) -> str:
    """Returns why pip failed, in a sentence read off its output."""
    if "No module named pip" in output:
        return "environments are made by pip, which this Python lacks: run `python -m ensurepip`"
    errors = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    if missing := [line for line in errors if "No matching distribution" in line]:
        versions = re.search(r"from versions: ([^)]*)\)", output)
        known = [version.strip() for version in versions[1].split(",")] if versions else []
        newest = f"; the newest are {', '.join(known[-5:])}" if known and known != ["none"] else ""
        wanted = missing[0].rpartition(" for ")[2]
        return f"{CONFLICT}: no release fits {wanted} on this Python{newest}"
    if any("ResolutionImpossible" in line or "conflicting dependencies" in line for line in errors):
        causes = [line.strip() for line in output.splitlines() if re.match(r"\s+\S.* depends on ", line)]
        return f"{CONFLICT}: " + ("; ".join(causes[:4]) or errors[0])
    return f"pip failed: {(errors or output.strip().splitlines()[-1:] or ['no reason given'])[0]}"
