"""Builds the one command that runs a cell again, from what is stored of an attempt at it. Pure.

It checks out the code, installs the packages that results depend on, and runs the cell with what it needs. Not covered:
Python itself and the machine, which `show` names beside it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.environment import RESULT_PACKAGES

# Options on which a cell's result, or whether it can run, may depend. `--threads` is stored with the attempt.
CARRIED = ("--executor", "--address", "--jobs", "--memory", "--results", "--trials")
FLAGS = ("--allow-bad-instruments",)


@dataclass(frozen=True)
class Again:
    """The way to run a cell again. `command` is one line for a shell; its parts are the `commit` to check out, the
    `requirements` ("name==version") to install and `run`, the tunebench command. `dirty`: files differed from the
    commit, if any. `remarks` say what the command cannot bring back, such as uncommitted changes."""

    command: str
    commit: str
    dirty: bool
    requirements: tuple[str, ...]
    run: str
    remarks: tuple[str, ...]


def again(
    *, suite: str, key: str, status: str, command: str, knows_only: bool, commit: str, dirty: bool,
    packages: Mapping[str, str], threads: int | None,
) -> Again:  # fmt: skip
    """Builds the command that runs an attempt at the cell `key` of `suite` again. `status` is how that attempt ended,
    `command` the command line of its run, whose options are kept; `packages` are its installed packages (name ->
    version), `commit` and `dirty` the state of its git checkout ("" without one).

    `knows_only`: the tunebench of that commit has `--only`; without it the commit is not checked out. `threads` is the
    number of threads of the cell, None where it is not known.
    """
    requirements = pinned(packages)
    if words_of(command)[:2] == ["tunebench", "tune"]:  # the suite itself may have another budget
        run = ["tunebench", "tune", suite_named(command, suite), "--method", key.split("/")[0]]
    else:
        run = ["tunebench", "run", suite_named(command, suite), "--only", key, "--retry", status]
    run += [] if threads is None else ["--threads", str(threads)]
    run += options(command)
    steps = []
    remarks = []
    if commit and knows_only:
        steps.append(["git", "checkout", commit])
        if dirty:
            remarks.append("the files differed from this commit: uncommitted changes are not brought back")
    elif commit:
        changes = " with uncommitted changes" if dirty else ""
        remarks.append(f"made at commit {commit}{changes}, which has no --only yet: done with the code that is here")
    else:
        remarks.append("made outside a git checkout: done with the code that is here")
    if requirements:
        steps.append(["pip", "install", *requirements])
    local = [requirement for requirement in requirements if "+" in requirement]
    if local:
        remarks.append(f"{', '.join(local)}: such a build is had from its maker's index (pip's --extra-index-url)")
    if threads is None:
        remarks.append("the number of threads is not known: results depend on it")
    line = shlex.join(run)
    return Again(
        command=" && ".join([*map(shlex.join, steps), line]),
        commit=commit,
        dirty=dirty,
        requirements=requirements,
        run=line,
        remarks=tuple(remarks),
    )


def pinned(packages: Mapping[str, str]) -> tuple[str, ...]:
    """Returns "name==version" for each of the installed `packages` (name -> version) that results depend on; all others
    are left out."""
    versions = {canonical_name(name): version for name, version in packages.items()}
    names = {name: canonical_name(name) for name in RESULT_PACKAGES}
    return tuple(f"{name}=={versions[canonical]}" for name, canonical in names.items() if versions.get(canonical))


def canonical_name(name: str) -> str:
    """Returns a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def words_of(command: str) -> list[str]:
    """Splits a stored command line into words as a shell does; at spaces where its quotes do not match."""
    try:
        return shlex.split(command)
    except ValueError:  # commands of old runs were stored without quotes
        return command.split()


def suite_named(command: str, suite: str) -> str:
    """Returns how a stored command named the suite: the path of its YAML file where the command has one, else `suite`
    itself."""
    paths = (word for word in words_of(command) if word.endswith((".yaml", ".yml")) and Path(word).stem == suite)
    return next(paths, suite)


def options(command: str) -> list[str]:
    """Returns the options of a stored command on which a cell's result may depend (those in `CARRIED`, with their
    values, and in `FLAGS`), as words of a command line."""
    words = words_of(command)
    found: list[str] = []
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word in FLAGS:
            found.append(word)
        elif name in CARRIED and equals:
            found += [name, value]
        elif name in CARRIED and place + 1 < len(words):
            found += [name, words[place + 1]]
    return found
