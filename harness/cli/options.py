"""What commands share: the application, their common options, and the ways to a project, its store and its data."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.display import download_bars
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data import Catalog
    from harness.store import Store
    from harness.suite import Suite

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="tunebench: which way of adapting a language model should I use?\n\nExample: tunebench run quickstart",
)

SuiteName = Annotated[str, typer.Argument(help="a name in suites/, or a path to a YAML file")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Results = Annotated[
    Path | None,
    typer.Option("--results", envvar="TUNEBENCH_RESULTS", help="results folder (default: results)"),
]


Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="cells at a time (default: one an accelerator); on a CPU they share the threads"),
]
Memory = Annotated[str | None, typer.Option(help="memory of a device, such as 16GiB, in place of what is found")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads a cell (default: all cores / jobs)")]


Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="CELL", help="this cell alone and what it needs: a key, a label, or 'lora/*'"),
]


def project() -> Catalog:
    from harness.data import find_root, load_catalog

    return load_catalog(find_root(Path.cwd()))


def results(folder: Path | None, catalog: Catalog) -> Store:
    from harness.store import Store

    return Store(folder or catalog.root / "results")


def read_suite(name: str, catalog: Catalog) -> Suite:
    from harness.suite import find_suite, load_suite

    return load_suite(find_suite(name, catalog.root), catalog)


def quiet_libraries() -> None:
    """Libraries' own notices and bars would bury ours; what fails still raises."""
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def get_facts(catalog: Catalog, suite: Suite) -> Any:
    from harness.plan import fetch_suite, known_facts, uncounted, unseen

    facts, missing = known_facts(catalog, suite)
    if not missing and not uncounted(suite, facts) and not unseen(suite, facts):
        return facts
    quiet_libraries()
    with download_bars() as bars:
        return fetch_suite(catalog, suite, bars)


def size_of(text: str | None) -> int | None:
    """Bytes of "16GiB" or "500MB". Raises UserError."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(f"--memory: got {text!r}, wanted a size such as 16GiB or 500MB.") from None


def warn(complaints: list[str]) -> None:
    for complaint in complaints:
        print(f"warning: {complaint}", file=sys.stderr)
