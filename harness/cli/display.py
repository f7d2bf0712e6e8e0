"""Prints to a terminal: tables, records, download bars, and the live table of a run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

from harness.records import printable, visible

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.progress import TaskID

    from harness.analysis import TaskOutlook
    from harness.execute import LiveStatus, Row
    from harness.execute.executors import Progress
    from harness.plan import Plan

REFRESH_SECONDS = 0.5
MOST_ROWS, MOST_BAD = 12, 5  # running and failed cells that the live table lists
MOST_LINES = 500  # cells of a plan that are listed
WIDE = 10_000  # columns of what is no terminal: a program reads it, and wants nothing cut


def show_json(value: object) -> None:
    """Prints a value as indented JSON; what JSON has no type for, such as a path, is printed as `str` gives it."""
    print(json.dumps(value, indent=2, default=str))


def say(*parts: object, sep: str = " ", file: TextIO | None = None) -> None:
    """Prints as `print` does, with every sign escaped that a terminal would act on: what is printed may hold names and
    reasons that anybody stored."""
    print(printable(sep.join(map(str, parts))), file=file, flush=file is not None)


def console(stderr: bool = False, fitted: bool = False) -> Console:
    """Makes the console that everything with columns or colours is printed by. In a pipe or a file no line is cut,
    unless COLUMNS says how wide it is; what is `fitted` (it leaves columns out itself, and wraps its prose) has 80
    there. With NO_COLOR set there is neither colour nor bold, as it promises plain text to programs that show none."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    wide = None if fitted or stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else WIDE
    plain: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, width=wide, color_system=plain, highlight=False)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: frozenset[str] = frozenset()
) -> None:
    """Prints rows under their columns; the columns named in `right` hold figures and are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    def plain(value: object) -> Text:
        return Text(printable(str(value)))  # a string would be read as markup: "[/x]" is an error, ":x:" an emoji

    table = Table(title=plain(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Readers copy names and compare figures, so neither is ever wrapped.
        narrow = column in ("cell", "key", "label", "method", "model", "task", *right)
        side: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(plain(column), justify=side, overflow="fold", no_wrap=narrow)
    for row in rows:
        table.add_row(*map(plain, row))
    console().print(table)


@contextmanager
def download_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a callback (description, bytes done, bytes in all or 0 where unknown) that draws a bar for each download
    on stderr. Where that is no terminal, each description is printed once instead."""
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

    screen = console(stderr=True)
    if not screen.is_terminal:
        seen: set[str] = set()

        def line(name: str, done: int, total: int) -> None:
            if name not in seen:
                seen.add(name)
                say(name, file=sys.stderr)

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=screen, transient=True) as bars:
        ids: dict[str, TaskID] = {}

        def draw(name: str, done: int, total: int) -> None:
            if name not in ids:
                ids[name] = bars.add_task(name, total=None)
            bars.update(ids[name], completed=done, total=total or None)

        yield draw


def show_detail(detail: Mapping[str, object], indent: int = 0) -> None:
    """Prints a nested record as indented lines, and a list of records as one line for each, without their empty values.
    `indent` counts levels, of two spaces each."""
    pad = "  " * indent
    for key, value in detail.items():
        if isinstance(value, dict) and value:
            print(f"{pad}{short(key)}:")
            show_detail(value, indent + 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{pad}{key}:")
            for row in value:
                cells = [
                    f"{visible(str(name))}={short(item)}"
                    for name, item in row.items()
                    if item not in (None, "", [], {})
                ]
                print(f"{pad}  - " + "  ".join(cells))
        else:
            print(f"{pad}{short(key)}: {short(value)}")


def short(value: object) -> str:
    """Returns a value as text on one line, a float with six significant digits. Signs that would move the cursor, turn
    text around or begin a new line are escaped: stored text may be anybody's."""
    return f"{value:.6g}" if isinstance(value, float) else visible(str(value))


def show_forecast(name: str, rows: list[Row], jobs: int, bounds: bool = False) -> None:
    """Prints the plan of the suite called `name`: a line for each cell (the first `MOST_LINES`), the reasons of cells
    that cannot run, and how long the cells "to do" may take with `jobs` of them at a time. `bounds`: the lengths of
    some texts are not known, so that memory is a bound of what training takes."""
    waiting = [row for row in rows if row.status == "to do"]
    known = [row.seconds for row in waiting if row.seconds]
    guess = f", about {clock_text(sum(known) / len(known) * len(waiting) / jobs)}" if known else ""
    shown = []
    for row in rows[:MOST_LINES]:
        seconds = f"{'~' * row.guessed}{row.seconds:.0f}" if row.seconds else ""
        memory = f"{row.memory['peak'] / 2**30:.2f}" if row.memory else ""
        shown.append([row.key, row.status, seconds, memory, f"{len(row.needs)} cells" if row.needs else ""])
    title = f"{name}: {len(rows)} cells, {len(waiting)} to run{guess}"
    show_table(title, ["cell", "status", "seconds", "GiB", "after"], shown, frozenset({"seconds", "GiB"}))
    if len(rows) > MOST_LINES:
        say(f"… and {len(rows) - MOST_LINES} more cells (--json lists them all)")
    for row in [row for row in rows if row.reason][:MOST_ROWS]:
        say(f"cannot run: {row.key}: {row.reason}")
    if any(row.guessed for row in rows):
        say("seconds with ~: a guess by the cell's arithmetic and this machine's speed, until one like it has ended")
    if any(row.seconds and not row.guessed for row in rows):
        say("seconds: the mean of its nearest kin among the finished cells of this results folder; of a model without")
        say("any, those of other models, in proportion to its parameters")
    if any(row.memory for row in rows):
        where = "without scoring, and at most: texts of max_length tokens throughout" if bounds else "of its memory"
        say(f"GiB: the predicted peak {where} (--json has the parts, in bytes)")


def show_outlooks(found: list[TaskOutlook]) -> None:
    """Prints, for each learned task, how large a difference between methods must be for its test items to show it, and
    what that forecast assumes."""
    from harness.analysis import outlook_assumption, outlook_sentence

    several = len({one.model for one in found}) > 1
    for one in found:
        say(outlook_sentence(one, several))
    for assumed in dict.fromkeys(outlook_assumption(one) for one in found):
        say(f"assumed: {assumed}")


# --- the live table ---


@contextmanager
def watcher(
    plan: Plan, states: dict[str, str], last_line: Callable[[], str] = lambda: ""
) -> Iterator[Callable[[Progress], None]]:
    """Yields a function that shows a Progress: as a live table on a terminal, as a line for each ended cell elsewhere.
    `states` (spec digest -> status) are those at the start of the run; cells not "to do" then count as finished
    before. `last_line` returns what stands below the table; elsewhere it is printed whenever it has changed."""
    from rich.live import Live
    from rich.text import Text

    screen = console()
    clock = time.monotonic()
    finished = sum(state not in ("to do", "not chosen") for state in states.values())
    printed, told = 0, ""

    def tell(progress: Progress) -> None:
        nonlocal printed, told
        for cell, state, seconds in progress.ended[printed:]:
            printed += 1
            place = f"[{finished + printed}/{sum(progress.counts.values())}]"
            screen.print(Text(f"{place:>9} {state:<11} {seconds:6.1f} s  {visible(cell.key)}"))
        line = last_line()
        if line != told and not screen.is_terminal:
            told = line
            screen.print(Text(visible(line)))

    if not screen.is_terminal:
        yield tell
        return
    with Live(console=screen, refresh_per_second=4, transient=True) as live:
        last = 0.0

        def draw(progress: Progress) -> None:
            nonlocal last
            tell(progress)
            if time.monotonic() - last > REFRESH_SECONDS:
                last = time.monotonic()
                live.update(table(progress, time.monotonic() - clock, last_line()))

        yield draw


def table(progress: Progress, elapsed: float, last_line: str = "") -> Group:
    """Makes the live table of a run: counts by state, what runs, what failed and what was slowest; the longest lists
    are cut. `elapsed` is in seconds since the start; `last_line` stands below, where it is not ""."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from harness.execute import progress_text

    left = None if last_line else progress.seconds_left()  # of a suite that is decided, nobody knows how many cells run
    title = f"{progress.plan.suite.name}: {counts_text(progress.counts)} · {clock_text(elapsed)} gone"
    title += f", about {clock_text(left)} left" if left is not None else ""
    if progress.stopping:
        title += " · stopping after the running cells (Ctrl-C again: now)"
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cell", "state", "progress", "loss", "seconds"):
        shown.add_column(name, justify="left" if name in ("cell", "state") else "right", no_wrap=name == "cell")
    for running in progress.running[:MOST_ROWS]:
        news = running.events()
        loss = f"{news['loss']:.3f}" if "loss" in news else ""
        cells = (
            visible(running.cell.key),
            visible(str(news.get("phase", "start"))),
            visible(progress_text(news)),
            loss,
            f"{running.seconds:.0f}",
        )
        shown.add_row(*map(Text, cells))
    if len(progress.running) > MOST_ROWS:
        shown.add_row(f"… and {len(progress.running) - MOST_ROWS} more that run", "", "", "", "", style="dim")
    notes = []
    bad = [(cell, state) for cell, state, _ in progress.ended if state != "done"]
    for cell, state in bad[-MOST_BAD:]:
        notes.append(Text(f"{state}: {visible(cell.key)}", style="red"))
    if len(bad) > MOST_BAD:
        notes.append(Text(f"… and {len(bad) - MOST_BAD} more that are not done", style="red"))
    done = [(seconds, cell.key) for cell, state, seconds in progress.ended if state == "done"]
    if len(done) > 1:
        seconds, key = max(done)
        notes.append(Text(f"slowest: {visible(key)}, {seconds:.0f} s", style="dim"))
    if last_line:
        notes.append(Text(visible(last_line), style="bold"))
    return Group(Text(title, style="italic"), shown, *notes)


def counts_text(counts: Mapping[str, int]) -> str:
    """Returns counts by state as text, such as "3 done, 1 failed", in alphabetical order; zeros are left out."""
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if count)


def show_status(status: LiveStatus) -> None:
    """Prints the state of a run as seen from another terminal."""
    from harness.execute import progress_text

    state = "is running" if status.alive else "has ended" if status.ended else "was killed; run it again to go on"
    say(f"{status.suite} {state} (run {status.run_id}, pid {status.pid}, since {status.started[:19]}Z)")
    say(f"{status.cells} cells: {counts_text(status.counts)}")
    for message in status.warnings:
        say(f"warning: {message}")
    for sentence in status.machine:
        say(sentence)
    if status.running:
        rows = []
        for row in status.running:
            loss = f"{row['loss']:.3f}" if "loss" in row else ""
            memory = f"{row['rss_bytes'] / 2**30:.2f} GiB" if row["rss_bytes"] else ""
            rows.append([row["key"], row["device"], row.get("phase", "start"), progress_text(row), loss, memory])
        columns = ["cell", "device", "phase", "progress", "loss", "memory"]
        show_table("running", columns, rows, frozenset({"progress", "loss"}))
    if status.slowest:
        rows = [[row["key"], f"{row['seconds']:.1f}"] for row in status.slowest]
        show_table("slowest", ["cell", "seconds"], rows, frozenset({"seconds"}))
    if status.unfinished:
        rows = [[row["key"], row["status"], row["reason"]] for row in status.unfinished[-MOST_ROWS:]]
        show_table("not done", ["cell", "status", "reason"], rows)


def clock_text(seconds: float) -> str:
    """Returns seconds as text: "45 s", "3 min 07 s" or, from two hours on, "2 h 05 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 120:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
