"""Runs the same cells in several environments by turns (A B A B …), so that a machine that grows slower or faster does
so to all environments alike."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from harness.execute.executors.base import has_ended
from harness.execute.running import Progress
from harness.execute.session import Session

Watch = Callable[[Session, Progress], None]


@dataclass
class Turns:
    """Sessions that take turns: one cell at a time on the whole machine, and the next to start one is the session that
    has started fewest."""

    sessions: Sequence[Session]
    over: set[int] = field(default_factory=set)

    def may_start(self, number: int) -> bool:
        """Returns whether it is the turn of the session with this number."""
        alive = [other for other in range(len(self.sessions)) if other not in self.over]
        busy = any(self.sessions[other].running for other in alive)
        return not busy and number == min(alive, key=lambda other: (self.sessions[other].started, other))

    def run(self, command: str, watch: Watch) -> bool:
        """Run all cells that are to do. `command` is the command line for the records of the runs; `watch` is called
        often with a session and its progress. Returns True when the user stopped it."""
        courses = []
        for number, session in enumerate(self.sessions):
            session.choices = replace(session.choices, jobs=1, may_start=partial(self.may_start, number))
            courses.append(session.course(command, partial(watch, session)))
        try:
            while len(self.over) < len(courses):
                for number, course in enumerate(courses):
                    if number not in self.over and next(course, None) is None:
                        self.over.add(number)
                self.wait()
        except BaseException as error:
            for number, course in enumerate(courses):
                if number not in self.over:
                    stop(course, error)
            if not isinstance(error, KeyboardInterrupt):
                raise
        return any(session.stopped for session in self.sessions)

    def wait(self) -> None:
        """Return when the cell under way may have ended."""
        alive = [session for number, session in enumerate(self.sessions) if number not in self.over]
        if alive:
            max(alive, key=lambda session: session.running).wait()


def stop(course: Generator[Progress, None, None], error: BaseException) -> None:
    """Raise an error inside a course that has not ended, so that it ends its cells and keeps what is done."""
    if not has_ended(course):
        with suppress(StopIteration, KeyboardInterrupt):
            course.throw(error)


def run_by_turns(sessions: Sequence[Session], command: str, watch: Watch) -> bool:
    """Run the cells of `sessions` that are to do, by turns (see `Turns.run`)."""
    return Turns(sessions).run(command, watch)
