"""Describes the environment of another machine, and checks that it computes with what the run was planned with."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace

from harness.environment import RESULT_PACKAGES, environment, normal_name
from harness.errors import CellError
from harness.records import Environment


def environment_here(threads: int) -> Environment:
    """Returns the environment of the machine that runs this, for cells of this many CPU threads: a node runs it as a
    task of its own."""
    return environment(threads)


def same_environment(planned: Environment, threads: int) -> Environment:
    """Returns this machine's environment, with the commit of the planned one, whose code it runs. `threads` are those
    of a cell.

    Raises CellError where results may differ from those of the planned environment.
    """
    here = environment(threads)
    if here.env_digest == planned.env_digest:
        return replace(here, commit=planned.commit, dirty=planned.dirty)
    theirs, ours = by_normal_name(planned.packages), by_normal_name(here.packages)
    differences = [
        f"{name} {ours.get(name, 'missing')} instead of {theirs.get(name, 'none')}"
        for name in by_normal_name(dict.fromkeys(RESULT_PACKAGES, ""))
        if ours.get(name) != theirs.get(name)
    ]
    if planned.accelerator != here.accelerator:
        differences.append(f"{here.accelerator or 'no accelerator'} instead of {planned.accelerator or 'none'}")
    raise CellError(
        f"node {socket.gethostname()} would compute something else: {', '.join(differences) or 'another tunebench'}. "
        "Every node needs the packages and the kind of device that the run was planned with"
    )


def by_normal_name(packages: Mapping[str, str]) -> dict[str, str]:
    """Returns the versions of packages by normalised name: lm_eval and lm-eval are the same package."""
    return {normal_name(name): version for name, version in packages.items()}
