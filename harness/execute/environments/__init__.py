"""Environments to run cells in: this program's own packages, some of them in other versions.

In: what people ask for (`--with peft==0.20.0`). Out: a `MadeEnvironment`, the Python of an environment with its
description, or the reason why there is none."""

from __future__ import annotations

from harness.execute.environments.make import MadeEnvironment, describe, make_environment, variables
from harness.execute.environments.overlay import make_overlay
from harness.execute.environments.resolver import CannotMake, Package, ResolvedSet, releases, resolve
from harness.execute.environments.toggle import Between, release_package, release_page

__all__ = [
    "Between",
    "CannotMake",
    "MadeEnvironment",
    "Package",
    "ResolvedSet",
    "describe",
    "make_environment",
    "make_overlay",
    "release_package",
    "release_page",
    "releases",
    "resolve",
    "variables",
]
