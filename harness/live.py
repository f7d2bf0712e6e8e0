"""The live table of a run: which cells are done, what the running ones are at, how long it will take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.execute.local import Progress, Running
from harness.plan import Plan
from harness.records import Cell, Status

REFRESH_SECONDS = 0.5


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
        if progress.states[name] == Status.DONE:
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
