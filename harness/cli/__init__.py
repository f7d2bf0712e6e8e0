"""In: a command line, or a call from Python. Out: what is printed, and an exit code or results. The only room that
prints or exits.

Exit codes: 0 all is well; 1 a cell did not end as done, or the system refused something; 2 the input is wrong (one
message, no traceback); 3 and 4 where a command was asked to fail on a verdict (`compare --fail-on`, `regress --gate`).
With `--json` an error is JSON on stdout as well: {"problems": [{"file", "line", "text"}]}.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from harness.cli.commands import all_commands
from harness.cli.display import show_json
from harness.cli.in_python import Results, results, run
from harness.cli.options import GROUPS, calm_terminal
from harness.errors import FullDisk, TunebenchError, UserError, problems_of
from harness.records import printable

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

__all__ = ["Results", "application", "complain", "main", "results", "run"]


LONGEST_WORD, LONGEST_LINE = 500, 1900  # characters that an error shows

# How libraries, which have errors of their own, say that the system refused memory or a thread.
REFUSED = ("failed to map segment", "Cannot allocate memory", "can't start new thread")
# What the system says of a file that is not as it must be, whoever met it.
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)


class Grouped(TyperGroup):
    """The list of commands in `--help`, grouped by what they are for."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Writes the commands into the help text, a section for each of `GROUPS`."""
        commands = all_commands().values()
        for group in GROUPS:
            with formatter.section(group):
                formatter.write_dl([(one.name, one.summary) for one in commands if one.group == group])


def application() -> typer.Typer:
    """Builds the command line, with every command of `harness/cli/commands/`."""
    app = typer.Typer(
        cls=Grouped,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="tunebench: which way of adapting a language model should I use?\n\nExample: tunebench run quickstart",
    )
    for command in all_commands().values():
        app.command(name=command.name)(command.function)
    return app


def main() -> None:
    """Runs the command line and ends the process. An error of tunebench becomes one message and exit code 2 where the
    input is wrong (UserError), else 1. So do a full disk, and memory, files or processes that the system refuses,
    wherever they were met. A reader that closed the output gives exit code 1. Other errors show their traceback."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # of a locale that has no "±"
    calm_terminal()
    try:
        try:
            application()(prog_name="tunebench")
        finally:
            sys.stdout.flush()  # what is printed may go to a full disk as well
    except TunebenchError as error:
        sys.exit(complain(error))
    except BrokenPipeError:
        forget_output()
        sys.exit(1)
    except Exception as error:
        known = of_the_system(error)
        if known is None:
            raise
        forget_output()
        sys.exit(complain(known))


def open_closed_streams() -> None:
    """Opens the null device in place of standard streams that whoever started this closed (`>&-`). Otherwise the next
    file that is opened, such as the database, would take a stream's number and what is printed to it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for the whole process
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115


def of_the_system(error: Exception) -> TunebenchError | None:
    """Returns the error of tunebench for one that says that the system has no more of something (disk, memory, open
    files, processes), or that it refuses a file. None for any other."""
    from harness.store import full_disk, says_full

    named = getattr(error, "filename", None)
    file = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None
    if says_full(error):
        return FullDisk(full_disk(file.parent if file else Path.cwd()))
    if file and getattr(error, "errno", None) in NOT_ALLOWED:
        return TunebenchError(
            f"the system refuses {file}: {getattr(error, 'strerror', '')}. See who may write there, and whether its "
            "folder is one; the cache can be elsewhere (TUNEBENCH_CACHE), and so can results (--results)."
        )
    scarce = getattr(error, "errno", None) in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
    said = any(text in str(error) for text in REFUSED)
    if not (scarce or said or isinstance(error, MemoryError)):
        return None
    text = (str(error).splitlines() or [""])[0]
    return TunebenchError(
        f"the system has no more of something that this command needs ({type(error).__name__}: {text}). Raise its "
        "limits (`ulimit -a` shows them), or end other programs, and run the same command again."
    )


def forget_output() -> None:
    """Turns what is still to be printed to the null device: Python would try again at its end, and fail again."""
    with suppress(OSError, ValueError):  # in tests it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def cut(line: str) -> str:
    """Returns a line of a message without the middle of words and of lines that nobody could read."""
    line = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:200]}… ({len(word[0])} characters)", line)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}… ({len(line)} characters)"


def complain(error: TunebenchError) -> int:
    """Prints an error to stderr and returns the exit code: 2 where the user's input is wrong (UserError), else 1. Where
    the command line has `--json`, its problems are printed to stdout too, as JSON, for the program that reads there."""
    if "--json" in sys.argv[1:]:
        problems = problems_of(error)
        show_json({"problems": [{"file": one.file, "line": one.line, "text": one.message} for one in problems]})
    text = "\n".join(map(cut, printable(str(error)).split("\n")))  # it may quote anybody's file
    print(f"error: {text}" if "\n" not in text else f"errors:\n{text}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1
