"""Builds the one command that runs a cell again, from what is stored of an attempt at it. Pure.

It checks out the code, installs the packages that results depend on, and runs the cell with what it needs. Not covered:
Python itself and the machine, which `show` names beside it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from harness.cli.options import suite_name
from harness.environment import RESULT_PACKAGES
from harness.records import shell_line

# Options on which a cell's result, or whether it can run, may depend. `--threads` is stored with the attempt.
CARRIED = ("--executor", "--address", "--jobs", "--memory", "--results", "--trials")
FLAGS = ("--allow-bad-instruments",)


COMMIT = re.compile(r"[0-9a-f]{7,64}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")


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
        run = ["tunebench", "tune", suite_named(command, suite), *carried("--method", key.split("/")[0])]
    else:
        run = ["tunebench", "run", suite_named(command, suite), *carried("--only", key), *carried("--retry", status)]
    run += [] if threads is None else ["--threads", str(threads)]
    run += options(command)
    steps = []
    remarks = []
    if commit and not COMMIT.fullmatch(commit):
        remarks.append(f"the stored commit {commit!r} is none: done with the code that is here")
    elif commit and knows_only:
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
    if left_out := [name for name in versions_of(packages) if name not in {one.split("==")[0] for one in requirements}]:
        remarks.append(f"the stored versions of {', '.join(left_out)} are none, and are not installed")
    local = [requirement for requirement in requirements if "+" in requirement]
    if local:
        remarks.append(f"{', '.join(local)}: such a build is had from its maker's index (pip's --extra-index-url)")
    if threads is None:
        remarks.append("the number of threads is not known: results depend on it")
    line = shell_line(run)
    return Again(
        command=" && ".join([*map(shell_line, steps), line]),
        commit=commit,
        dirty=dirty,
        requirements=requirements,
        run=line,
        remarks=tuple(remarks),
    )


def pinned(packages: Mapping[str, str]) -> tuple[str, ...]:
    """Returns "name==version" for each of the installed `packages` (name -> version) that results depend on; all others
    are left out."""
    return tuple(f"{name}=={version}" for name, version in versions_of(packages).items() if VERSION.fullmatch(version))


def versions_of(packages: Mapping[str, str]) -> dict[str, str]:
    """Returns name -> version for those of the installed `packages` that results depend on; what has no version is left
    out."""
    versions = {canonical_name(name): str(version) for name, version in packages.items() if version}
    names = {name: canonical_name(name) for name in RESULT_PACKAGES}
    return {name: versions[canonical] for name, canonical in names.items() if canonical in versions}


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
    """Returns how a stored command named the suite: the path of its YAML file, or its name in a folder of `suites/`,
    where the command has one, else `suite` itself. Neither can be read as an option: such a name is given as a path."""
    words = (word for word in words_of(command) if not word.startswith("-"))
    paths = (word for word in words if ("/" in word or word.endswith((".yaml", ".yml"))) and suite_name(word) == suite)
    name = next(paths, suite)
    return f"./suites/{name}.yaml" if name.startswith("-") else name


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
            found += carried(name, value)
        elif name in CARRIED and place + 1 < len(words):
            found += carried(name, words[place + 1])
    return found


def carried(name: str, value: str) -> list[str]:
    """Returns an option with its value, as words of a command line that cannot be read as two options."""
    return [f"{name}={value}"] if value.startswith("-") else [name, value]
