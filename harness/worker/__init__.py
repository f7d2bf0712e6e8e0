"""[4] In: a folder with one cell's `job.json`. Out, in the same folder: `result.json`, items, weights and logs.

One cell runs in a process of its own. The training loop, scoring and every instrument live here, and nothing that
plans, stores or reports does.
"""

from pathlib import Path

__all__ = ["run"]


def run(folder: Path, device: str = "cpu") -> None:
    """Do the job in `folder` on `device`; whatever happens, a result is written. Loads torch when it is called."""
    from harness.worker.cell import run as run_cell

    run_cell(folder, device)
