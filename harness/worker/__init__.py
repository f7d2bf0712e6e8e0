"""[4] In: a folder with one cell's `job.json`. Out, in the same folder: `result.json`, items, weights and logs.

One cell runs in a process of its own. The training loop, scoring and every instrument live here, and nothing that
plans, stores or reports does.
"""

from pathlib import Path

from harness.worker.asking import Question, Reply, ask
from harness.worker.exporting import Exported, export
from harness.worker.process import FULL, LOST, die_with_parent, use_cuda
from harness.worker.process import main as run_in_process

__all__ = [
    "FULL",
    "LOST",
    "Exported",
    "Question",
    "Reply",
    "ask",
    "die_with_parent",
    "export",
    "run",
    "run_in_process",
    "use_cuda",
]


def run(folder: Path, device: str = "cpu") -> None:
    """Run the job (`job.json`) in an attempt's `folder`, with one process per device where the cell asks for several. A
    result is written there whatever happens. `device` ("cpu", "cuda:0", …) is noted in the result; what is used is the
    GPU that the process sees. Torch is imported only when this is called."""
    from harness.worker.multi_device import run as run_job

    run_job(folder, device)
