"""Describes the environment of a run: what may change its results (`env_digest`), and its provenance.

Imports no torch, so that `plan` can tell quickly which cells are done.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

from harness.records import RESULT_VERSION, Environment, digest

# Packages that compute results. An upgrade of one of these runs the cells again; of any other, not.
RESULT_PACKAGES = (
    "accelerate", "bitsandbytes", "datasets", "galore-torch", "lm_eval", "mergekit", "numpy", "peft", "rouge_score",
    "sacrebleu", "safetensors", "scikit-learn", "sentence-transformers", "setfit", "tokenizers", "torch",
    "transformers", "trl",
)  # fmt: skip


def now() -> str:
    """Returns the current time in UTC as ISO 8601 text, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def environment(threads: int) -> Environment:
    """Returns the environment of this machine and this installation, found once for each number of `threads`: the CPU
    threads that a cell computes with, which are part of `env_digest`."""
    packages = installed_packages()
    by_name = {normal_name(name): version for name, version in packages.items()}
    accelerator, driver = accelerators()
    identity = {
        "packages": {name: by_name.get(normal_name(name), "") for name in RESULT_PACKAGES},
        "device": accelerator or "cpu",
        "threads": threads,
        "result_version": RESULT_VERSION,
    }
    commit, dirty = git_state()
    return Environment(
        env_digest=digest(identity),
        created=now(),
        python=platform.python_version(),
        os=platform.platform(),
        cpu=cpu_name(),
        accelerator=accelerator,
        driver=driver,
        packages=packages,
        commit=commit,
        dirty=dirty,
        threads=threads,
        result_version=RESULT_VERSION,
    )


def installed_packages() -> dict[str, str]:
    """Returns the version of every installed package by its name, sorted by name. Of a package that is there twice, the
    one that is imported counts: the first on the path."""
    versions: dict[str, tuple[str, str]] = {}
    for dist in importlib.metadata.distributions():
        if name := dist.metadata["Name"]:
            versions.setdefault(normal_name(name), (name, version_with_origin(dist)))
    return {name: version for _, (name, version) in sorted(versions.items())}


def version_with_origin(dist: importlib.metadata.Distribution) -> str:
    """Returns the version of an installed package. One that did not come from an index has its origin behind it, as
    another build may go by the same version: "0.21.2 (file 1f2e3d4c)", "0.22.0.dev0 (git 1f2e3d4c)"."""
    try:
        origin = json.loads(dist.read_text("direct_url.json") or "{}")
    except ValueError:
        return dist.version
    commit = origin.get("vcs_info", {}).get("commit_id", "")
    sha256 = origin.get("archive_info", {}).get("hashes", {}).get("sha256", "")
    mark = f" (git {commit[:8]})" if commit else f" (file {sha256[:8]})" if sha256 else ""
    return dist.version + mark


def normal_name(name: str) -> str:
    """Returns a package's name as indexes compare names (PEP 503): lm_eval and lm-eval are the same package."""
    return canonicalize_name(name)


def version_of(name: str) -> str:
    """Returns the installed version of a package; "" where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def accelerators() -> tuple[str, str]:
    """Returns (names of the NVIDIA devices that nvidia-smi lists, joined by ", "; driver version). Two empty strings
    where there are none, or where none is used: torch is built for CPUs, or CUDA_VISIBLE_DEVICES is empty."""
    if "+cpu" in version_of("torch") or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "", ""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "", ""
    rows = [line.split(", ") for line in done.stdout.strip().splitlines()]
    return ", ".join(row[0] for row in rows), rows[0][1] if rows else ""


def cpu_name() -> str:
    """Returns the processor's name and the number of cores that this process may use, as text."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Returns the number of cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_state() -> tuple[str, bool]:
    """Returns (commit of the checkout that this code lies in, whether files differ from that commit); ("", False)
    outside a checkout. Tracked files count, and untracked ones of `suites/` and of the code: a result may come from
    them. An installed package inside somebody's own checkout is no part of it."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        new = git("ls-files", "--others", "--exclude-standard", "--", ":/suites", ":/harness")
        return git("rev-parse", "HEAD"), bool(changed or new)
    except (OSError, subprocess.SubprocessError):
        return "", False


if __name__ == "__main__":  # the environment of this Python, for another one that has started it
    print(json.dumps(asdict(environment(int(sys.argv[1])))))
