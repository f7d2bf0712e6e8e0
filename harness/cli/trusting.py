"""Asks, before a task's own code runs for the first time, whether it may; and says what a suite's tasks would run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SuiteError, UserError, unknown
from harness.records import printable, visible

if TYPE_CHECKING:
    from harness.data import Catalog, TaskCode
    from harness.suite import Suite


def codes_of(catalog: Catalog, suite: Suite) -> dict[str, TaskCode]:
    """Returns task -> the code that it runs, for each task of a suite that runs code beyond tunebench's and lm-eval's
    own. YAML that cannot be read runs nothing: loading it says what is wrong."""
    from harness.data import code_of

    codes = {}
    for name in suite.task_names():
        try:
            code = code_of(catalog.task_path(name))
        except (OSError, ValueError):
            continue
        if code.runs:
            codes[name] = code
    return codes


def described(codes: dict[str, TaskCode]) -> list[dict[str, Any]]:
    """Returns for each task what it runs, from which file and with which digest, and whether that is trusted."""
    from harness.data import trust

    return [
        {
            "task": name,
            "file": str(code.path),
            "runs": list(code.runs),
            "digest": code.digest,
            "trusted": trust.is_trusted(code),
        }
        for name, code in codes.items()
    ]


def code_lines(codes: dict[str, TaskCode]) -> list[str]:
    """Returns a line for each task that runs code: what it runs, and whether that is trusted."""
    from harness.data import trust

    lines = []
    for name, code in codes.items():
        state = "trusted" if trust.is_trusted(code) else "not trusted yet: the first fetch or run asks"
        runs = "; ".join(map(visible, code.runs))
        lines.append(f"code: {visible(f'{name} ({shortest(code.path)})')} runs {runs} ({state})")
    return lines


def shortest(path: Path) -> str:
    """Returns a path relative to the current folder where it lies in it, else as it is."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)


def settle_trust(catalog: Catalog, suite: Suite, files: Iterable[Path] = ()) -> None:
    """Makes sure that all code which a suite's tasks run is trusted. The YAMLs in `files` are trusted from now on, as
    they are now; about others the user is asked on a terminal, once.

    Raises UserError for a file that is no task of the suite, and SuiteError where code is not trusted.
    """
    from harness.data import trust

    codes = codes_of(catalog, suite)
    tasks = {catalog.task_path(name).resolve(): name for name in suite.task_names()}
    for file in files:
        if file.resolve() not in tasks:
            known = [shortest(path) for path in tasks]
            raise UserError(unknown("task YAML", file, known, f"--trust names the file of a task of {suite.name}."))
    chosen = {tasks[file.resolve()] for file in files}
    trust.grant(code for name, code in codes.items() if name in chosen)
    open_codes = {name: code for name, code in codes.items() if not trust.is_trusted(code)}
    if not open_codes:
        return
    if somebody_can_answer():
        for name, code in list(open_codes.items()):
            if asked(name, code):
                trust.grant([code])
                del open_codes[name]
    if open_codes:
        raise SuiteError(
            suite.lines.problem(
                f"task {name!r} ({visible(shortest(code.path))}) runs code that is not trusted: "
                f"{'; '.join(map(visible, code.runs))}. {trust.advice([code])}",
                *suite.place_of(name),
            )
            for name, code in open_codes.items()
        )


def somebody_can_answer() -> bool:
    """Returns whether a question is seen and can be answered: both ends are a terminal."""
    return bool(sys.stdin and sys.stdin.isatty() and sys.stderr.isatty())


def asked(name: str, code: TaskCode) -> bool:
    """Asks on the terminal whether a task's code may run. Returns False for anything but a yes."""

    lines = [
        f"The task {visible(name)} runs code of its own, from {visible(str(code.path))}:",
        *(f"  - {visible(line)}" for line in code.runs),
        "It can do whatever you can do. Let it run, now and later, as long as it stays as it is? [y/N] ",
    ]
    print(printable("\n".join(lines)), end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        return False
