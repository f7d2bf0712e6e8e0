"""Compares a suite's environments from the command line: makes them, probes them, looks for the cause, and prints
it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from harness.cli.display import show_table
from harness.errors import UserError, counted

if TYPE_CHECKING:
    from harness.analysis import ProbeChange
    from harness.execute import Attribution, MadeEnvironment
    from harness.records import JsonObject, Probe
    from harness.store import Store
    from harness.suite import EnvironmentRequest, Suite

MOST_SETTINGS = 6  # that are shown of one object


@dataclass
class Compared:
    """Two environments next to each other in the list that was asked for, and what was found between them."""

    old: MadeEnvironment
    new: MadeEnvironment
    changes: list[ProbeChange] = field(default_factory=list)
    attributions: list[Attribution] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)  # those that differ, in words


@dataclass
class Regression:
    """The comparison of a suite's environments. `cannot` maps an environment that cannot be made or run to the
    reason."""

    suite: Suite
    requests: Sequence[EnvironmentRequest]
    store: Store
    threads: int
    quiet: bool = False
    made: list[MadeEnvironment] = field(default_factory=list)
    cannot: dict[str, str] = field(default_factory=dict)
    probes: dict[str, list[Probe]] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    tried: int = 0

    def say(self, text: str) -> None:
        """Prints what is being done to stderr."""
        print(text, file=sys.stderr, flush=True)

    def prepare(self) -> None:
        """Makes the environments. One that cannot be made is kept with its reason."""
        from harness.execute import CannotMake, make_environment

        for request in self.requests:
            started = time.monotonic()
            try:
                made = make_environment(request, self.threads)
            except CannotMake as error:
                self.cannot[request.name] = str(error)
                continue
            self.made.append(made)
            exchanged = ", ".join(package.pin for package in made.resolved.packages) or "the installation as it is"
            self.say(f"{made.name}: {exchanged} ({time.monotonic() - started:.0f} s)")
            for _, reason in made.resolved.left_out:
                self.say(f"{made.name}: left out: {reason}")

    def probe(self) -> None:
        """Probes every environment, and compares each one with the one before it."""
        from harness.analysis import probe_changes
        from harness.execute import Between, CannotRun, ProbeRequest, probe

        request = ProbeRequest.of(self.suite)
        for made in self.made:
            started = time.monotonic()
            try:
                self.probes[made.name] = probe(made, request, self.store.folder)
            except CannotRun as error:
                self.cannot[made.name] = str(error)
                continue
            self.say(f"{made.name}: {len(self.probes[made.name])} probes ({time.monotonic() - started:.0f} s)")
        ran = [made for made in self.made if made.name in self.probes]
        for old, new in pairwise(ran):
            between = Between(old, new, self.threads)
            changes = probe_changes(self.probes[old.name], self.probes[new.name])
            packages = [between.change_text(name) for name in between.differing]
            self.compared.append(Compared(old, new, changes, [], packages))

    def bisect(self) -> None:
        """Looks for the packages that made the differences, and for the release in which they turned."""
        from harness.execute import Between, Bisection, ProbeRequest

        for pair in self.compared:
            if not pair.changes:
                continue
            bisection = Bisection(
                Between(pair.old, pair.new, self.threads), ProbeRequest.of(self.suite), self.probes[pair.old.name],
                pair.changes, self.say,
            )  # fmt: skip
            pair.attributions = bisection.attribute()

    @property
    def exit_code(self) -> int:
        """0 where every environment could be compared, else 1."""
        return 1 if self.cannot else 0

    def show(self) -> None:
        """Prints what was found, the cause first."""
        from harness.analysis import moved_sentence
        from harness.execute import ProbeRequest

        for name, reason in self.cannot.items():
            print(f"{name} cannot be compared: {reason}")
        if len(self.probes) < 2:
            raise UserError("fewer than two environments could be run, so there is nothing to compare.")
        names = [label for label in ProbeRequest.of(self.suite).names if self.is_probed(label)]
        for pair in self.compared:
            print(f"\n{pair.old.name} → {pair.new.name}")
            print(f"packages that differ: {'; '.join(pair.packages) or 'none'}")
            print(moved_sentence(pair.changes, names))
            for attribution in pair.attributions:
                print(attribution_sentence(attribution))
            rows = [row for change in pair.changes for row in rows_of(change)]
            if rows:
                show_table("", ["of", "what", "before", "after"], rows)

    def is_probed(self, label: str) -> bool:
        """Returns whether any environment has a probe of a label: methods that train nothing have none."""
        return any(probe.subject == label for probes in self.probes.values() for probe in probes)

    def to_json(self) -> JsonObject:
        """Returns what was found, as JSON."""
        from dataclasses import asdict

        return {
            "suite": self.suite.name,
            "environments": [
                {
                    "name": made.name, "env_digest": made.about.env_digest,
                    "exchanged": [package.pin for package in made.resolved.packages],
                    "left_out": dict(made.resolved.left_out), "python": str(made.python),
                }
                for made in self.made
            ],
            "cannot": self.cannot,
            "compared": [
                {
                    "old": pair.old.name, "new": pair.new.name, "packages": pair.packages,
                    "changes": [asdict(change) for change in pair.changes],
                    "attributions": [asdict(attribution) for attribution in pair.attributions],
                }
                for pair in self.compared
            ],
        }  # fmt: skip


def rows_of(change: ProbeChange) -> Iterator[list[str]]:
    """Yields the rows of a table for one change: of settings a row for each, up to MOST_SETTINGS."""
    if not change.settings:
        yield [change.subject, change.name, change.before, change.after]
        return
    for name, before, after in change.settings[:MOST_SETTINGS]:
        yield [change.subject, f"{change.name}: {name}", before, after]
    if len(change.settings) > MOST_SETTINGS:
        yield [change.subject, f"{change.name}: {len(change.settings) - MOST_SETTINGS} more", "", ""]


def attribution_sentence(attribution: Attribution) -> str:
    """Returns what made a group of readings differ, in words: the package, the release, and what was cleared."""
    subjects = ", ".join(dict.fromkeys(subject for subject, _ in attribution.keys))
    what = f"{counted(len(attribution.keys), 'reading')} of {subjects}"
    cause = attribution.cause
    parts = [f"{' together with '.join(attribution.text)} made {what} differ."]
    if turn := attribution.turn:
        between = f", with {', '.join(turn.untried)} between them untried" if turn.untried else ""
        parts.append(f"Since {cause.changes[0]} {turn.first_new} (not in {turn.last_old}{between}).")
        if turn.again:
            series = ", ".join(f"{version} {answer}" for version, answer in turn.tried)
            parts.append(f"The series goes back and forth: {series}.")
    if cause.cleared:
        parts.append(f"Cleared: {', '.join(cause.cleared)}.")
    if cause.untold:
        parts.append(f"Could not be told apart: {', '.join(cause.untold)}, as the others do not run without them.")
    return " ".join(parts)
