"""Keeps the tasks that were loaded last in memory: what looks through a task's documents asks for it several times."""

from __future__ import annotations

from harness.data.lm_eval_task import Task

MOST = 4
OPEN: dict[tuple[str, str], Task] = {}  # (path, fingerprint) -> the task; the one used last stands at the end


def kept_task(path: str, fingerprint: str) -> Task | None:
    """Return the loaded task of a YAML whose definition and documents have this fingerprint; None where it is not
    kept."""
    return OPEN.get((path, fingerprint))


def keep_task(path: str, fingerprint: str, task: Task) -> Task:
    """Keep a loaded task, in place of the one whose use is longest ago where there are MOST; return it."""
    OPEN.pop((path, fingerprint), None)
    OPEN[path, fingerprint] = task
    while len(OPEN) > MOST:
        del OPEN[next(iter(OPEN))]
    return task
