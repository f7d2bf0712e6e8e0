"""Tells how many of a task's requests a scored model has answered, for whoever watches."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

EVERY_SECONDS = 1.0  # a line of news a second costs nothing, and a person reads no faster

Tell = Callable[[str, int, int], None]  # (task, requests answered, requests in all)


class RequestProgress:
    """Counts answered requests by task. `tell` is called with (task, answered, asked) once a second at most, and when a
    task is through; without it nothing is told."""

    def __init__(self, tell: Tell | None = None):
        self.tell = tell
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.told = 0.0

    def begin(self, tasks: Sequence[str]) -> None:
        """Begin to count requests; `tasks` has the task of each. Counts of earlier ones are forgotten."""
        self.asked, self.answered, self.told = Counter(tasks), Counter(), 0.0

    def advance(self, tasks: Iterable[str]) -> None:
        """Count requests as answered; `tasks` has the task of each."""
        last = ""
        for last in tasks:
            self.answered[last] += 1
        through = self.answered[last] >= self.asked[last]
        if self.tell and last and (through or time.monotonic() - self.told >= EVERY_SECONDS):
            self.told = time.monotonic()
            self.tell(last, self.answered[last], self.asked[last])
