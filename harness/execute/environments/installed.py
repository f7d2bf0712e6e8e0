"""Lists what is installed in this program's own Python, and which of it an environment has to leave out."""

from __future__ import annotations

import importlib.metadata
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from harness.environment import RESULT_PACKAGES, normal_name

# Without these no cell can be run; the others of RESULT_PACKAGES serve some methods alone.
NEEDED = (
    "accelerate", "datasets", "huggingface-hub", "jinja2", "lm-eval", "numpy", "peft", "pyarrow", "pydantic", "pyyaml",
    "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Distribution:
    """An installed package: its normalised `name`, `version`, the requirements in its metadata, and its files as paths
    relative to the folder of packages that it lies in. Files outside that folder (scripts) are left out."""

    name: str
    version: str
    requires: tuple[str, ...]
    files: tuple[PurePosixPath, ...]


def package_folders() -> list[Path]:
    """Returns the folders of this Python from which packages are imported, the first that counts first."""
    own = {*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if site.ENABLE_USER_SITE:
        own.add(site.getusersitepackages())
    known = {Path(folder).resolve() for folder in own}
    found = [Path(entry) for entry in sys.path if entry and Path(entry).resolve() in known]
    return list(dict.fromkeys(folder.resolve() for folder in found if folder.is_dir()))


@cache
def installed() -> dict[str, Distribution]:
    """Returns the packages of `package_folders` by normalised name. Of a package that is there twice, the one that is
    imported counts."""
    found: dict[str, Distribution] = {}
    for one in importlib.metadata.distributions(path=[str(folder) for folder in package_folders()]):
        name = normal_name(one.metadata["Name"] or "")
        if name and name not in found:
            files = tuple(PurePosixPath(str(file)) for file in one.files or () if ".." not in file.parts)
            found[name] = Distribution(name, one.version, tuple(one.requires or ()), files)
    return found


def result_packages() -> list[str]:
    """Returns the normalised names of the installed packages that compute results, those without which no cell runs
    first."""
    names = dict.fromkeys([*NEEDED, *map(normal_name, RESULT_PACKAGES)])
    return [name for name in names if name in installed()]


def conflicts(versions: Mapping[str, str], requires: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Returns package -> why it does not fit the others: one of its requirements that `versions` (normalised name ->
    version) does not meet. `requires` maps each package to be judged to its requirements. Those for extras, and
    packages that are missing, are no conflict."""
    from packaging.requirements import InvalidRequirement, Requirement

    reasons: dict[str, str] = {}
    for name, texts in requires.items():
        for text in texts:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            got = versions.get(normal_name(wanted.name))
            if got is not None and not wanted.specifier.contains(got, prereleases=True):
                reasons[name] = f"{name} {versions.get(name, '')} wants {wanted.name}{wanted.specifier}, here is {got}"
                break
    return reasons
