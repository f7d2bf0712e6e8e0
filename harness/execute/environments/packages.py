"""Keeps packages unpacked in the cache, a folder for each version, so that environments are put together in a
moment."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from harness.data import cache_root
from harness.execute.environments.resolver import OPTIONS, Package, run_pip
from harness.records import digest


def package_folder(package: Package) -> Path:
    """Returns the folder in the cache that holds the package as pip installs it; installs it there first, where it is
    missing. Raises CannotMake where pip cannot."""
    kept = cache_root() / "environments" / "packages"
    identity = digest([package.name, package.version, package.source, package.digest])
    folder = kept / f"{package.name}-{package.version}-{identity[:12]}"
    with made_once(folder) as target:
        if target:
            what = requirement(package)
            run_pip("install", "--quiet", "--no-deps", "--target", str(target), *OPTIONS, what)
    return folder


def requirement(package: Package) -> str:
    """Returns the words by which pip installs exactly this package."""
    return package.source or package.pin


@contextmanager
def made_once(folder: Path) -> Iterator[Path | None]:
    """Yields a temporary folder whose content becomes `folder` when the block ends well, or None where `folder` is
    there already. Another process that makes the same one is waited for."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.exists():
            yield None
            return
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
        try:
            made = scratch / "made"
            made.mkdir()
            yield made
            made.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
