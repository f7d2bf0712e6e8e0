"""[4] In: a folder with one cell's `job.json`. Out, in the same folder: `result.json`, items, weights and logs.

One cell runs in a process of its own. The training loop, scoring and every instrument live here, and nothing that
plans, stores or reports does.
"""

from pathlib import Path

__all__ = ["run"]


def run(folder: Path, device: str = "cpu") -> None:
    """Do the job in `folder` on `device`, by one process a device where it asks for several. Whatever happens, a result
    is written. Loads torch when it is called."""
    from harness.worker.multi_device import run as run_job

    run_job(folder, device)
