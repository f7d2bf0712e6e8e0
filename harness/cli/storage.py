"""What cache and results take on disk, what each part is good for, and what it costs to make again.

Nothing is removed but by `remove`, and nothing of results but weights, copies of which can be trained again: scores,
items and logs stay, so that reports do not change.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.store import Store

DAY = 86_400.0
# Folders of the cache: what is in them, and how they come back.
CACHE = {
    "tmp": ("left over by downloads that were stopped", "nothing is lost"),
    "environments": (
        "packages of environments that `regress` compared",
        "pip downloads them again when they are asked for",
    ),
    "sources": ("downloads as they came", "downloaded again, where what was made of them is gone too"),
    "datasets": ("documents of tasks, divided", "made again from the downloads in seconds"),
    "projects": ("code that a cluster's driver sent here", "sent again by the next run"),
    "cells": ("cells that a cluster's driver ran here", "nothing is lost once the run has ended"),
    "slurm": ("logs of Slurm jobs", "nothing is lost once the run has ended"),
    "models": ("models as cells load them", "made again from the downloads, about a minute a model"),
    "hf": ("models and data of the Hub", "downloaded again"),
    "instruments": ("self-checks that have passed", "run again before the next run, about a minute"),
    "facts": ("what is known of models and tasks", "found again by `tunebench fetch`"),
    "page": ("scripts of the report's page", "made again in seconds"),
}
WEIGHTS = ("superseded weights", "weights")


@dataclass(frozen=True)
class Stored:
    """One part of what is stored: its `name` for `--prune`, where it is, `bytes` on disk, what it is, how it comes back
    (`again`), and how many `seconds` of computing that takes, as stored (None where that is not known). `paths` are
    what would be removed; `newest` is when the newest of it was changed (seconds since 1970)."""

    name: str
    place: Path
    bytes: int
    what: str
    again: str
    seconds: float | None = None
    paths: Sequence[Path] = field(default=(), repr=False)
    newest: float = 0.0


def size_of_tree(path: Path) -> int:
    """Returns the bytes on disk below a path, of a file with several names once; links count as themselves."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in walk(path):
        status = entry.stat(follow_symlinks=False)
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
    return total


def walk(path: Path) -> Iterator[os.DirEntry[str]]:
    """Yields every file below a folder, links not followed; nothing for a folder that cannot be read."""
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))
        else:
            yield entry


def changed(path: Path) -> float:
    """Returns when a path itself was last changed, in seconds since 1970; 0 where it is gone."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def in_cache(root: Path, older: float) -> list[Stored]:
    """Returns the parts of the cache, those that cost least to make again first. Only what was not changed for `older`
    seconds would be removed."""
    found = []
    names = [*CACHE, *sorted(path.name for path in root.glob("*") if path.name not in (*CACHE, "locks"))]
    for name in names:
        place = root / name
        if not place.is_dir():
            continue
        what, again = CACHE.get(name, ("not tunebench's own, as far as it knows", "not known"))
        entries = [path for path in place.iterdir() if time.time() - changed(path) >= older]
        known = name in CACHE
        found.append(
            Stored(
                name, place, size_of_tree(place), what, again, None, entries if known else (),
                max(map(changed, place.iterdir()), default=0.0),
            )
        )  # fmt: skip
    return found


def in_results(store: Store, suite: str, older: float) -> list[Stored]:
    """Returns the parts of a results folder. Weights of attempts that a newer finished one replaces are a part of their
    own. Only weights would be removed: those of `suite` ("": all), of attempts that ended `older` seconds ago.

    Raises UserError for a suite without results.
    """
    from harness.store import all_suites, stored_weights

    if not (store.folder / "attempts").is_dir():
        return []
    with store.look() as connection:
        if suite and suite not in all_suites(connection):
            raise UserError(unknown("suite with results", suite, all_suites(connection)))
        rows = stored_weights(connection, suite)
    parts: dict[str, list[tuple[Path, float]]] = {name: [] for name in WEIGHTS}
    for row in rows:
        path = store.attempt_folder(row.attempt_id) / "weights"
        if path.is_dir() and age(row.started) >= older:
            parts[WEIGHTS[row.is_decisive]].append((path, row.seconds))
    about = {
        "superseded weights": ("of attempts that a newer one of the same cell replaces", "nothing is lost"),
        "weights": ("of finished cells: for `export`, `try`, and cells that are made of others", "trained again"),
    }
    found = []
    for name, held in parts.items():
        seconds = sum(value for _, value in held) if name == "weights" else 0.0
        size = sum(size_of_tree(path) for path, _ in held)
        paths = [path for path, _ in held]
        found.append(
            Stored(
                name, store.folder / "attempts", size, *about[name], seconds, paths, max(map(changed, paths), default=0)
            )
        )
    rest = size_of_tree(store.folder) - sum(size_of_tree(path) for path in store.folder.glob("attempts/*/*/weights"))
    kept = Stored("results", store.folder, rest, "scores, items, logs and the database: never pruned", "run again")
    return [*found, kept]


def age(started: datetime | None) -> float:
    """Returns how many seconds ago an attempt began; 0 where that is not known."""
    if started is None:
        return 0.0
    return max(0.0, time.time() - started.timestamp())


def choose(parts: Sequence[Stored], names: Sequence[str]) -> list[Stored]:
    """Returns the parts with these names. Raises UserError for a name that none has, or that is never pruned."""
    known = {part.name: part for part in parts if part.name != "results"}
    for name in names:
        if name == "results":
            raise UserError("results are never pruned: scores and items are small, and reports are made of them. "
                            "Prune `weights`, or remove the folder by hand.")  # fmt: skip
        if name not in (*known, *CACHE, *WEIGHTS):
            raise UserError(unknown("part of cache and results", name, known))
    return [known[name] for name in dict.fromkeys(names) if name in known]


def remove(parts: Sequence[Stored], tell: Callable[[str], None]) -> int:
    """Removes what the parts would remove; returns the bytes that are free now. What cannot be removed is told, and
    left."""
    freed = 0
    for part in parts:
        for path in part.paths:
            size = size_of_tree(path) if path.is_dir() else 0
            try:
                if path.is_dir() and not path.is_symlink():
                    size = size_of_tree(path)
                    shutil.rmtree(path)
                else:
                    size = path.lstat().st_blocks * 512
                    path.unlink()
            except OSError as error:
                tell(f"{path}: {error.strerror or error}")
                continue
            freed += size
    return freed
