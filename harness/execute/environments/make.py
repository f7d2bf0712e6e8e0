"""Makes an environment that was asked for, and describes what it is by what its own Python imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.environment import environment
from harness.execute.environments.overlay import make_isolated, make_overlay
from harness.execute.environments.resolver import CannotMake, ResolvedSet, resolve
from harness.records import Environment, read_record
from harness.suite import EnvironmentRequest

DESCRIBE_SECONDS = 120


@dataclass(frozen=True)
class MadeEnvironment:
    """An environment that cells can run in: the `python` to start, what it is (`about`, as that Python says), and the
    `resolved` set of packages by which it differs from the base."""

    request: EnvironmentRequest
    python: Path
    about: Environment
    resolved: ResolvedSet = field(default_factory=ResolvedSet)

    @property
    def other_python(self) -> Path | None:
        """Its Python, where that is another than this program's; None for the installation as it is."""
        return None if self.python == Path(sys.executable) else self.python

    @property
    def name(self) -> str:
        """What people call it: the words by which it was asked for."""
        return self.request.name


def make_environment(request: EnvironmentRequest, threads: int) -> MadeEnvironment:
    """Returns the environment for a request; one that was made before comes from the cache. `threads` are the CPU
    threads of a cell, which belong to its description. Raises CannotMake with the reason where there is none."""
    if request.is_base:
        return MadeEnvironment(request, Path(sys.executable), environment(threads))
    resolved = resolve(request.requirements)
    python = make_isolated(resolved) if request.isolated else make_overlay(resolved)
    return MadeEnvironment(request, python, describe(python, threads), resolved)


def describe(python: Path, threads: int) -> Environment:
    """Returns what the environment of another Python is, as that Python finds it, with this one's commit. Raises
    CannotMake where it cannot even say that."""
    command = [str(python), "-m", "harness.environment", str(threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DESCRIBE_SECONDS, env=variables(), stdin=subprocess.DEVNULL
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CannotMake(f"its Python cannot start tunebench's worker: {last}")
    here = environment(threads)
    return replace(read_record(Environment, json.loads(done.stdout)), commit=here.commit, dirty=here.dirty)


def variables() -> dict[str, str]:
    """Returns the environment variables of a process in another environment: this process's, without the network."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TUNEBENCH_OFFLINE": "1", "PYTHONNOUSERSITE": "1"}
