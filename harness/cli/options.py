"""Holds what commands share: how one is declared, common options, and access to the project, its store and its data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from harness.cli.display import download_bars, say
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.data import Catalog, Download, Facts
    from harness.store import Store
    from harness.suite import Suite

# The first screen of `tunebench --help`, in this order.
GROUPS = ("Begin", "Answer a question", "Run", "Look", "Keep")
Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True)
class Command:
    """A command of the application.

    `--help` lists it in its `group`, with its `summary` (60 characters at most, so that 80 columns hold it), by `place`
    and then by name.
    """

    name: str
    group: str
    summary: str
    function: Callable[..., None]
    place: int = 0


def command(group: str, summary: str, name: str = "", place: int = 0) -> Callable[[Function], Function]:
    """Returns a decorator that makes a function in `harness/cli/commands/` a command, called `name` or, where that is
    "", as the function is. `--help` lists it under `group` with its one-line `summary`, by `place` and then by name.

    Raises ValueError for a group that `GROUPS` does not have.
    """
    if group not in GROUPS:
        raise ValueError(unknown("group of commands", group, GROUPS))

    def marked(function: Function) -> Function:
        vars(function)["command"] = Command(name or function.__name__, group, summary, function, place)
        return function

    return marked


def complete_suite(incomplete: str) -> list[str]:
    """Returns the names of suites that begin with what has been typed, for the shell's completion."""
    from harness.data import find_root
    from harness.suite import suite_files

    return [name for name in suite_files(find_root(Path.cwd())) if name.startswith(incomplete)]


SuiteName = Annotated[
    str, typer.Argument(help="a name in suites/, or a path to a YAML file", autocompletion=complete_suite)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Results = Annotated[
    Path | None,
    typer.Option("--results", envvar="TUNEBENCH_RESULTS", help="results folder (default: results)"),
]


Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="cells at a time (default: one for each accelerator); on a CPU they share the threads"),
]
Memory = Annotated[str | None, typer.Option(help="memory of a device, such as 16GiB, in place of the measured one")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, envvar="TUNEBENCH_THREADS", help="threads of a cell (default: all cores / jobs)"),
]


Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="CELL",
        help="run only this cell and what it needs: a key, a label, or a pattern such as 'lora/*'; repeatable",
    ),
]


Trust = Annotated[
    list[Path] | None,
    typer.Option("--trust", metavar="FILE", help="let the code of this task YAML run, as it is now; repeatable"),
]


def project() -> Catalog:
    """Loads the catalog (its models and tasks) of the project that the current folder lies in, or, outside a project,
    what comes with tunebench, with the current folder as the project's. Raises SuiteError where `models.yaml` is
    wrong."""
    from harness.data import find_root, load_catalog

    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UserError(
            "the current folder is no longer there. Change to one that is (cd), and run it again."
        ) from None
    return load_catalog(find_root(here))


def results(folder: Path | None, catalog: Catalog) -> Store:
    """Returns the store in `folder` or, where that is None, in the folder `results` of the catalog's project."""
    from harness.store import Store

    return Store(folder or catalog.root / "results")


def suite_name(text: str) -> str:
    """Returns the name under which results of a suite are stored, whether `text` is that, the name that `tunebench
    suites` shows, or the path of its file."""
    from harness.suite import suite_name as stored_name

    if text.endswith((".yaml", ".yml")):
        return stored_name(Path(text))
    return stored_name(Path("suites", f"{text}.yaml")) if "/" in text else text


def read_suite(name: str, catalog: Catalog) -> Suite:
    """Loads a suite by its name in `suites/` or by the path of its YAML file. Raises UserError where there is none, and
    SuiteError with all its mistakes."""
    from harness.suite import find_suite, load_suite

    return load_suite(find_suite(name, catalog.root), catalog)


def calm_terminal() -> None:
    """Keeps warnings of libraries off the terminal, also those that they log when they are imported; errors still
    raise. Cells are processes of their own, whose warnings go to their logs."""
    import logging
    import warnings

    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def quiet_libraries() -> None:
    """Silences the notices and progress bars of libraries, which would bury our own; errors still raise."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    calm_terminal()


def get_facts(catalog: Catalog, suite: Suite, trusted: Iterable[Path] = ()) -> Facts:
    """Returns the facts about a suite's models and tasks (sizes, fingerprints, ...); downloads what is missing, with
    progress bars. `trusted` are the task YAMLs whose code the command line lets run; the user is asked about others.

    Raises SourceError for what cannot be downloaded, SuiteError for tasks that cannot be loaded or whose code may not
    run.
    """
    from harness.cli.trusting import settle_trust
    from harness.data import is_offline
    from harness.plan import downloads, fetch_suite, fetched_facts, is_complete

    settle_trust(catalog, suite, trusted)
    facts, missing = fetched_facts(catalog, suite)
    if not missing and is_complete(suite, facts):
        return facts
    quiet_libraries()
    for line in () if is_offline() else download_lines(downloads(catalog, suite)):
        say(line, file=sys.stderr)
    with download_bars() as bars:
        return fetch_suite(catalog, suite, bars)


def download_lines(wanted: list[Download]) -> list[str]:
    """Returns a line for each thing that is about to be downloaded, with its size where that is known, and one for all;
    none where nothing is."""
    from harness.data import cache_root
    from harness.records import quantity

    if not wanted:
        return []
    lines = []
    for one in wanted:
        size = "size not known" if one.size is None else f"about {quantity(one.size, 'B')}"
        lines.append(f"to download: {one.what} {one.name} ({size}; {', '.join(one.places)})")
    known = sum(one.size or 0 for one in wanted)
    more = any(one.size is None for one in wanted)
    total = (
        f"{'more than ' if more else 'about '}{quantity(known, 'B')} in all" if known else "a size that is not known"
    )
    return [*lines, f"{total}, to {cache_root()}"]


def revision_lines(facts: Facts) -> list[str]:
    """Returns a line for each model from the Hub: the commit that it was resolved to, and is used at from now on."""
    return [f"{name} is at commit {model.revision}" for name, model in facts.models.items() if model.revision]


def size_of(text: str | None) -> int | None:
    """Returns the bytes of a text such as "16GiB" or "500MB", None for None. Raises UserError for other text: also for
    a number without a unit, which would be bytes, and is never meant so."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    if text is None:
        return None
    if text.strip().replace(".", "", 1).isdigit():
        raise UserError(
            f"--memory: got {text!r}, a number without a unit. Units: MiB, GiB, TiB (of 1024), MB, GB, TB (of 1000). "
            f"Did you mean {text.strip()}GiB?"
        )
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(
            f"--memory: got {text!r}, wanted a size such as 16GiB or 500MB. Units: MiB, GiB, TiB (of 1024), MB, GB, TB "
            "(of 1000)."
        ) from None


def unfetched_lines(facts: Facts, suite: str) -> list[str]:
    """Returns what to say of models and tasks of which only a description is known; none where all are fetched."""
    if not facts.unfetched:
        return []
    return [
        f"not fetched, known from published descriptions: {', '.join(sorted(facts.unfetched))}",
        "not known before `tunebench fetch " + suite + "`: lengths of texts (so no time, and no memory of scoring), "
        "repeats, leaks and faults in the data",
    ]


def warn(complaints: list[str]) -> None:
    """Prints each complaint to stderr, as a warning."""
    for complaint in complaints:
        say(f"warning: {complaint}", file=sys.stderr)
