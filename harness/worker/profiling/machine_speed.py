"""Times a fixed matrix product before and after a cell's work, so that a machine that slows down is noticed.

The product is always the same: two square fp32 matrices from a fixed seed, with the cell's number of threads, or on
its GPU. So its speed tells of the machine and of nothing that the cell does. Not covered: what is made of the figures
(`analysis`), and the peak by which utilisation is counted (`flops.matmul_peak`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from harness.records import Fact
from harness.worker.profiling.meter import synchronise

# Rows of each matrix. A product takes some milliseconds on a few cores. A GPU needs a larger one: there the launch of a
# small product takes longer than the product.
SIDES = {"cpu": 512, "cuda": 2048}
SECONDS = 0.025  # of products that are timed: about 10 on one core, enough for a median
WARM_UP_SECONDS = 0.005  # of products before: the first ones wake threads and clocks
LEAST = 5  # products that are timed on the slowest machine


def speed_facts(name: str, threads: int) -> list[Fact]:
    """Measures the machine's speed with this number of threads and returns it as the fact `name`, in FLOP/s; no fact
    where the GPU's memory has no room for the product."""
    import torch

    try:
        return [Fact(name, machine_speed(threads), "FLOP/s")]
    except torch.OutOfMemoryError:  # the cell has its result already; the figure is not worth more
        return []


def machine_speed(threads: int) -> float:
    """Returns the FLOP/s of a fixed product of two square fp32 matrices: the median over `SECONDS` of products.

    It runs on the GPU where there is one, else on the CPU with this number of threads. No random state and no setting
    of torch is changed for what comes after.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = SIDES[device]
    threads_before, precision_before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # no TF32, whatever the cell's method has chosen
    try:
        with torch.inference_mode():
            generator = torch.Generator().manual_seed(0)
            one, other = (torch.randn(side, side, generator=generator).to(device) for _ in range(2))
            product = torch.empty(side, side, device=device)

            def seconds() -> float:
                started = time.perf_counter()
                torch.mm(one, other, out=product)
                synchronise()
                return time.perf_counter() - started

            timed(seconds, WARM_UP_SECONDS, 1)
            return float(2 * side**3 / statistics.median(timed(seconds, SECONDS, LEAST)))
    finally:
        torch.set_num_threads(threads_before)
        torch.set_float32_matmul_precision(precision_before)
        if device == "cuda":
            # What cuBLAS keeps for its products would count as memory of the phase "load". torch has no public name for
            # this; without it the cell's figure is some MiB too high, and nothing else is wrong.
            getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()


def timed(seconds: Callable[[], float], total: float, least: int) -> list[float]:
    """Returns what repeated calls of `seconds` return (how long a piece of work took), until they add up to `total` and
    there are `least` of them."""
    found: list[float] = []
    while len(found) < least or sum(found) < total:
        found.append(seconds())
    return found
