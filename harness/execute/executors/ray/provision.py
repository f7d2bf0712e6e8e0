"""Provides a cell's models and tasks on a node of a cluster: from where the driver has them, or fetched once for all
its cells.

In: a cell, the project's small files as a parcel, and the folder where the driver has them. Out: the paths that the
cell's job gets on this node, which hold the very content that the cell was planned with.

Not covered: models named by `file:`. They are not sent: they must lie at the same path on every node.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Catalog, data_files, definition_files, load_catalog, sources, trust, yaml_files
from harness.errors import CellError, TunebenchError
from harness.execute.executors.ray.parcel import Parcel
from harness.records import Cell

if TYPE_CHECKING:
    from ray import ObjectRef

Get = Callable[["ObjectRef[bytes]"], bytes]  # what stands for some bytes -> these
BEFORE = dict(os.environ)  # before the first cell of this process has cut off the network


def project_files(catalog: Catalog) -> dict[str, Path]:
    """Returns name inside the project -> path, for the files that a node needs: the list of models, the tasks, and the
    local data that these name.

    Data outside the project's folder are left out: like models named by `file:`, they must lie on every node at the
    same path.
    """
    root = catalog.root.resolve()
    paths = [root / "suites" / "models.yaml", *(root / "suites" / "tasks").rglob("*")]
    for path in catalog.tasks.values():
        paths += definition_files(path)
        for file in yaml_files(path):
            paths += data_files(file, path.parent)
    inside = {path.resolve() for path in paths if path.is_file() and path.resolve().is_relative_to(root)}
    return {str(path.relative_to(root)): path for path in sorted(inside) if "__pycache__" not in path.parts}


def provide(
    cell: Cell, project: Parcel, root: Path, get: Get, key: bytes, revisions: Mapping[str, str]
) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    """Returns (model -> folder, task -> path, names of those that were fetched now) for a cell's job on this node.
    `root` is the project's folder on the driver, `project` its files, signed with `key`; `get` turns a reference into
    its bytes. `revisions` maps models to the commits of the Hub to fetch them at.

    Raises CellError where the node cannot have them, or has something else than the cell was planned with.
    """
    catalog = catalog_here(project, root, get, key)
    fetched: list[str] = []
    if missing(catalog, cell).names:
        from filelock import FileLock

        lock = sources.cache_root() / "locks" / f"node-{project.digest[:12]}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # the node's other cells wait, and then find it there
            still_missing = missing(catalog, cell)
            fetched = still_missing.names
            if fetched:
                fetch_apart(catalog.root, still_missing, dict(revisions))
    models = {name: catalog.model_facts(name) for name in (cell.model, *cell.borrows)}
    tasks = {name: catalog.task_facts(name) for name in task_names(cell)}
    keyed = {cell.fingerprint_key(name): (f"model {name!r}", facts) for name, facts in models.items()}
    for name, (what, facts) in {**keyed, **{task: (f"task {task!r}", facts) for task, facts in tasks.items()}}.items():
        if facts is None or facts.fingerprint != cell.fingerprints[name]:
            raise CellError(f"{what} is not the same on node {socket.gethostname()} as where the suite was planned")
    folders = {name: Path(facts.folder) for name, facts in models.items() if facts}
    return folders, {name: Path(facts.path) for name, facts in tasks.items() if facts}, fetched


def task_names(cell: Cell) -> tuple[str, ...]:
    """Returns the tasks whose documents a cell uses: learned, retained and read."""
    return (*cell.learn, *cell.retain, *cell.reads)


@dataclass(frozen=True)
class Missing:
    """Names of the models and tasks that a node has yet to fetch for a cell."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The names of both, models first."""
        return [*self.models, *self.tasks]


def missing(catalog: Catalog, cell: Cell) -> Missing:
    """Returns the models and tasks of a cell that this node has yet to fetch."""
    return Missing(
        tuple(name for name in (cell.model, *cell.borrows) if catalog.model_facts(name) is None),
        tuple(name for name in task_names(cell) if catalog.task_facts(name) is None),
    )


@cache
def catalog_here(project: Parcel, root: Path, get: Get, key: bytes) -> Catalog:
    """Returns the catalog of the driver's own project folder `root` where this node sees the very files of `project` in
    it (a shared disk, the same machine), else of a copy in this node's cache, which `key` has signed. `get` turns a
    reference into its bytes."""
    if project.lies_in(root):
        return load_catalog(root)
    copy = sources.cache_root() / "projects" / project.digest[:16]
    if not copy.is_dir():
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=copy.parent, prefix=".project-"))
        try:
            project.unpack(temporary, get, key)
            temporary.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another cell of this node was first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return load_catalog(copy)


def fetch_apart(root: Path, wanted: Missing, revisions: dict[str, str]) -> None:
    """Fetch models and tasks in a process of its own: it loads torch, and may use the network, which cells may not.
    `revisions` maps models to commits of the Hub. Raises CellError where they cannot be fetched."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        complaint = pool.submit(fetch_all, root, wanted, revisions, {**BEFORE, **trust.passed_on()}).result()
    if complaint:
        names = ", ".join(wanted.names)
        raise CellError(f"node {socket.gethostname()} cannot fetch {names}: {complaint}")


def fetch_all(root: Path, wanted: Missing, revisions: dict[str, str], variables: dict[str, str]) -> str:
    """Fetch and prepare models and tasks for the project folder `root`, models of the Hub at the commits in
    `revisions`, with these environment variables in place of
    the process's own. Returns what was wrong, or ""."""
    os.environ.clear()
    os.environ.update(variables)
    from harness.data import tasks
    from harness.models import loading

    catalog = load_catalog(root)
    try:
        for name in wanted.models:
            loading.prepare(catalog, name, revision=revisions.get(name, ""))
        for name in wanted.tasks:
            tasks.prepare(catalog, name)
    except TunebenchError as error:
        return str(error)
    return ""
