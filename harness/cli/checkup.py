"""Looks for what would spoil a run on this machine, and names the command that mends it.

Each check tries the thing itself where it can: a matrix is packed by bitsandbytes and multiplied, attention kernels are
run and compared, a file is written. Not covered: whether the instruments measure right (`doctor --instruments`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import UserError

if TYPE_CHECKING:
    import torch

    from harness.store import Store

State = Literal["ok", "note", "problem"]
GIB = 2**30
LEAST_DISK, LEAST_MEMORY = 5 * GIB, 3 * GIB  # the quickstart's models, data and results; a cell of 135M and its process
HUB_SECONDS = 3.0
CLOSE = 0.15  # relative error of a product by 4-bit weights: 0.09 for normal numbers in blocks of 64
SAME = 1e-3  # of attention kernels, whose sums are ordered otherwise; half precision is compared at 2e-2


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: a "note" limits what can be run, a "problem" breaks or spoils a run. `mend` is the
    command, or the step, that mends it; "" where nothing is to be done."""

    name: str
    state: State
    said: str
    mend: str = ""


def findings(store: Store, cache: Path, hub: bool = True) -> list[Finding]:
    """Returns every finding on this machine, for the results in `store` and the cache in the folder `cache`. With
    `hub`, the Hub is asked whether it answers, for `HUB_SECONDS` at the most."""
    looks: list[Callable[[], Iterator[Finding]]] = [
        requirements, devices, packed_weights, attention_kernels, lambda: disk(cache, store.folder), memory,
        lambda: writable(cache, "cache", "TUNEBENCH_CACHE"), lambda: results_folder(store),
    ]  # fmt: skip
    found = []
    for look in [*looks, *([reachable] if hub else [])]:
        try:
            found += list(look())
        except Exception as error:  # a library that is broken may raise anything, also when it is imported
            name = getattr(look, "__name__", "check").replace("_", " ")
            found.append(Finding(name, "problem", f"{type(error).__name__}: {first_line(error)}", REINSTALL))
    return found


REINSTALL = "pip install --force-reinstall -c constraints.txt tunebench"


def first_line(error: Exception) -> str:
    """Returns the first line of what an error says."""
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200]


# --- packages ---


def requirements(package: str = "tunebench") -> Iterator[Finding]:
    """Yields a problem for each installed package that a requirement of `package`, or of what it requires, does not
    allow, and for each that is missing."""
    from packaging.requirements import Requirement

    seen: set[str] = set()
    waiting, wrong = [package], 0
    while waiting:
        of = waiting.pop()
        if of in seen:
            continue
        seen.add(of)
        try:
            texts = importlib.metadata.requires(of) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, texts):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                wrong += 1
                yield Finding("packages", "problem", f"{requirement.name}, which {of} needs, is missing",
                              f'pip install "{plain(requirement)}"')  # fmt: skip
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                wrong += 1
                yield Finding("packages", "problem", f"{of} needs {plain(requirement)}, and {version} is installed",
                              f'pip install "{plain(requirement)}"')  # fmt: skip
            waiting.append(requirement.name)
    if not wrong:
        yield Finding("packages", "ok", f"{len(seen) - 1} packages fit each other")


def plain(requirement: Any) -> str:
    """Returns a requirement without its marker, as pip takes it."""
    return f"{requirement.name}{requirement.specifier}"


# --- devices ---


def devices() -> Iterator[Finding]:
    """Yields what torch computes on, and where a GPU is there that it cannot use."""
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            bf16 = "" if torch.cuda.is_bf16_supported(including_emulation=False) else "; no bf16 in hardware"
            state: State = "note" if free < total / 2 else "ok"
            yield Finding(f"cuda:{number}", state, f"{name}, {free / GIB:.1f} GiB free of {total / GIB:.1f} GiB{bf16}",
                          "nvidia-smi (lists whose processes hold it)" if state == "note" else "")  # fmt: skip
        return
    built = torch.version.cuda or torch.version.hip
    driver = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    if driver and not built:
        yield Finding("devices", "problem", f"a GPU's driver is here, and torch {torch.__version__} is a CPU build",
                      "install the CUDA build of torch: https://pytorch.org/get-started/locally/")  # fmt: skip
    elif driver:
        yield Finding("devices", "problem", f"torch was built for CUDA {built}, and the driver gives it no device",
                      "nvidia-smi (does the driver run? it must be at least as new as that CUDA)")  # fmt: skip
    else:
        yield Finding("devices", "ok", f"no GPU: cells run on {os.cpu_count()} CPU cores")
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.get_num_threads() < (count or 1):
        yield Finding("threads", "note", f"torch uses {torch.get_num_threads()} of {count} cores",
                      "unset OMP_NUM_THREADS")  # fmt: skip


def each_device() -> list[str]:
    """Returns the devices that kernels are tried on."""
    import torch

    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def packed_weights() -> Iterator[Finding]:
    """Yields whether bitsandbytes packs a matrix into 4 bits and multiplies by it, on each device."""
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        yield Finding("bitsandbytes", "note", "not installed: qlora and other packed weights cannot run",
                      "pip install bitsandbytes")  # fmt: skip
        return
    import bitsandbytes

    for device in each_device():
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(128, 128, generator=generator)
        inputs = torch.randn(4, 128, generator=generator)
        layer = bitsandbytes.nn.Linear4bit(128, 128, bias=False, quant_type="nf4", compute_dtype=torch.float32)
        layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        with torch.no_grad():
            product = layer.to(device)(inputs.to(device)).cpu()
        off = apart(product, inputs @ weight.T)
        version = importlib.metadata.version("bitsandbytes")
        if off < CLOSE:
            yield Finding(
                f"bitsandbytes on {device}", "ok", f"{version}: a product by 4-bit weights is off by {off:.0%}"
            )
        else:
            yield Finding(f"bitsandbytes on {device}", "problem",
                          f"{version}: a product by 4-bit weights is off by {off:.0%}, and 10% is usual",
                          "pip install --upgrade bitsandbytes")  # fmt: skip


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Returns the relative error of a tensor against another of the same shape; infinite where it is no number."""
    value = float((found.float() - wanted.float()).norm() / wanted.float().norm())
    return value if value == value else float("inf")


def attention_kernels() -> Iterator[Finding]:
    """Yields which of torch's attention kernels run on each device, and give what the plain formula does."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    names = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
    for device in each_device():
        kind = torch.float32 if device == "cpu" else torch.float16
        generator = torch.Generator().manual_seed(0)
        query, key, value = (torch.randn(1, 4, 16, 64, generator=generator).to(device, kind) for _ in range(3))
        wanted = torch.softmax(query.float() @ key.float().transpose(-1, -2) / 8, -1) @ value.float()
        working: list[str] = []
        wrong: list[str] = []
        for name, backend in names.items():
            try:
                with sdpa_kernel(backend), torch.no_grad():
                    off = apart(scaled_dot_product_attention(query, key, value), wanted)
            except RuntimeError:  # this device has no such kernel
                continue
            (working if off < (SAME if kind == torch.float32 else 2e-2) else wrong).append(name)
        if wrong or not working:
            yield Finding(f"attention on {device}", "problem", f"{', '.join(wrong) or 'sdpa'} gives wrong values",
                          "train: {attention: eager} in the suite, and a newer torch")  # fmt: skip
        else:
            yield Finding(f"attention on {device}", "ok", f"sdpa runs as {', '.join(working)}")
    if torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is None:
        yield Finding("flash_attention_2", "note", "not installed: suites cannot ask for it by name; sdpa has its own",
                      "pip install flash-attn")  # fmt: skip


# --- places ---


def disk(cache: Path, results: Path) -> Iterator[Finding]:
    """Yields how much room the disks of cache and results have."""
    for name, path in {"cache": cache, "results": results}.items():
        free = shutil.disk_usage(nearest(path)).free
        low = free < LEAST_DISK
        yield Finding(f"disk of {name}", "problem" if low else "ok", f"{free / GIB:.1f} GiB free at {path}",
                      "tunebench cache (says what can go)" if low else "")  # fmt: skip


def nearest(path: Path) -> Path:
    """Returns the path itself if it exists, else the nearest folder above it that does."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def memory() -> Iterator[Finding]:
    """Yields how much memory is free."""
    import psutil

    found = psutil.virtual_memory()
    low = found.available < LEAST_MEMORY
    yield Finding("memory", "note" if low else "ok",
                  f"{found.available / GIB:.1f} GiB free of {found.total / GIB:.1f} GiB",
                  "stop other programs; `tunebench plan SUITE` says what each cell needs" if low else "")  # fmt: skip


def writable(folder: Path, name: str, variable: str) -> Iterator[Finding]:
    """Yields a problem where no file can be written to a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        yield Finding(name, "problem", f"{folder} cannot be written: {error.strerror or error}",
                      f"export {variable}=FOLDER (one that can)")  # fmt: skip


def results_folder(store: Store) -> Iterator[Finding]:
    """Yields whether the results folder can be read, and whether it can be written."""
    if not store.folder.exists():
        return
    try:
        if store.path.exists():
            with store.look() as connection:
                (count,) = connection.execute("SELECT count(*) FROM attempts").fetchone() or (0,)
            yield Finding("results", "ok", f"{store.folder}: {count} attempts")
    except UserError as error:
        yield Finding("results", "problem", str(error), "tunebench rebuild")
    yield from writable(store.folder, "results", "TUNEBENCH_RESULTS")


def reachable() -> Iterator[Finding]:
    """Yields whether the Hub answers, and whether a token is set for gated models."""
    from harness.data import is_offline

    if is_offline():
        yield Finding("Hub", "note", "not asked: this machine is set to work offline",
                      "unset HF_HUB_OFFLINE TUNEBENCH_OFFLINE TRANSFORMERS_OFFLINE")  # fmt: skip
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        request = urllib.request.Request(f"{endpoint}/api/models?limit=1", headers={"User-Agent": "tunebench"})
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except (urllib.error.URLError, OSError, ValueError) as error:
        yield Finding("Hub", "note", f"{endpoint} does not answer ({first_line(error)}): models and data that are not "
                      "fetched yet cannot be had from there",
                      "export HF_ENDPOINT=https://MIRROR, or HF_HUB_OFFLINE=1 to work without")  # fmt: skip
        return
    from huggingface_hub import get_token

    token = "a token is set" if get_token() else "no token: gated models need one (`hf auth login`)"
    yield Finding("Hub", "ok", f"{endpoint} answers; {token}")
