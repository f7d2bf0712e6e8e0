"""Compares a suite's environments from the command line: makes them, probes them, looks for the cause, and prints
it."""

from __future__ import annotations

import shlex
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
    from harness.analysis.regression import Regression as CellChanges
    from harness.data import Catalog
    from harness.execute import Attribution, MadeEnvironment, Session
    from harness.execute.executors import Progress
    from harness.plan import Plan
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
    results: CellChanges | None = None
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
    told: dict[str, int] = field(default_factory=dict)  # run -> how many of its cells were said to have ended

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
            self.compared.append(Compared(old, new, changes, packages=packages))

    def run_cells(self, plan: Plan, catalog: Catalog, repeats: int, allow_bad: bool = False) -> None:
        """Runs the cells of a plan in every environment that could be probed, by turns, until each has `repeats`
        finished attempts at every cell; then compares each environment with the one before it. Raises UserError where a
        self-check fails, unless `allow_bad`."""
        from harness.execute import run_by_turns
        from harness.store import sole_writer

        ran = [made for made in self.made if made.name in self.probes]
        with sole_writer(self.store.folder):
            for number in range(repeats):
                sessions = [self.session(made, plan, catalog, number, allow_bad) for made in ran]
                if any(session.waiting for session in sessions):
                    cells = sum(session.waiting for session in sessions)
                    self.say(f"{counted(cells, 'cell')} to run, by turns" + (f" (repeat {number + 1})" * bool(number)))
                    if run_by_turns(sessions, shlex.join(["tunebench", *sys.argv[1:]]), self.watch):
                        raise UserError("stopped; the same command goes on where this ended")
        from harness.analysis.regression import changes_between

        with self.store.open(read_only=True) as connection:
            for pair in self.compared:
                digests = pair.old.about.env_digest, pair.new.about.env_digest
                pair.results = changes_between(connection, *digests, self.suite.name)

    def session(self, made: MadeEnvironment, plan: Plan, catalog: Catalog, number: int, allow_bad: bool) -> Session:
        """Returns the session of an environment for the repeat with this `number` (from 0): cells that have more
        finished attempts than that are left as they are."""
        from harness.execute import Choices, Session
        from harness.trackers import open_trackers

        python = None if made.request.is_base else made.python
        again = frozenset({"done"} if number and self.attempts(made, plan) <= number else ())
        choices = Choices("local", 1, self.threads, again, python=python)
        trackers = open_trackers((), self.say)
        session = Session(plan, self.store, made.about, choices, catalog.root, trackers)
        failed = session.check_instruments(lambda model: self.say(f"{made.name}: checking the instruments on {model}"))
        if failed and not allow_bad:
            told = "\n".join(failed)
            raise UserError(
                f"{made.name}: instruments fail their own checks:\n{told}\n--allow-bad-instruments marks every result."
            )
        return session

    def attempts(self, made: MadeEnvironment, plan: Plan) -> int:
        """Returns how many finished attempts an environment has at the cell of a plan that has fewest."""
        from harness.store import environment_attempts

        counts = dict.fromkeys((cell.spec_digest for cell in plan.cells), 0)
        with self.store.open(read_only=True) as connection:
            for row in environment_attempts(connection, made.about.env_digest):
                if row.spec_digest in counts and row.status == "done":
                    counts[row.spec_digest] += 1
        return min(counts.values(), default=0)

    def watch(self, session: Session, progress: Progress) -> None:
        """Says how each cell ended."""
        name = next(made.name for made in self.made if made.about.env_digest == session.environment.env_digest)
        for cell, status, seconds in progress.ended[self.told.get(session.run_id, 0) :]:
            self.say(f"{name}: {cell.key}: {status} ({seconds:.0f} s)")
        self.told[session.run_id] = len(progress.ended)

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
                show_table("probes that differ", ["of", "what", "before", "after"], rows)
            if pair.results:
                show_results(pair.results)

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
                    "results": asdict(pair.results) if pair.results else None,
                }
                for pair in self.compared
            ],
        }  # fmt: skip


def show_results(found: CellChanges) -> None:
    """Prints what the cells of two environments come to: for each metric what moved as a whole, then every change."""
    for metric in found.metrics:
        print(f"{metric.metric}: {metric.pattern.sentence}.")
    rows = [
        [
            change.metric, change.name or "everything", change.answer,
            {True: "better", False: "worse", None: ""}[change.better], change.effect_text, f"{change.p:.2g}",
        ]
        for change in found.different
    ]  # fmt: skip
    if rows:
        columns = ["metric", "of", "answer", "", "change", "p"]
        show_table("what moved", columns, rows, frozenset({"change", "p"}))
    for names, which in ((found.only_old, "old"), (found.only_new, "new")):
        if names:
            print(f"only the {which} environment has {counted(len(names), 'cell')}: {', '.join(names[:6])}")


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
