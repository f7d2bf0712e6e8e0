"""Toggles packages between two environments: what differs, and the environment with some of it exchanged."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from harness.environment import RESULT_PACKAGES, normal_name
from harness.execute.environments.installed import conflicts, installed
from harness.execute.environments.make import MadeEnvironment, describe
from harness.execute.environments.overlay import make_overlay
from harness.execute.environments.resolver import Package, ResolvedSet, pip_report
from harness.suite import EnvironmentRequest


@dataclass(frozen=True)
class Between:
    """Two environments with the packages in which they differ. `old` and `new` are the two ends."""

    old: MadeEnvironment
    new: MadeEnvironment
    threads: int

    @cached_property
    def ends(self) -> tuple[dict[str, str], dict[str, str]]:
        """The versions of all packages at the old and at the new end, by normalised name."""
        return self.old.resolved.versions(), self.new.resolved.versions()

    @cached_property
    def differing(self) -> list[str]:
        """The packages that differ: those that compute results first, then those that only they need."""
        before, after = self.ends
        names = [name for name in {**before, **after} if self.of(self.old, name) != self.of(self.new, name)]
        asked = {normal_name(name) for name in RESULT_PACKAGES}
        return sorted(names, key=lambda name: (name not in asked, name))

    @staticmethod
    def of(end: MadeEnvironment, name: str) -> tuple[str, str] | None:
        """Returns (version, origin) of a package at an end; None where it has none."""
        for package in end.resolved.packages:
            if package.name == name:
                return package.version, package.source or ""
        version = end.resolved.versions().get(name)
        return None if version is None else (version, "")

    def change_text(self, name: str) -> str:
        """Returns the change of a package for people: "peft 0.20.0 → 0.21.2"."""
        before, after = (end.get(name, "none") for end in self.ends)
        return f"{name} {before} → {after}"

    def with_needed(self, names: Collection[str]) -> frozenset[str]:
        """Returns `names` with every other differing package that must change with them: what their new versions need,
        and what needs their old ones."""
        before, after = self.ends
        chosen = {name for name in names if name in self.differing}
        while True:
            versions = {**before, **{name: after[name] for name in chosen if name in after}}
            for name in chosen - after.keys():
                versions.pop(name, None)
            requires = {name: self.requires(name, name in chosen) for name in self.differing if name in versions}
            more = set()
            for name, texts in requires.items():
                for wanted in broken(versions, texts):
                    if name in chosen and wanted in self.differing:
                        more.add(wanted)
                    elif name not in chosen and wanted in chosen:
                        more.add(name)
            if more <= chosen:
                return frozenset(chosen)
            chosen |= more

    def requires(self, name: str, new: bool) -> tuple[str, ...]:
        """Returns the requirements of a package at the new or the old end."""
        if package := self.package(name, new):
            return package.requires
        return installed()[name].requires if name in installed() else ()

    def package(self, name: str, new: bool) -> Package | None:
        """Returns the package that one end has in place of the base's; None where it has the base's, or none."""
        end = self.new if new else self.old
        return next((package for package in end.resolved.packages if package.name == name), None)

    def toggled(self, names: Collection[str], exchanged: Iterable[Package] = ()) -> MadeEnvironment:
        """Returns the old environment with the packages `names` as in the new one, and the `exchanged` ones in place of
        whatever it has. Raises CannotMake where it cannot be made."""
        replaced = {package.name: package for package in exchanged}
        packages, gone = dict(replaced), dict[str, str]()
        known = {package.name for end in (self.old, self.new) for package in end.resolved.packages}
        for name in known - replaced.keys():
            if package := self.package(name, name in names):
                packages[name] = package
        for end, new in ((self.old, False), (self.new, True)):
            gone |= {name: why for name, why in end.resolved.left_out if (name in names) == new}
        resolved = ResolvedSet(
            tuple(packages[name] for name in sorted(packages)),
            tuple(sorted((name, why) for name, why in gone.items() if name not in packages)),
        )
        python = make_overlay(resolved)
        text = ", ".join([*sorted(names), *(package.pin for package in replaced.values())]) or "nothing"
        request = EnvironmentRequest(f"{self.old.name} with {text} of {self.new.name}")
        return MadeEnvironment(request, python, describe(python, self.threads), resolved)


def broken(versions: dict[str, str], requirements: Iterable[str]) -> set[str]:
    """Returns the normalised names of the packages that do not meet requirements on them."""
    from packaging.requirements import Requirement

    return {normal_name(Requirement(text).name) for text in requirements if conflicts(versions, {"it": [text]})}


def release_package(name: str, version: str) -> Package:
    """Returns a release of a package, to be exchanged. Raises CannotMake where there is none for this Python."""
    (found,) = (
        package
        for package in pip_report(["--no-deps", "--ignore-installed", f"{name}=={version}"])
        if package.name == normal_name(name)
    )
    return found


REPOSITORY = re.compile(r"https?://github\.com/[\w.-]+/[\w.-]+")


def release_page(name: str, version: str) -> str:
    """Returns the address of the page that tells of a release, by what the installed package says of its repository; ""
    where it says none."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    told = [*(about.get_all("Home-page") or ()), *(about.get_all("Project-URL") or ())]
    found = next((match for text in told if (match := REPOSITORY.search(text))), None)
    return f"{found[0].removesuffix('.git')}/releases?q={version}" if found else ""
