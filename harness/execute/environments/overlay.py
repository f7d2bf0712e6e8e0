"""Puts environments together: a Python of its own whose packages are links to the base's, but for those that differ.

A package that differs is not laid over the base's, it stands in its place: nothing is there twice, so what is imported
is what is recorded. What does not fit the others is left out, and cannot be imported by accident.

What is not covered: console scripts of packages, and packages that write into their own folder.
"""

from __future__ import annotations

import os
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from harness.data import cache_root
from harness.execute.environments.installed import installed, package_folders
from harness.execute.environments.packages import made_once, package_folder
from harness.execute.environments.resolver import OPTIONS, Package, ResolvedSet, run_pip
from harness.records import digest

Hidden = Mapping[str, "Hidden | None"]  # a folder's entries that are hidden: None all of it, else some of what is in it
UNSHARED = "__pycache__"  # written by whoever imports; never linked where its folder is put together


@dataclass
class Layer:
    """A folder of packages that an environment draws on, with the files in it that are `hidden`."""

    folder: Path
    hidden: dict[str, Hidden | None] = field(default_factory=dict)


def make_overlay(resolved: ResolvedSet) -> Path:
    """Returns the Python of the environment with a resolved set of packages, made first where the cache has none.
    Raises CannotMake where pip cannot install a package."""
    folders = [package_folder(package) for package in resolved.packages]
    base = sorted((name, one.version) for name, one in installed().items())
    bases = [str(folder) for folder in package_folders()]
    identity = digest([base, bases, [folder.name for folder in folders], list(resolved.left_out)])
    root = cache_root() / "environments" / "overlays" / identity[:16]
    with made_once(root) as target:
        if target:
            site = bare_python(target)
            gone = {package.name for package in resolved.packages} | {name for name, _ in resolved.left_out}
            hidden = [file for name in gone if name in installed() for file in installed()[name].files]
            layers = [Layer(folder) for folder in folders]
            layers += [Layer(folder, tree_of(hidden)) for folder in package_folders()]
            link(layers, site)
    return root / "bin" / "python"


def make_isolated(resolved: ResolvedSet) -> Path:
    """Returns the Python of an environment that shares no file with the base: every package is installed anew, in the
    versions of the base but for those of `resolved`. Raises CannotMake where pip cannot install one."""
    missing = {name for name, _ in resolved.left_out}
    packages = {name: Package(name, one.version) for name, one in installed().items() if name != "tunebench"}
    packages = {name: one for name, one in packages.items() if name not in missing}
    packages |= {package.name: package for package in resolved.packages}
    identity = digest(["isolated", sorted((one.name, one.version, one.source) for one in packages.values())])
    root = cache_root() / "environments" / "isolated" / identity[:16]
    with made_once(root) as target:
        if target:
            site = bare_python(target)
            wanted = target / "requirements.txt"
            wanted.write_text("\n".join(one.source or public_pin(one) for one in packages.values()))
            run_pip("install", "--quiet", "--no-deps", "--target", str(site), *OPTIONS, "-r", str(wanted))
            share_tunebench(site, Path(__file__).resolve().parents[2])
    return root / "bin" / "python"


def share_tunebench(site: Path, package: Path) -> None:
    """Lets a Python whose packages lie in `site` import the folder `package`, this program's own code. Of an installed
    tunebench it sees this folder alone, and nothing that lies beside it."""
    if any(package.is_relative_to(folder) for folder in package_folders()):
        os.symlink(package, site / package.name)
    else:
        (site / "tunebench.pth").write_text(f"{package.parent}\n")


def public_pin(package: Package) -> str:
    """Returns the pin of a package without the local part of its version, which an index does not know: "torch==2.13.0"
    for 2.13.0+cpu."""
    return f"{package.name}=={package.version.partition('+')[0]}"


def bare_python(root: Path) -> Path:
    """Makes an environment without any package, not even pip, in the folder `root`; returns its folder of packages."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)
    (site,) = (root / "lib").glob("python3*/site-packages")
    return site


def tree_of(files: Iterable[PurePosixPath]) -> dict[str, Hidden | None]:
    """Returns paths as a tree of nested dicts; a file's value is None."""
    tree: dict[str, Hidden | None] = {}
    for file in files:
        branch = tree
        for part in file.parts[:-1]:
            below = branch.setdefault(part, {})
            if not isinstance(below, dict):
                break
            branch = below
        else:
            branch.setdefault(file.name, None)
    return tree


def link(layers: list[Layer], target: Path) -> int:
    """Fills the folder `target` with links to the entries of `layers`, the first layer first, and returns how many were
    made. A folder that is whole and in one layer becomes one link; one that is in several, or partly hidden, is put
    together from what is in it."""
    entries: dict[str, list[tuple[Path, Hidden | None]]] = {}
    for layer in layers:
        for path in sorted(layer.folder.iterdir()):
            below = layer.hidden.get(path.name, {})
            if below is not None:
                entries.setdefault(path.name, []).append((path, below))
    made = 0
    for name, found in entries.items():
        if name == UNSHARED:
            continue
        path, below = found[0]
        folders = [Layer(one, dict(hidden or {})) for one, hidden in found if one.is_dir()]
        if not path.is_dir() or (len(folders) == 1 and not below):
            os.symlink(path, target / name)
            made += 1
        else:
            (target / name).mkdir()
            inside = link(folders, target / name)
            if not inside:
                (target / name).rmdir()
            made += inside
    return made
