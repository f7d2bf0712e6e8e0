"""How things look on a terminal: tables, records, download bars, and the live table of a run."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.execute.local import Progress, Running
    from harness.plan import Plan
    from harness.records import Cell

REFRESH_SECONDS = 0.5


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def show_table(title: str, columns: list[str], rows: list[list[Any]], right: frozenset[str] = frozenset()) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        narrow = column in (
            "cell",
            "key",
            "label",
            "method",
            "model",
            "task",
        )  # names are copied from here: never broken
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=narrow)
    for row in rows:
        table.add_row(*[str(value) for value in row])
    Console().print(table)


@contextmanager
def download_bars() -> Iterator[Any]:
    """A progress callback (description, done bytes, total bytes) that draws bars; lines where it is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        seen: set[str] = set()

        def line(name: str, done: int, total: int) -> None:
            if name not in seen:
                seen.add(name)
                print(name, file=sys.stderr, flush=True)

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        ids: dict[str, Any] = {}

        def draw(name: str, done: int, total: int) -> None:
            if name not in ids:
                ids[name] = bars.add_task(name, total=None)
            bars.update(ids[name], completed=done, total=total or None)

        yield draw


def show_detail(detail: dict[str, Any], indent: int = 0) -> None:
    """A nested record as indented lines; lists of records as lines of their values."""
    pad = "  " * indent
    for key, value in detail.items():
        if isinstance(value, dict) and value:
            print(f"{pad}{key}:")
            show_detail(value, indent + 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{pad}{key}:")
            for row in value:
                cells = [f"{name}={short(item)}" for name, item in row.items() if item not in (None, "", [], {})]
                print(f"{pad}  - " + "  ".join(cells))
        else:
            print(f"{pad}{key}: {short(value)}")


def short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --- the live table ---


@contextmanager
def watcher(plan: Plan, states: dict[str, str]) -> Iterator[Callable[[Progress], None]]:
    """A function that shows a Progress: a live table on a terminal, a line per ended cell elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    told = {name for name, state in states.items() if state != "to do"}
    clock = time.monotonic()

    def tell(progress: Progress) -> None:
        for number, cell in enumerate(plan.cells, start=1):
            state = progress.states[cell.spec_digest]
            if state not in ("to do", "running") and cell.spec_digest not in told:
                told.add(cell.spec_digest)
                seconds = progress.seconds.get(cell.spec_digest, 0.0)
                place = f"[{number}/{len(plan.cells)}]"
                console.print(f"{place:>9} {state:<11} {seconds:6.1f} s  {cell.key}", highlight=False, markup=False)

    if not console.is_terminal:
        yield tell
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        last = 0.0

        def draw(progress: Progress) -> None:
            nonlocal last
            tell(progress)
            if time.monotonic() - last > REFRESH_SECONDS:
                last = time.monotonic()
                live.update(table(progress, time.monotonic() - clock))

        yield draw


def table(progress: Progress, elapsed: float) -> Any:
    from rich.table import Table

    counts = Counter(str(state) for state in progress.states.values())
    left = time_left(progress)
    summary = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    title = f"{progress.plan.suite.name}: {summary} · {clock_text(elapsed)} gone"
    title += f", about {clock_text(left)} left" if left is not None else ""
    if progress.stopping:
        title += " · stopping after the running cells (Ctrl-C again: now)"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("cell", "state", "step", "loss", "seconds"):
        shown.add_column(name, justify="left" if name in ("cell", "state") else "right")
    for running in progress.running:
        news = running.events()
        step = f"{news['step']}/{news['steps']}" if "step" in news else ""
        loss = f"{news['loss']:.3f}" if "loss" in news else ""
        shown.add_row(running.cell.key, news.get("phase", "start"), step, loss, f"{running.seconds:.0f}")
    waiting = [cell for cell in progress.plan.cells if progress.states[cell.spec_digest] == "to do"]
    for cell in waiting[:5]:
        shown.add_row(cell.key, "to do", "", "", "", style="dim")
    if len(waiting) > 5:
        shown.add_row(f"… and {len(waiting) - 5} more", "", "", "", "", style="dim")
    return shown


def time_left(progress: Progress) -> float | None:
    """Seconds until the end, from the cells done so far: those of the same label if any, else all."""
    by_label: dict[str, list[float]] = {}
    cells = {cell.spec_digest: cell for cell in progress.plan.cells}
    for name, seconds in progress.seconds.items():
        if progress.states[name] == "done":
            by_label.setdefault(cells[name].label, []).append(seconds)
    everything = [seconds for group in by_label.values() for seconds in group]
    if not everything:
        return None

    def expected(cell: Cell) -> float:
        known = by_label.get(cell.label, everything)
        return sum(known) / len(known)

    def rest(running: Running) -> float:
        return max(0.0, expected(running.cell) - running.seconds)

    waiting = sum(expected(cell) for cell in cells.values() if progress.states[cell.spec_digest] == "to do")
    return waiting + sum(rest(running) for running in progress.running)


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
