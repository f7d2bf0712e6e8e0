"""Remembers which files a task was fetched with, so that a message can name the ones that have changed since."""

from __future__ import annotations

import json
import os
from pathlib import Path

from harness.data import sources
from harness.data.catalog import Catalog, data_files, local_stamp
from harness.data.task_code import content_of, definition_files, yaml_files
from harness.records import digest


def remember(path: Path) -> None:
    """Keep, in the cache, the state of each file that defines the task of the YAML `path`, and of its data."""
    kept = kept_path(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(states(path)))
    temporary.replace(kept)


def changed_files(catalog: Catalog, name: str) -> list[str]:
    """Return the names of the files of a task that have changed since it was fetched last, also those that are new or
    gone; nothing for a task that was never fetched, and for a model's name."""
    if name in catalog.models or name not in catalog.tasks:
        return []
    path = catalog.tasks[name]
    try:
        before: dict[str, str] = json.loads(kept_path(path).read_text())
    except (OSError, ValueError):
        return []
    now = states(path)
    return sorted({Path(file).name for file in before.keys() | now.keys() if before.get(file) != now.get(file)})


def states(path: Path) -> dict[str, str]:
    """Return {file: digest of what it holds, or of its size and time of change} for a task's YAML, its code and its
    data."""
    own = Path(__file__).parent
    found = {str(file): content_of(file) for file in definition_files(path) if file.is_file() and file.parent != own}
    for file in yaml_files(path):
        found |= {str(place): digest(local_stamp(place)) for place in data_files(file, path.parent)}
    return found


def kept_path(path: Path) -> Path:
    """Return the file in the cache for the states of the files of the task YAML `path`."""
    return sources.cache_root() / "facts" / f"files-{digest(str(path.resolve()))[:32]}.json"
