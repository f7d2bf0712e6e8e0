"""A cell's sources on a node of a cluster: where the driver has them, or fetched by the node, once for all its cells.

In: a cell, the project's small files as a parcel, and the folder where the driver has them. Out: the paths that
the cell's job gets on this node, which hold the very content that the cell was planned with.

Not covered: models named by `file:`. They are not sent: they must lie at the same path on every node.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.data import Catalog, data_files, definition_files, load_catalog, sources
from harness.environment import RESULT_PACKAGES, environment
from harness.errors import CellError, TunebenchError
from harness.execute.executors.ray.parcel import Parcel
from harness.records import Cell, Environment

Names = dict[str, list[str]]  # "models" and "tasks" -> names
BEFORE = dict(os.environ)  # before the first cell of this process has cut off the network


def project_files(catalog: Catalog) -> dict[str, Path]:
    """What a node must have of a project: its models' list, its tasks, and the local data that these name.

    Data outside the project's folder are left out: like models named by `file:`, they must lie on every node.
    """
    root = catalog.root.resolve()
    found = [root / "suites" / "models.yaml", *(root / "suites" / "tasks").rglob("*")]
    for path in catalog.tasks.values():
        for file in definition_files(path):
            found += [file, *([] if file.suffix == ".py" else data_files(file, path.parent))]
    inside = {path.resolve() for path in found if path.is_file() and path.resolve().is_relative_to(root)}
    return {str(path.relative_to(root)): path for path in sorted(inside) if "__pycache__" not in path.parts}


def provide(
    cell: Cell, project: Parcel, root: Path, get: Callable[[Any], bytes]
) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    """(models and tasks of a job on this node, name -> path; names of those that were fetched for it).

    Raises CellError where the node cannot have them, or has something else than the cell was planned with.
    """
    catalog = catalog_here(project, root, get)
    fetched = []
    if any(missing(catalog, cell).values()):
        from filelock import FileLock

        lock = sources.cache_root() / "locks" / f"node-{project.digest[:12]}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # the node's other cells wait, and then find it there
            wanted = missing(catalog, cell)
            fetched = wanted["models"] + wanted["tasks"]
            if fetched:
                fetch_apart(catalog.root, wanted)
    models = {name: catalog.model_facts(name) for name in (cell.model, *cell.borrows)}
    tasks = {name: catalog.task_facts(name) for name in task_names(cell)}
    keyed = {cell.fingerprint_key(name): (f"model {name!r}", facts) for name, facts in models.items()}
    for key, (what, found) in {**keyed, **{name: (f"task {name!r}", facts) for name, facts in tasks.items()}}.items():
        if found is None or found.fingerprint != cell.fingerprints[key]:
            raise CellError(f"{what} is not the same on node {socket.gethostname()} as where the suite was planned")
    folders = {name: Path(facts.folder) for name, facts in models.items() if facts}
    return folders, {name: Path(facts.path) for name, facts in tasks.items() if facts}, fetched


def task_names(cell: Cell) -> tuple[str, ...]:
    return (*cell.learn, *cell.retain, *cell.reads)


def missing(catalog: Catalog, cell: Cell) -> Names:
    """What a node has yet to fetch for a cell."""
    return {
        "models": [name for name in (cell.model, *cell.borrows) if catalog.model_facts(name) is None],
        "tasks": [name for name in task_names(cell) if catalog.task_facts(name) is None],
    }


@cache
def catalog_here(project: Parcel, root: Path, get: Callable[[Any], bytes]) -> Catalog:
    """The driver's own project folder where this node sees it (a shared disk, the same machine), else a copy."""
    if project.lies_in(root):
        return load_catalog(root)
    copy = sources.cache_root() / "projects" / project.digest[:16]
    if not copy.is_dir():
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=copy.parent, prefix=".project-"))
        try:
            project.unpack(temporary, get)
            temporary.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another cell of this node was first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return load_catalog(copy)


def fetch_apart(root: Path, wanted: Names) -> None:
    """Fetch in a process of its own: it loads torch, and may use the network, which cells may not."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        complaint = pool.submit(fetch_all, root, wanted, BEFORE).result()
    if complaint:
        names = ", ".join(wanted["models"] + wanted["tasks"])
        raise CellError(f"node {socket.gethostname()} cannot fetch {names}: {complaint}")


def fetch_all(root: Path, wanted: Names, variables: dict[str, str]) -> str:
    """Fetch and prepare; what was wrong, or ""."""
    os.environ.clear()
    os.environ.update(variables)
    from harness.data import tasks
    from harness.models import loading

    catalog = load_catalog(root)
    try:
        for name in wanted["models"]:
            loading.prepare(catalog, name)
        for name in wanted["tasks"]:
            tasks.prepare(catalog, name)
    except TunebenchError as error:
        return str(error)
    return ""


def describe(threads: int) -> Environment:
    """This node's environment."""
    return environment(threads)


def same_environment(driver: Environment, threads: int) -> Environment:
    """This node's environment, with the commit of the driver, whose code it runs.

    Raises CellError where results may differ from those of the driver's environment.
    """
    here = environment(threads)
    if here.env_digest == driver.env_digest:
        return replace(here, commit=driver.commit, dirty=driver.dirty)
    theirs, ours = by_normal_name(driver.packages), by_normal_name(here.packages)
    found = [
        f"{name} {ours.get(name, 'missing')} instead of {theirs.get(name, 'none')}"
        for name in by_normal_name(dict.fromkeys(RESULT_PACKAGES, ""))
        if ours.get(name) != theirs.get(name)
    ]
    if driver.accelerator != here.accelerator:
        found.append(f"{here.accelerator or 'no accelerator'} instead of {driver.accelerator or 'none'}")
    raise CellError(
        f"node {socket.gethostname()} would compute something else: {', '.join(found) or 'another tunebench'}. "
        "Every node needs the packages and the kind of device that the run was planned with"
    )


def by_normal_name(packages: dict[str, str]) -> dict[str, str]:
    """Versions by the names that package indexes hold to be equal: lm_eval and lm-eval."""
    return {name.lower().replace("_", "-"): version for name, version in packages.items()}
